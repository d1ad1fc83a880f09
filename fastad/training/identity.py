"""What tells one training from another, so that none is resumed by mistake."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from fastad.models import AnomalyModel
from fastad.training.batches import read_batch
from fastad.training.checkpoint import CheckpointError
from fastad.training.config import TrainingConfig
from fastad.training.record import TrainingRecord

# Hashes and lists, whose values tell a reader nothing.
_OPAQUE = ("untrained weights", "images", "held-out images")
# These may differ: epochs may be added; workers change nothing; the others change the rounding,
# which `changes` says.
_FREE = ("epochs", "workers", "device", "precision", "feature_cache_gib")


def identify(
    model: AnomalyModel, config: TrainingConfig, dataset: Dataset | Tensor, held_out: Tensor
) -> dict[str, Any]:
    """Names and plain JSON values of all that must be the same for a training to be resumed.

    Of the model its name, its options as far as JSON holds them, and a hash of what is not trained
    (the teachers); of the data the number and shape of the images and a hash: of the bytes of a
    tensor, the ``fingerprint`` of a data set that has one.
    """
    trained = model.trained_state()
    frozen = {k: v for k, v in model.state_dict().items() if k not in trained}
    fingerprint = getattr(dataset, "fingerprint", None)
    if isinstance(dataset, Tensor):
        fingerprint = _hash([dataset])
    image = read_batch(dataset, [0], config.seed)["image"]
    identity = {
        "model": model.name,
        "untrained weights": _hash(frozen[name] for name in sorted(frozen)),
        "number of images": len(dataset),
        "image shape": list(image.shape[1:]),
        "images": fingerprint,
        "held-out images": held_out.tolist(),
    }
    for option in dataclasses.fields(model.config):
        value = getattr(model.config, option.name)
        value = str(value) if isinstance(value, os.PathLike) else value
        if _is_json(value):
            identity[f"model option {option.name}"] = value
    for name, value in dataclasses.asdict(config).items():
        if name not in _FREE:
            identity[f"training option {name}"] = value
    return json.loads(json.dumps(identity))


def require_same(
    path: str | Path, found: dict[str, Any], wanted: dict[str, Any], done: int, epochs: int
) -> None:
    """Refuse to resume another training; ``done`` epochs are in the file, ``epochs`` asked for.

    Raises:
        CheckpointError: names the file and what differs, with both values.
    """
    names = [*wanted, *(name for name in found if name not in wanted)]
    differing = [
        f"{name} differ"
        if name in _OPAQUE
        else f"{name} {_short(found.get(name))} in the file, {_short(wanted.get(name))} now"
        for name in names
        if found.get(name) != wanted.get(name)
    ]
    if epochs < done and not differing:
        raise CheckpointError(f"{path} has {done} epochs done, more than the {epochs} asked for")
    if differing:
        raise CheckpointError(f"{path} belongs to another training: {'; '.join(differing)}")


def changes(then: TrainingRecord, now: TrainingRecord) -> list[str]:
    """Notes on what may differ, but lets the numbers round otherwise than without interruption."""
    pairs = {
        name: (getattr(then, name), getattr(now, name))
        for name in ("device", "precision", "threads")
    }
    pairs |= {name: (then.versions.get(name), value) for name, value in now.versions.items()}
    cache = "feature_cache_gib"
    pairs[cache] = (then.config.get(cache), now.config[cache])
    return [
        f"resumed after epoch {then.epochs} with {name} {value} instead of {before}: the weights "
        "differ in rounding from those of an uninterrupted training"
        for name, (before, value) in pairs.items()
        if before != value
    ]


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True


def _hash(tensors: Iterable[Tensor]) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        # In pieces, because a data set may be large and lie on a device or in another layout.
        for piece in tensor.detach().reshape(-1).split(1 << 24):
            digest.update(piece.cpu().contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]
