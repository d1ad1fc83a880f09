"""``fastad export``: a detector as a file for another runtime, compared with it first."""

from pathlib import Path

from fastad.commands import UsageError
from fastad.commands.output import check_writable, note, refuse_overwriting, waiting
from fastad.data import images_without_masks
from fastad.export.export import TOLERANCE, export_detector
from fastad.export.formats import FORMATS, check_packages
from fastad.inference import load


def export(
    detector: str, *, format: str, output: str | None, images: str | None, fused_ops: bool
) -> None:
    """Export; the file goes beside the detector, with the format's suffix, unless named.

    ``images``: a folder or an image to compare on, random images where None.
    """
    check_packages(format)
    suffix = FORMATS[format].suffix
    target = Path(output or Path(detector).with_suffix(suffix))
    check_writable(str(target))
    paths = None if images is None else _paths(images)
    refuse_overwriting([target], [Path(detector), *(paths or [])])
    if not target.name.endswith(suffix):
        raise UsageError(f"--output: the file of the format {format} must end in {suffix}")
    with waiting(f"loading {detector}"):
        artifact = load(detector)
    note(f"exporting {artifact.model.name} to {format}")
    with waiting("exporting"):
        result = export_detector(artifact, target, format, images=paths, fused_ops=fused_ops)
    what = "random images" if paths is None else images
    note(f"compared with the detector on {what}, {TOLERANCE:g} allowed: {result}")
    note(f"saved {target}")


def _paths(images: str) -> list[Path]:
    path = Path(images)
    if not path.exists():
        raise FileNotFoundError(f"there is no image and no folder {images}")
    paths = images_without_masks(path) if path.is_dir() else [path]
    if not paths:
        raise ValueError(f"there are no images in the folder {images}")
    return paths
