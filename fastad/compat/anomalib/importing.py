"""From a checkpoint of anomalib's STFPM to a detector of fastad, with a threshold of its own."""

import logging
from pathlib import Path
from typing import Any

import torch

from fastad._values import plain
from fastad.compat.anomalib.checkpoint import Checkpoint, fill, read_checkpoint
from fastad.data.images import parse_size
from fastad.detector import Detector
from fastad.inference import Artifact
from fastad.models.stpm import STPM, STPMConfig

log = logging.getLogger("fastad")

UNKNOWN_IMAGES = (
    "which images anomalib trained on is not known: the threshold is too low where some of them "
    "were given to calibrate"
)


def import_checkpoint(
    path: str | Path,
    calibrate: Any = None,
    *,
    false_positive_rate: float = 0.01,
    keep_thresholds: bool = False,
    image_size: int | str | tuple[int, int] | None = None,
    device: str = "auto",
    batch_size: int = 32,
) -> Detector:
    """Make a detector from a checkpoint of anomalib's STFPM: its networks, size and map.

    Nothing in the file is run. The anomaly map is anomalib's to 1e-5 on the same pixels, and the
    score is its maximum. What differs is said, and kept in ``training_record_["notes"]``.

    Args:
        path: a ``.ckpt`` of Lightning, or a ``.pt`` of anomalib's ``Engine.export``.
        calibrate: good images that anomalib did not train on: a folder, or any form of
            `fastad.data.inputs`. They give the threshold (`Detector.calibrate`).
        false_positive_rate: largest share of good images that may be called anomalous.
        keep_thresholds: take the thresholds of the file's validation instead, by their values.
        image_size: as of `Detector`, instead of the size of the file's transform.
        device: as of `Detector`.
        batch_size: images in one step of prediction.

    Returns:
        The detector. It can be saved, exported and calibrated again, as any other.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file cannot be imported, there is neither ``calibrate`` nor
            ``keep_thresholds``, the file has no thresholds to keep, or as `Detector.calibrate`.

    Examples:
        ``import_checkpoint("model.ckpt", "bottle/good").save("bottle.fastad")``
    """
    if calibrate is None and not keep_thresholds:
        raise ValueError("calibrate: give good images for a threshold, or keep_thresholds=True")
    checkpoint = read_checkpoint(path)
    if keep_thresholds and checkpoint.image_threshold is None:
        raise ValueError(f"keep_thresholds: {path} has none, as it was never validated")
    size = checkpoint.image_size
    if image_size is not None:
        chosen = parse_size(plain(image_size))
        if size is not None and chosen != size:
            checkpoint.differences.append(
                f"images are resized to {chosen[0]}x{chosen[1]}, the file's are to "
                f"{size[0]}x{size[1]}"
            )
        size = chosen
    if size is None:
        raise ValueError(
            f"image_size: the transform of {path} resizes to no fixed size; give one, such as 256"
        )
    for text in checkpoint.differences:
        log.warning(text)
    model = _model(checkpoint)
    notes = [*checkpoint.differences, *([] if calibrate is None else [UNKNOWN_IMAGES])]
    artifact = Artifact(
        model=model,
        image_size=size,
        calibration=torch.empty(0).numpy(),
        false_positive_rate=false_positive_rate,
        threshold=None,
        training={
            "model": model.name,
            "imported_from": checkpoint.path.name,
            "teachers": {"teacher": checkpoint.path.name},
            "notes": notes,
        },
    )
    detector = Detector(
        model.name,
        image_size=size,
        device=device,
        batch_size=batch_size,
        false_positive_rate=false_positive_rate,
        **_options(checkpoint),
    )
    predictor = artifact.predictor(device=device, batch_size=batch_size)
    detector._set_artifact(artifact, predictor)
    if calibrate is not None:
        detector.calibrate(calibrate)
    if keep_thresholds:
        detector.set_threshold(value=checkpoint.image_threshold)
        if checkpoint.pixel_threshold is not None:
            detector.set_pixel_threshold(value=checkpoint.pixel_threshold)
    return detector


def _options(checkpoint: Checkpoint) -> dict[str, Any]:
    """Those of an STPM that answers as anomalib's does."""
    return {
        "backbone": checkpoint.backbone,
        "layers": checkpoint.layers,
        "standardize": "none",
        "scale_maps": "none",
        "scale_score": "none",
        "pooling": "maximum",
        "subspace": False,
    }


def _model(checkpoint: Checkpoint) -> STPM:
    with torch.random.fork_rng(devices=[]):  # the random weights are replaced at once
        model = STPM(STPMConfig(**_options(checkpoint), teacher_weights=None))
    fill(checkpoint, "teacher", model.teacher.backbone)
    fill(checkpoint, "student", model.student)
    return model.eval()
