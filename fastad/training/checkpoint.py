"""A training that can be taken up again, in one file without pickle.

A sealed file (`fastad._safe_file`). Its tensors are named by what they belong to: ``model.`` the
trained part now, ``best.`` that of the best epoch where it is another, ``optimizer.`` the
optimizer's state (of a stage's second step ``optimizer1.`` and so on), ``generator.`` the states of
the random generators. Its object, ``checkpoint``, is everything else.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from fastad._safe_file import SafeFile
from fastad.training.record import TrainingRecord

FORMAT = "fastad-checkpoint"
FORMAT_VERSION = 2  # 1 knew of no stages, and is still read


class CheckpointError(ValueError):
    """A file is no checkpoint that this training can go on from; the message names it and why."""


FILE = SafeFile("checkpoint", FORMAT, FORMAT_VERSION, CheckpointError)


class StepState(NamedTuple):
    """What trains one step of a stage.

    Attributes:
        optimizer: state dict of a torch optimizer: tensors, and what JSON can hold.
        scaler: state dict of a torch GradScaler: numbers; empty where it is not enabled.
    """

    optimizer: dict[str, Any]
    scaler: dict[str, Any]


@dataclass
class Checkpoint:
    """A training at the end of an epoch; steps and best epoch are those of the last stage.

    Attributes:
        identity: which training it is; see `fastad.training.identity`.
        record: of the epochs so far.
        model: the trained part of the model's state dict.
        best: that of the best epoch.
        steps: what trains each step of the stage, by its name, in order.
        generators: states of random generators by name, uint8.
    """

    identity: dict[str, Any]
    record: TrainingRecord
    model: dict[str, Tensor]
    best: dict[str, Tensor]
    steps: dict[str, StepState]
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
    content: dict[str, Any] = {
        "identity": checkpoint.identity,
        "record": checkpoint.record.to_dict(),
    }
    for number, (name, step) in enumerate(checkpoint.steps.items()):
        values: dict[int, dict[str, Any]] = {}
        part = _part(number)
        for index, state in step.optimizer["state"].items():
            values[index] = {k: v for k, v in state.items() if not isinstance(v, Tensor)}
            tensors |= {f"{part}.{index}.{k}": v for k, v in state.items() if isinstance(v, Tensor)}
        optimizer = {"state": values, "param_groups": step.optimizer["param_groups"]}
        if number == 0:  # as it was before a stage could have several
            content |= {"optimizer": optimizer, "scaler": step.scaler}
        if len(checkpoint.steps) > 1:
            content.setdefault("steps", []).append(name)
        if number:
            content[part] = {"optimizer": optimizer, "scaler": step.scaler}
    try:
        FILE.write(path, content, tensors)
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
    return FILE.read(path, _checkpoint)


def _checkpoint(content: dict[str, Any], tensors: dict[str, Tensor]) -> Checkpoint:
    parts: dict[str, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        part, _, rest = name.partition(".")
        parts.setdefault(part, {})[rest] = value
    record = TrainingRecord.from_dict(content["record"])
    stage = record.stages[-1]
    steps = {}
    for number, name in enumerate(content.get("steps", ["step"])):
        part = _part(number)
        saved = content[part] if number else content
        optimizer = saved["optimizer"]
        state = {int(index): dict(values) for index, values in optimizer["state"].items()}
        for key, value in parts.get(part, {}).items():
            index, _, entry = key.partition(".")
            state[int(index)][entry] = value
        whole = {"state": state, "param_groups": optimizer["param_groups"]}
        steps[name] = StepState(whole, saved["scaler"])
    model = parts["model"]
    return Checkpoint(
        identity=content["identity"],
        record=record,
        model=model,
        best=model if stage.best_epoch == stage.epochs else parts["best"],
        steps=steps,
        generators=parts["generator"],
    )


def _part(number: int) -> str:
    """What the names of a step's tensors begin with."""
    return f"optimizer{number or ''}"
