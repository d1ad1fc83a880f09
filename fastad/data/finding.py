"""Which files below a folder are images: found by their names, each once.

Passed over are hidden files and folders, folders of small copies that programs make, and what
fastad itself wrote: reports, and the pictures of ``fastad predict --output``.
"""

import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")

# Folders that file managers and archives make.
NO_IMAGES = {"__macosx", "@eadir", "thumbs", "thumbnails"}
REPORT = "fastad-report.json"  # the mark of a report of `fastad evaluate`
PICTURES = "fastad-pictures.json"  # lists what `fastad predict` drew


@dataclass
class Walk:
    """What lies below a folder.

    Attributes:
        paths: image files in natural order.
        repeats: links to files and folders that count already.
        outputs: folders of reports and of pictures that fastad wrote.
    """

    paths: list[Path] = field(default_factory=list)
    repeats: list[Path] = field(default_factory=list)
    outputs: list[Path] = field(default_factory=list)


def given_path(path: str | os.PathLike[str]) -> Path:
    """A path as a user gives it: ``~`` is the user's home.

    Raises FileNotFoundError for an address of the web, and for a pattern that names no file.
    """
    text = os.fspath(path)
    if re.match(r"[A-Za-z][A-Za-z0-9+.\-]+:/", text):
        raise FileNotFoundError(f"{text} is an address: download the file and give its path")
    found = Path(text).expanduser() if text.startswith("~") else Path(text)
    if any(letter in text for letter in "*?") and not found.exists():
        raise FileNotFoundError(
            f"no such file: {text}; patterns are not expanded: give the folder, or "
            f"glob.glob({text!r}) in Python"
        )
    return found


def find_images(folder: str | Path, *, every_link: bool = False) -> list[Path]:
    """Image files below a folder, at any depth, in natural order (2.png before 10.png).

    Recognised by their ending, in upper or lower case. Passed over are hidden files and folders,
    folders of small copies that programs make (`NO_IMAGES`), reports of fastad, and the pictures
    that ``fastad predict --output`` wrote. Links to folders are followed, but not upwards.

    Args:
        folder: where to look.
        every_link: give every link to a file, as for masks that many images share. Otherwise, of
            several links to a file and the file itself below the folder, one counts.

    Raises FileNotFoundError or NotADirectoryError.
    """
    return walk(folder, every_link=every_link).paths


def walk(folder: str | Path, *, every_link: bool = False) -> Walk:
    """`find_images`, with what was passed over."""
    folder = given_path(folder)
    if not folder.exists():
        raise FileNotFoundError(f"no such folder: {folder}")
    if not folder.is_dir():
        raise NotADirectoryError(f"not a folder: {folder}")
    result, seen = Walk(), set()
    above = {os.fspath(parent) for parent in Path(os.path.realpath(folder)).parents}
    drawn = {path for parent in Path(os.path.abspath(folder)).parents for path in _drawn(parent)}
    for root, subfolders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(root)
        if real in seen or real in above:
            if real in seen and os.path.islink(root):
                result.repeats.append(Path(root))
            subfolders.clear()
            continue
        seen.add(real)
        if REPORT in files and Path(root) != folder:
            result.outputs.append(Path(root))
            subfolders.clear()
            continue
        if PICTURES in files:
            result.outputs.append(Path(root))
            drawn |= _drawn(Path(os.path.abspath(root)))
        subfolders[:] = [name for name in sorted(subfolders) if not _is_no_folder_of_images(name)]
        result.paths += [
            Path(root, name)
            for name in files
            if name.lower().endswith(ENDINGS)
            and not name.startswith(".")
            and not (drawn and Path(os.path.abspath(root), name) in drawn)
        ]
    result.paths.sort(key=lambda path: natural_key(path.relative_to(folder).as_posix()))
    if not every_link:
        every = result.paths
        result.paths = once(every)
        kept = set(result.paths)
        result.repeats += [path for path in every if path not in kept]
    return result


def holds_images(folder: Path) -> bool:
    """Whether a subfolder may hold images, by its name and by what fastad wrote there."""
    return not _is_no_folder_of_images(folder.name) and not (folder / REPORT).is_file()


def output_above(path: Path, root: Path) -> Path | None:
    """The folder with what fastad wrote that a folder is, or lies in, below ``root``."""
    inside = [f for f in (path, *path.parents) if root in f.parents]
    marked = [f for f in inside if any((f / name).is_file() for name in (REPORT, PICTURES))]
    return next(iter(marked), None)


def drawn_by_predict(folder: Path) -> list[str]:
    """The pictures below a folder that ``fastad predict`` has listed there; paths with slashes."""
    try:
        names = json.loads((folder / PICTURES).read_text(encoding="utf-8"))["files"]
        return [name for name in names if isinstance(name, str)]
    except (OSError, ValueError, LookupError, TypeError):  # there is no list, or none of fastad's
        return []


def once(paths: list[Path]) -> list[Path]:
    """Of several links to a file, and the file itself, one: the file if it is among them."""
    links = [path for path in paths if path.is_symlink()]
    if not links:
        return paths
    files = [path for path in paths if not path.is_symlink()]
    known = {os.path.realpath(path) for path in files}
    kept = set(files)
    for path in links:
        target = os.path.realpath(path)
        if target not in known:
            known.add(target)
            kept.add(path)
    return [path for path in paths if path in kept]


def natural_key(text: str) -> tuple:
    """Sort key that orders numbers inside names by value; equal names by their exact spelling."""
    pieces = re.split(r"([0-9]+)", text)
    return [int(p) if i % 2 else p.lower() for i, p in enumerate(pieces)], text


def _is_no_folder_of_images(name: str) -> bool:
    return name.startswith(".") or name.lower() in NO_IMAGES


def _drawn(folder: Path) -> set[Path]:
    return {folder / name for name in drawn_by_predict(folder)}
