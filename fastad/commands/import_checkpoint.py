"""``fastad import``: a detector from a checkpoint of another package."""

from pathlib import Path
from typing import Annotated

import typer

from fastad.commands import UsageError

Checkpoint = Annotated[
    str,
    typer.Argument(
        metavar="CHECKPOINT",
        help="Read this .ckpt or .pt of anomalib's STFPM. Nothing in it is run.",
    ),
]
Calibrate = Annotated[
    str | None,
    typer.Option(
        metavar="GOOD_IMAGES",
        help="Take the thresholds from the good images in this folder. The training must not have "
        "read them.",
        show_default="none, give --keep-thresholds",
    ),
]
Output = Annotated[
    str, typer.Option("--output", metavar="DETECTOR.fastad", help="Write the detector here.")
]
KeepThresholds = Annotated[
    bool,
    typer.Option(
        "--keep-thresholds",
        help="Take the thresholds of the file's own validation. They keep no known rate.",
    ),
]
ImageSize = Annotated[
    str | None,
    typer.Option(
        help="Resize images to this size: 256, or 640x256 (height x width).",
        show_default="the size of the file's transform",
    ),
]


def import_checkpoint(
    checkpoint: str,
    *,
    calibrate: str | None,
    output: str,
    false_positive_rate: float,
    keep_thresholds: bool,
    image_size: str | None,
    device: str,
    batch_size: int,
) -> None:
    """Write a detector file, and say what differs from the other package.

    Raises ValueError or OSError for a file, images or a target that cannot be.
    """
    from fastad.commands.output import check_detector_target, note, refuse_overwriting, waiting
    from fastad.commands.threshold import false_alarms
    from fastad.compat import anomalib

    if (calibrate is None) == (not keep_thresholds):
        raise UsageError("give either --calibrate or --keep-thresholds")
    refuse_overwriting([Path(output)], [Path(checkpoint)])
    check_detector_target(output)
    with waiting("importing"):
        detector = anomalib.import_checkpoint(
            checkpoint,
            calibrate,
            false_positive_rate=false_positive_rate,
            keep_thresholds=keep_thresholds,
            image_size=image_size,
            device=device,
            batch_size=batch_size,
        )
    detector.save(output)
    artifact = detector._artifact
    height, width = artifact.image_size
    if calibrate is not None:
        note(f"note: {anomalib.UNKNOWN_IMAGES}")
    note(
        f"saved {output}: {artifact.model.config.backbone}, {height}x{width}, "
        f"threshold {artifact.threshold:.6g}, {false_alarms(artifact)}"
    )
