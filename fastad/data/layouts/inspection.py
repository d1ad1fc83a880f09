"""What the files of a data set are like: sizes, modes, depths, duplicates, unreadable ones."""

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image, TiffImagePlugin

from fastad.data.depth import FULL
from fastad.data.images import ImageError, image_shape, open_image, read_image
from fastad.data.layouts.description import DataDescription, FoundFile

THREADS = 8
STEP = 256  # files between two calls of progress
MOST_ROWS = 40

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Look:
    """What the header of a file says; ``error`` where it cannot be read."""

    shape: tuple[int, int] = (0, 0)
    mode: str = ""
    bits: int = 0
    error: str = ""


@dataclass
class FolderRow:
    """The files of one role in one folder.

    Attributes:
        folder: below the data set.
        role: of `FoundFile`, with its part.
        count: of the files.
        shapes: (height, width) and how many files have it.
        modes: Pillow's mode with the bits of a value, such as "RGB 8 bit", and how many have it.
        reasons: why files are passed over.
    """

    folder: str
    role: str
    count: int = 0
    shapes: Counter = field(default_factory=Counter)
    modes: Counter = field(default_factory=Counter)
    reasons: Counter = field(default_factory=Counter)


@dataclass
class Inspection:
    """The result of `inspect_files`.

    Attributes:
        rows: folder by folder.
        unreadable: files and why.
        duplicates: images of the training and test images with the same bytes.
        masks_alone: masks without an image.
        defects_without_mask: images.
    """

    rows: list[FolderRow]
    unreadable: list[tuple[Path, str]]
    duplicates: list[tuple[Path, Path]]
    masks_alone: list[Path]
    defects_without_mask: list[Path]


def inspect_files(
    found: DataDescription, *, deep: bool = False, progress: Progress | None = None
) -> Inspection:
    """Read the headers of the files that `describe` found, in parallel; pixels with ``deep``."""
    paths = [file.path for file in found.files]
    looks: list[Look] = []
    with ThreadPoolExecutor(THREADS) as pool:
        for start in range(0, len(paths), STEP):
            step = paths[start : start + STEP]
            looks += pool.map(look_deep if deep else look, step)
            if progress is not None:
                progress(len(looks), len(paths))
    return Inspection(
        _rows(found, looks),
        [(path, seen.error) for path, seen in zip(paths, looks, strict=True) if seen.error],
        duplicates([f.path for f in found.training], [f.path for f in found.test]),
        [f.path for f in found.passed_over if "mask" in f.reason],
        [f.path for f in found.test if f.role == "defect" and not f.masks],
    )


def look(path: Path) -> Look:
    """At the header of a file."""
    try:
        with open_image(path) as image:
            mode, bits = image.mode.split(";")[0], _bits(image)
        return Look(image_shape(path), mode, bits)
    except (ImageError, OSError) as error:
        return Look(error=str(error))


def look_deep(path: Path) -> Look:
    """At the header and all pixels."""
    try:
        read_image(path, FULL)  # the range does not matter
    except (ImageError, OSError) as error:
        return Look(error=str(error))
    return look(path)


def duplicates(train: Iterable[Path], test: Iterable[Path]) -> list[tuple[Path, Path]]:
    """Different files of the two with the same bytes; only those of the same length are read."""
    sizes: list[dict[int, list[Path]]] = []
    for paths in (train, test):
        by_size: dict[int, list[Path]] = defaultdict(list)
        for path in paths:
            try:
                by_size[os.stat(path).st_size].append(path)
            except OSError:
                continue  # reading it says why
        sizes.append(by_size)
    found = []
    for size in sorted(sizes[0].keys() & sizes[1].keys()):
        same = set(sizes[0][size])
        others = [path for path in sizes[1][size] if path not in same]
        if not others or size == 0:
            continue
        known = {_digest(path): path for path in reversed(sizes[0][size])}
        found += [(known[d], path) for path in others if (d := _digest(path)) in known and d]
    return found


def _digest(path: Path) -> str:
    try:
        return hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
    except OSError:
        return ""


def _bits(image: Image.Image) -> int:
    """Of one value, as stored."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return max(image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (1,)))
    raw = str(next(iter(getattr(image, "tile", ())), ("", "", "", ""))[3])
    if ";16" in raw or ";16" in image.mode:
        return 16
    return {"1": 1, "I": 32, "F": 32}.get(image.mode, 8)


def _rows(found: DataDescription, looks: list[Look]) -> list[FolderRow]:
    root = Path(os.path.abspath(found.folder))
    for depth in (4, 3, 2, 1):  # folders of single images, as of masks, are not listed one by one
        rows: dict[tuple[str, str], FolderRow] = {}
        for file, seen in zip(found.files, looks, strict=True):
            key = (_place(file, root, depth), f"{file.role} {file.part}".strip())
            row = rows.setdefault(key, FolderRow(*key))
            row.count += 1
            if file.reason:
                row.reasons[file.reason] += 1
            if not seen.error:
                row.shapes[seen.shape] += 1
                row.modes[f"{seen.mode} {seen.bits} bit"] += 1
        if len(rows) <= MOST_ROWS:
            break
    return list(rows.values())


def _place(file: FoundFile, root: Path, depth: int) -> str:
    parts = Path(os.path.relpath(file.path, root)).parts[:-1]
    return "/".join(parts[: depth + (parts[:1] == ("..",))]) or "."
