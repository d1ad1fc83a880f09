"""What tells one training from another, so that none is resumed by mistake."""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastad._values import plain
from fastad.data.depth import PixelRange
from fastad.data.folder import Images
from fastad.models import AnomalyModel, model_class
from fastad.training.batches import read_batch, split_of
from fastad.training.checkpoint import Checkpoint, CheckpointError, load_checkpoint
from fastad.training.config import (
    OF_PSEUDO_ANOMALIES,
    STAGE_OPTIONS,
    STEP_OPTIONS,
    TrainingConfig,
)
from fastad.training.record import StageRecord, TrainingRecord
from fastad.training.stages import StagePlan, plan_stages

# Hashes and lists, whose values tell a reader nothing.
_OPAQUE = (
    "untrained weights",
    "images",
    "held-out images",
    "region of interest",
    "pseudo-anomalies",
    "training option textures",
    "training option defects",
)
_LATER = (
    "schedule",
    "own_patches",
    "on_foreground",
    "defects",
    "defect_images",
    "variants",
    "corrupt",
    "foreign",
)
# These may differ: epochs may be added; floors change epochs and batches, which are compared;
# workers change nothing; the others change the rounding, which `changes` says.
_FREE = (
    "epochs",
    "min_steps",
    "min_batches",
    "workers",
    "device",
    "precision",
    "feature_cache_gib",
    "feature_disk_gib",
)


