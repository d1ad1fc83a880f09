"""A training that can be taken up again, in one file without pickle.

A sealed file (`fastad._sealed`). Its tensors are named by what they belong to: ``model.`` the
trained part now, ``best.`` that of the best epoch where it is another, ``optimizer.`` the
optimizer's state, ``generator.`` the states of the random generators. Its object, ``checkpoint``,
is everything else.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from fastad._sealed import Sealed
from fastad.training.record import TrainingRecord

FORMAT = "fastad-checkpoint"
FORMAT_VERSION = 2  # 1 knew of no stages, and is still read


class CheckpointError(ValueError):
    """A file is no checkpoint that this training can go on from; the message names it and why."""


SEALED = Sealed("checkpoint", FORMAT, FORMAT_VERSION, CheckpointError)


@dataclass
class Checkpoint:
    """A training at the end of an epoch; optimizer and best epoch are those of the last stage.

    Attributes:
        identity: which training it is; see `fastad.training.identity`.
        record: of the epochs so far.
        model: the trained part of the model's state dict.
        best: that of the best epoch.
        optimizer: state dict of a torch optimizer: tensors, and what JSON can hold.
        scaler: state dict of a torch GradScaler: numbers; empty where it is not enabled.
        generators: states of random generators by name, uint8.
    """

    identity: dict[str, Any]
    record: TrainingRecord
    model: dict[str, Tensor]
    best: dict[str, Tensor]
    optimizer: dict[str, Any]
    scaler: dict[str, Any]
    generators: dict[str, Tensor]


def save_checkpoint(path: str | Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint, atomically: on any error the file that was there stays as it was.

    Raises:
        OSError: the file cannot be written.
        TypeError: the optimizer has an option or state that is neither a tensor nor JSON.
    """
    tensors = {f"model.{name}": value for name, value in checkpoint.model.items()}
    stage = checkpoint.record.stages[-1]
    if stage.best_epoch != stage.epochs:
        tensors |= {f"best.{name}": value for name, value in checkpoint.best.items()}
    tensors |= {f"generator.{name}": value for name, value in checkpoint.generators.items()}
    values: dict[int, dict[str, Any]] = {}
    for index, state in checkpoint.optimizer["state"].items():
        values[index] = {k: v for k, v in state.items() if not isinstance(v, Tensor)}
        tensors |= {f"optimizer.{index}.{k}": v for k, v in state.items() if isinstance(v, Tensor)}
    content = {
        "identity": checkpoint.identity,
        "record": checkpoint.record.to_dict(),
        "optimizer": {"state": values, "param_groups": checkpoint.optimizer["param_groups"]},
        "scaler": checkpoint.scaler,
    }
    try:
        SEALED.write(path, content, tensors)
    except OSError as error:
        raise type(error)(
            f"cannot write the checkpoint {path} after epoch {stage.epochs}: "
            f"{error.strerror or error}"
        ) from error


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read what `save_checkpoint` wrote; tensors are on the CPU.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: it is damaged, of another kind, or written by a newer version.
    """
    if not Path(path).exists():
        raise FileNotFoundError(
            f"there is no checkpoint {path} to go on from: start without resuming"
        )
    return SEALED.read(path, _checkpoint)


def _checkpoint(content: dict[str, Any], tensors: dict[str, Tensor]) -> Checkpoint:
    parts: dict[str, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        part, _, rest = name.partition(".")
        parts.setdefault(part, {})[rest] = value
    record = TrainingRecord.from_dict(content["record"])
    stage = record.stages[-1]
    state = {int(index): dict(values) for index, values in content["optimizer"]["state"].items()}
    for name, value in parts.get("optimizer", {}).items():
        index, _, entry = name.partition(".")
        state[int(index)][entry] = value
    model = parts["model"]
    return Checkpoint(
        identity=content["identity"],
        record=record,
        model=model,
        best=model if stage.best_epoch == stage.epochs else parts["best"],
        optimizer={"state": state, "param_groups": content["optimizer"]["param_groups"]},
        scaler=content["scaler"],
        generators=parts["generator"],
    )
