"""A list of images that a training leaves out, as `fastad suspects` writes one."""

from collections.abc import Sequence
from pathlib import Path


def excluded(paths: Sequence[Path], file: str | Path) -> list[Path]:
    """Which of some images a text file names.

    A line is a path or its end: ``003.png``, ``good/003.png``, or the whole path. Empty lines and
    those that begin with ``#`` are passed over.

    Args:
        paths: the images.
        file: the text file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line names none of the images, or several.
    """
    file = Path(file)
    if not file.is_file():
        raise FileNotFoundError(f"exclude: there is no file {file}")
    text = file.read_bytes().decode("utf-8-sig", "surrogateescape")  # as names of files are
    ends = [(path, path.resolve().parts[::-1]) for path in paths]
    found: dict[Path, None] = {}
    for number, line in enumerate(map(str.strip, text.splitlines()), start=1):
        if not line or line.startswith("#"):
            continue
        named = Path(line)
        wanted = (named.resolve() if named.is_absolute() else named).parts[::-1]
        fitting = [path for path, parts in ends if parts[: len(wanted)] == wanted]
        if not fitting and not line.isascii() and any("\udc80" <= c <= "\udcff" for c in line):
            raise ValueError(f"{file}, line {number} is no UTF-8 text: give a list of file names")
        if not fitting:
            raise ValueError(f"{file}, line {number}: {line} is none of the {len(paths)} images")
        if len(fitting) > 1:
            raise ValueError(
                f"{file}, line {number}: {line} may be {fitting[0]} or {fitting[1]}: give more of "
                "its path"
            )
        found[fitting[0]] = None
    return list(found)
