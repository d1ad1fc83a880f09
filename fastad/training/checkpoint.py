"""A training that can be taken up again, in one file without pickle.

The file is a safetensors file. Its tensors are named by what they belong to: ``model.`` the trained
part now, ``best.`` that of the best epoch where it is another, ``optimizer.`` the optimizer's
state, ``generator.`` the states of the random generators. Its header's metadata holds ``format``
("fastad-checkpoint"), ``format_version``, ``checkpoint``, a JSON object with everything else, and
``sha256``, over that text and the tensors.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import save
from torch import Tensor

from fastad._files import write_atomically
from fastad.training.record import TrainingRecord

FORMAT = "fastad-checkpoint"
FORMAT_VERSION = 2  # 1 knew of no stages, and is still read


class CheckpointError(ValueError):
    """A file is no checkpoint that this training can go on from; the message names it and why."""


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
    text = json.dumps(content)
    # Copies, because two names may share one memory.
    tensors = {
        name: value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, value in tensors.items()
    }
    metadata = {
        "format": FORMAT,
        "format_version": str(FORMAT_VERSION),
        "checkpoint": text,
        "sha256": _digest(text, tensors),
    }
    data = save(tensors, metadata)
    try:
        write_atomically(path, lambda temporary: temporary.write_bytes(data))
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
    if not Path(path).is_file():
        raise CheckpointError(f"{path} is a folder, not a checkpoint")
    metadata, tensors = _read(path)
    try:
        version = int(metadata["format_version"])
        if version > FORMAT_VERSION:
            raise CheckpointError(
                f"{path} was written by a newer fastad (format {version}, this one reads up to "
                f"{FORMAT_VERSION}): update fastad"
            )
        if metadata["sha256"] != _digest(metadata["checkpoint"], tensors):
            raise CheckpointError(f"{path} is damaged: its checksum does not match its content")
        return _checkpoint(json.loads(metadata["checkpoint"]), tensors)
    except CheckpointError:
        raise
    except Exception as error:  # any field may be missing or hold anything
        reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        raise CheckpointError(f"{path} cannot be read as a checkpoint ({reason})") from error


def _read(path: str | Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise CheckpointError(f"{path} is a safetensors file, but no fastad checkpoint")
            # Copies: these tensors outlive the file, which the next epoch replaces.
            names = file.keys()
            return metadata, {name: file.get_tensor(name).clone() for name in names}
    except (CheckpointError, PermissionError):
        raise
    except Exception as error:  # the reader's own error class, and others for odd headers
        raise CheckpointError(f"{path} is no fastad checkpoint, or damaged: {error}") from error


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


def _digest(text: str, tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        value = tensors[name]
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