def identify(
    model: AnomalyModel,
    config: TrainingConfig,
    plans: Sequence[StagePlan],
    dataset: Images,
    held_out: Tensor,
    pixel_range: PixelRange | None = None,
) -> dict[str, Any]:
    """Names and plain JSON values of all that must be the same for a training to be resumed.

    Of the model its name, its options as far as JSON holds them, and a hash of what is not trained
    (the teachers); of the data the number and shape of the images and a hash: of the bytes of a
    tensor, the ``fingerprint`` of a data set that has one; of each stage the options that it has.
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
    if model.roi is not None:
        identity["region of interest"] = _hash([model.roi.mask])
    if model.started_from is not None:
        identity["start_from"] = model.started_from
    if pixel_range is not None:  # left out for 8 bits, as it was before there was a range
        identity["bit depth"] = pixel_range.option
    for option in dataclasses.fields(model.config):
        value = plain(getattr(model.config, option.name))
        if _is_json(value):
            identity[f"model option {option.name}"] = value
    if len(plans) > 1:
        identity["stages"] = [plan.stage.name for plan in plans]
    for plan in plans:
        prefix = f"stage {plan.stage.name}: " if len(plans) > 1 else ""
        of_stage = plan.stage.pseudo_anomalies
        for name in STAGE_OPTIONS:
            of_defects = name in OF_PSEUDO_ANOMALIES
            value = getattr(plan.config, name)
            if name in ("textures", "defects") and value is not None and of_stage:
                value = getattr(plan.train_set, name).fingerprint  # wherever the folder lies
            # Left out, as it was before there were such options.
            absent = name in _LATER and value == getattr(TrainingConfig, name)
            if name not in _FREE and not absent and (of_stage or not of_defects):
                identity[f"{prefix}training option {name}"] = value
        if len(plan.steps) > 1:
            for step, of_step in zip(plan.stage.steps, plan.steps, strict=True):
                for name in STEP_OPTIONS:
                    identity[f"{prefix}step {step.name}: training option {name}"] = getattr(
                        of_step, name
                    )
        if plan.trial is not None:
            identity[f"{prefix}epoch chosen by"] = f"{len(plan.trial)} synthesised defects"
        if of_stage:
            fingerprint = getattr(plan.train_set, "fingerprint", None)
            identity[f"{prefix}pseudo-anomalies"] = fingerprint
    for name, value in dataclasses.asdict(config).items():
        absent = name in _LATER and value == getattr(TrainingConfig, name)
        if name not in (*_FREE, *STAGE_OPTIONS, "stages") and not absent:
            identity[f"training option {name}"] = value
    return json.loads(json.dumps(identity))


def settled_options(
    identity: dict[str, Any], model: str, options: dict[str, Any]
) -> dict[str, Any]:
    """What options of a model that are "auto" came to in the training of an identity.

    A resumed training goes on with the same networks, whatever weights could be had by now. Of
    sources of weights only "embedded" is taken over: any other was asked for.
    """
    if identity.get("model") != model:
        return {}
    found = {}
    for field in dataclasses.fields(model_class(model).Config):
        settled = identity.get(f"model option {field.name}")
        is_name = isinstance(settled, str) and not field.name.endswith("_weights")
        if options.get(field.name, field.default) == "auto" and (is_name or settled == "embedded"):
            found[field.name] = settled
    return found


def require_same(
    path: str | Path, found: dict[str, Any], wanted: dict[str, Any], later: Sequence[str] = ()
) -> None:
    """Refuse to resume another training; stages named in ``later`` have not begun and are free.

    Raises:
        CheckpointError: names the file and what differs, with both values.
    """
    names = [*wanted, *(name for name in found if name not in wanted)]
    differing = [
        f"{name} differ"
        if name.rpartition(": ")[2] in _OPAQUE
        else f"{name} {_short(found.get(name))} in the file, {_short(wanted.get(name))} now"
        for name in names
        if found.get(name) != wanted.get(name)
        and not any(name.startswith(f"stage {stage}: ") for stage in later)
    ]
    if differing:
        raise CheckpointError(f"{path} belongs to another training: {'; '.join(differing)}")


def require_epochs(
    path: str | Path, done: Sequence[StageRecord], plans: Sequence[StagePlan]
) -> None:
    """Refuse fewer epochs than a stage has done, and more for one that is over.

    Raises:
        CheckpointError: names the file, the stage and both numbers.
    """
    for record, plan in zip(done[:-1], plans, strict=False):
        name, epochs = record.name, plan.config.epochs
        if record.epochs != epochs and plan.stage.trains:
            raise CheckpointError(
                f"{path}: stage {name} is over after {record.epochs} epochs and the next stage was "
                f"trained on its result, but {epochs} are asked for now: keep them with --stage "
                f"{name}.epochs={record.epochs}"
            )
    current, config = done[-1], plans[len(done) - 1].config
    epochs, planned = config.epochs, current.config["epochs"]
    of_stage = f" of stage {current.name}" if len(plans) > 1 else ""
    if current.epochs > epochs:
        raise CheckpointError(
            f"{path} has {current.epochs} epochs{of_stage} done, more than the {epochs} asked for"
        )
    if config.schedule != "constant" and epochs != planned:
        raise CheckpointError(
            f"{path}: its learning rate falls over {planned} epochs{of_stage} (schedule "
            f"{config.schedule}), but {epochs} are asked for now"
        )


def found_again(
    path: str | Path, identity: dict[str, Any], plans: Sequence[StagePlan]
) -> Checkpoint:
    """The checkpoint to go on from, of the training of an identity.

    Raises:
        FileNotFoundError, CheckpointError: there is none, or it is of another training.
    """
    found = load_checkpoint(path)
    later = [plan.stage.name for plan in plans[len(found.record.stages) :]]
    require_same(path, found.identity, identity, later)
    require_epochs(path, found.record.stages, plans)
    return found


def require_resumable(
    path: str | Path,
    model: AnomalyModel,
    config: TrainingConfig,
    dataset: Images,
    held_out: Sequence[int] | None,
    pixel_range: PixelRange | None,
) -> None:
    """Refuse, before any work, a training that `Trainer.fit` could not resume.

    Arguments are its own. Errors as `found_again` and `plan_stages`.
    """
    split = split_of(len(dataset), held_out, config.validation_fraction, config.seed)
    plans = plan_stages(model, config, dataset, *split, pixel_range)
    found_again(path, identify(model, config, plans, dataset, split[1], pixel_range), plans)


def changes(then: TrainingRecord, now: TrainingRecord, of_stage: str) -> list[str]:
    """Notes on what may differ, but lets the numbers round otherwise than without interruption."""
    pairs = {
        name: (getattr(then, name), getattr(now, name))
        for name in ("device", "precision", "threads", "processes")
    }
    pairs |= {name: (then.versions.get(name), value) for name, value in now.versions.items()}
    for room in ("feature_cache_gib", "feature_disk_gib"):
        pairs[room] = (then.config.get(room, now.config[room]), now.config[room])
    return [
        f"resumed after epoch {then.stages[-1].epochs}{of_stage} with {name} {value} instead of "
        f"{before}: the weights differ in rounding from those of an uninterrupted training"
        for name, (before, value) in pairs.items()
        if before != value
    ]


def weights_digest(model: AnomalyModel) -> str:
    """Of all that was trained, 16 hexadecimal digits: which weights a training goes on from."""
    trained = model.trained_state()
    return _hash(trained[name] for name in sorted(trained))


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
