"""``fastad calibrate``: thresholds from fresh good images, without another training."""

from pathlib import Path

from fastad.commands.output import (
    check_detector_target,
    check_result_target,
    note,
    refuse_overwriting,
    skipped,
    waiting,
    write_json,
)
from fastad.commands.threshold import percent
from fastad.detector import load
from fastad.inference.known_images import listed


def calibrate(
    detector: str,
    images: str,
    *,
    output: str | None,
    json: str | None,
    false_positive_rate: float | None,
    roi: str | None,
    skip_bad: bool,
    device: str,
    precision: str,
    batch_size: int,
) -> None:
    """Write the file anew, or another one to ``output``; say how the old promise did.

    Raises ValueError or OSError for images or a target that cannot be; the file stays as it was.
    """
    paths = [Path(path) for path in listed(images)]
    target = output or detector
    targets = [target, *([] if json in (None, "-") else [str(json)])]
    refuse_overwriting([Path(name) for name in targets[1:]], [Path(detector), *paths])
    refuse_overwriting([Path(name) for name in targets], [*paths, *([Path(roi)] if roi else [])])
    loaded = load(detector, device=device, precision=precision, batch_size=batch_size)
    check_detector_target(target)
    for name in targets[1:]:
        check_result_target(name)
    with waiting("calibrating"), skipped() as skip:
        result = loaded.calibrate(
            images,
            false_positive_rate=false_positive_rate,
            roi=roi,
            skip=skip if skip_bad else None,
        )
    loaded.save(target)
    if json is not None:
        write_json(json, result.to_dict())
    note(result.summary)
    for text in result.notes:
        note(f"note: {text}")
    was = "there was none" if result.old_threshold is None else f"it was {result.old_threshold:.6g}"
    note(
        f"saved {target}: threshold {result.threshold:.6g} ({was}), at most "
        f"{percent(result.kept_rate)} false alarms by {result.images} fresh images"
    )
