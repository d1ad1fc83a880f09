"""Pictures that a command writes: never among the images that it reads."""

import json
import os
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from fastad._files import write_atomically
from fastad.commands.output import write_json
from fastad.data.finding import PICTURES, drawn_by_predict


def refuse_pictures_among(images: Sequence[str], output: str) -> None:
    """ValueError where the folder of ``--output`` lies in a folder of images."""
    target = Path(output).resolve()
    for name in images:
        if Path(name).is_dir() and target.is_relative_to(Path(name).resolve()):
            raise ValueError(
                f"--output {output} is inside {name}: its pictures would be taken for images the "
                "next time"
            )


def list_pictures(
    folder: Path,
    pictures: Iterable[Path],
    writer: str = "fastad predict",
    gone: Collection[str] = (),
) -> None:
    """Written before them, so that no data set that they lie in takes them for images.

    Names in ``gone`` are of pictures of an earlier run that were removed.
    """
    names = [path.relative_to(folder).as_posix() for path in pictures]
    every = sorted({*drawn_by_predict(folder), *names} - {*gone})
    write_json(str(folder / PICTURES), {"written_by": writer, "files": every})


def written_before(folder: Path, writer: str) -> list[str]:
    """The pictures in a folder that a command has listed there, if it was the last one to do so."""
    try:
        content = json.loads((folder / PICTURES).read_text(encoding="utf-8"))
        is_own = content["written_by"] == writer
    except (OSError, ValueError, LookupError, TypeError):
        return []
    return drawn_by_predict(folder) if is_own else []


def picture_names(paths: Sequence[Path]) -> dict[Path, Path]:
    """Image -> name of its pictures without ending, below the folder that all images share.

    A link gives its own name: that of its target may be a checksum.
    """
    given = {path: Path(os.path.abspath(path)) for path in paths}
    root = os.path.commonpath([path.parent for path in given.values()])
    whole = {path: full.relative_to(root) for path, full in given.items()}
    short = [name.with_suffix("") for name in whole.values()]
    return {
        path: name if short.count(name.with_suffix("")) > 1 else name.with_suffix("")
        for path, name in whole.items()
    }


def made(path: Path) -> Path:
    """The path, whose folder is there now."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def save_mask(path: Path, mask: np.ndarray) -> None:
    """Write a mask (H, W) bool: white where it is true."""
    picture = Image.fromarray(mask.astype(np.uint8) * 255)
    write_atomically(path, lambda temporary: picture.save(temporary, "PNG"))
