"""``fastad threshold``: another threshold for a detector file, by a rate or by its value."""

from pathlib import Path

from fastad.commands import UsageError
from fastad.commands.output import check_detector_target, note
from fastad.detector import load
from fastad.inference import Artifact


def threshold(
    detector: str,
    *,
    rate: float | None,
    value: float | None,
    output: str | None,
    min_area: str | None = None,
    mm_per_pixel: float | None = None,
) -> None:
    """Write the file anew, or another one to ``output``.

    A rate sets the pixel threshold, too. A value is one of scores, and leaves it as it is. A
    smallest area, as of `Detector.set_min_area`, sets both by the rate, the file's own without one.
    """
    if rate is not None and value is not None:
        raise UsageError("give either --rate or --value")
    if rate is None and value is None and min_area is None:
        raise UsageError("give either --rate or --value, or --min-area")
    target = output or detector
    if not Path(detector).exists():
        raise FileNotFoundError(f"there is no detector file {detector}")
    check_detector_target(target)
    loaded = load(detector, device="cpu")
    before = loaded.threshold_
    if rate is not None:
        loaded.set_threshold(false_positive_rate=rate)
        loaded.set_pixel_threshold(false_positive_rate=rate)
    if min_area is not None:
        loaded.set_min_area(min_area, mm_per_pixel=mm_per_pixel)
    if value is not None:
        loaded.set_threshold(value=value)
    artifact = loaded._artifact
    is_now = "none" if artifact.threshold is None else f"{artifact.threshold:.6g}"
    was = "there was none" if before is None else f"it was {before:.6g}"
    loaded.save(target)
    note(f"saved {target}: threshold {is_now} ({was}), {false_alarms(artifact)}")


def false_alarms(artifact: Artifact) -> str:
    """What is known of the good images that a detector with a threshold will call anomalous."""
    kept, asked, held_out = artifact.kept_rate, artifact.asked_rate, artifact.judging.size
    if kept is None:
        return "false alarms unknown: no images were held out"
    wish = "no rate was asked for" if asked is None else f"asked for: {percent(asked)}"
    images = f"{held_out} held-out image{'s' * (held_out != 1)}"
    return f"at most {percent(kept)} false alarms by {images} ({wish})"


def percent(rate: float) -> str:
    """Two digits of a rate, and no zeros after the point."""
    return f"{100 * rate:.2g} %" if rate < 0.995 else "100 %"
