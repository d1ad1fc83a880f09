"""``fastad export``: a detector as a file for another runtime, compared with it first."""

from pathlib import Path

from fastad.commands import UsageError
from fastad.commands.output import check_writable, note, refuse_overwriting, waiting
from fastad.data import images_without_masks, parse_size
from fastad.export.export import TOLERANCE, export_detector
from fastad.export.formats import FORMATS, check_packages
from fastad.export.tiles import FILES, export_tiles
from fastad.inference import load


def export(
    detector: str,
    *,
    format: str,
    output: str | None,
    images: str | None,
    fused_ops: bool,
    tile: str | None = None,
) -> None:
    """Export; the file goes beside the detector, with the format's suffix, unless named.

    ``images``: a folder or an image to compare on, random images where None. With ``tile`` two
    graphs go to a folder, which ends in _tiles unless named.
    """
    check_packages(format)
    if tile is not None:
        _export_tiles(detector, parse_size(tile), output, images)
        return
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


def _export_tiles(
    detector: str, tile: tuple[int, int], output: str | None, images: str | None
) -> None:
    target = Path(output or f"{Path(detector).with_suffix('')}_tiles")
    if target.exists() and not target.is_dir():
        raise UsageError(f"--output: {target} is a file; with --tile it is a folder")
    paths = None if images is None else _paths(images)
    with waiting(f"loading {detector}"):
        artifact = load(detector)
    note(f"exporting {artifact.model.name} in tiles to onnx")
    with waiting("exporting"):
        result = export_tiles(artifact, target, tile, images=paths)
    what = "random images" if paths is None else images
    note(f"compared with the detector on {what}, {TOLERANCE:g} allowed: {result}")
    note(f"saved {' and '.join(str(target / name) for name in FILES)}")


def _paths(images: str) -> list[Path]:
    path = Path(images)
    if not path.exists():
        raise FileNotFoundError(f"there is no image and no folder {images}")
    paths = images_without_masks(path) if path.is_dir() else [path]
    if not paths:
        raise ValueError(f"there are no images in the folder {images}")
    return paths
