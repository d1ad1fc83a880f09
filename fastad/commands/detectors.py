"""The detectors of a command that takes several: files, names, and which images each judges."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fastad.commands import UsageError
from fastad.detector import Detector, load


@dataclass(frozen=True)
class Given:
    """A detector as it stands on the command line.

    Attributes:
        name: that of its file without ending, or the whole path where several share that.
        file: to load.
        pattern: of the images that it judges. None for those of its name.
    """

    name: str
    file: str
    pattern: str | None = None


def given_detectors(texts: Sequence[str], rule: str | None) -> list[Given]:
    """Detectors given as ``FILE`` or ``PATTERN=FILE``. Raises UsageError."""
    if len(texts) == 1 and rule is not None:
        raise UsageError("--rule needs several detectors")
    parts = [_parts(text) for text in texts]
    if rule in (None, "best") and any(pattern is not None for pattern, _ in parts):
        raise UsageError("PATTERN=FILE needs --rule folder or --rule name")
    files = [file for _, file in parts]
    repeated = next((file for file in files if files.count(file) > 1), None)
    if repeated is not None:
        raise UsageError(f"the detector {repeated} is given twice")
    stems = [Path(file).stem for file in files]
    names = [s if stems.count(s) == 1 else f for s, f in zip(stems, files, strict=True)]
    return [Given(name, file, pattern) for name, (pattern, file) in zip(names, parts, strict=True)]


def load_to_predict(
    file: str,
    *,
    roi: str | None,
    min_area: str | None,
    mm_per_pixel: float | None,
    false_positive_rate: float | None,
    device: str,
    precision: str,
    batch_size: int,
    tile: str | None = None,
) -> Detector:
    """A detector with what the command line asks of it. None leaves what its file says."""
    loaded = load(file, device=device, precision=precision, batch_size=batch_size, tile=tile)
    if roi is not None:
        loaded.set_roi(roi)
    if min_area is not None:
        loaded.set_min_area(min_area, mm_per_pixel=mm_per_pixel)
    if false_positive_rate is not None:
        loaded.set_threshold(false_positive_rate=false_positive_rate)
        loaded.set_pixel_threshold(false_positive_rate=false_positive_rate)
    return loaded


def _parts(text: str) -> tuple[str | None, str]:
    pattern, sign, file = text.partition("=")
    if not sign or Path(text).exists():
        return None, text
    if not pattern or not file:
        raise UsageError(f"a detector is FILE or PATTERN=FILE; got {text}")
    return pattern, file
