"""Textures from a folder of images: the Describable Textures Dataset, or the user's own."""

import hashlib
import warnings
from functools import cached_property
from pathlib import Path

import numpy as np
from torch import Tensor

from fastad.data.images import ImageError, read_image, resize
from fastad.data.layouts import images_without_masks
from fastad.data.training_set import file_digests

_CACHE_BYTES = 128 * 2**20
_SMALLEST_WINDOW = 0.5  # of the largest one that fits into the image, along each side


class TextureFolder:
    """Gives random windows of the images below a folder.

    Every file is decoded once at the beginning, so that none stops a training in its midst;
    those that cannot be are left out with a warning. Up to 128 MiB of decoded images are kept.

    Raises:
        FileNotFoundError, NotADirectoryError: there is no such folder.
        ValueError: there is no readable image below it.

    Attributes:
        paths: of the readable images, in natural order.
    """

    def __init__(self, folder: str | Path) -> None:
        try:
            found = images_without_masks(folder)
        except OSError as error:
            raise type(error)(f"textures: {error}") from error
        self.paths = [path for path in found if _is_readable(path)]
        if not self.paths:
            unreadable = "readable " if found else ""
            raise ValueError(f"textures: there are no {unreadable}images below {folder}")
        if len(self.paths) < len(found):
            bad = sorted(set(found) - set(self.paths))
            names = ", ".join(path.name for path in bad[:3]) + (", ..." if len(bad) > 3 else "")
            warnings.warn(
                f"textures: unreadable images left out ({len(bad)} of {len(found)}): {names}",
                stacklevel=3,
            )
        self._folder = Path(folder)
        self._cache: dict[Path, Tensor] = {}
        self._kept = 0

    def __call__(self, rng: np.random.Generator, height: int, width: int) -> np.ndarray:
        """A window (height, width, 3) uint8 of one of the images, mirrored or not.

        The window has the shape asked for and half to all of the largest size that the image
        holds; it is then resized. Raises `read_image`'s errors, which name the file.
        """
        image = self._read(self.paths[int(rng.integers(len(self.paths)))])
        scale = min(image.shape[1] / height, image.shape[2] / width)
        scale *= rng.uniform(_SMALLEST_WINDOW, 1)
        sides = (max(1, round(height * scale)), max(1, round(width * scale)))
        top, left = (
            int(rng.integers(whole - side + 1))
            for whole, side in zip(image.shape[1:], sides, strict=True)
        )
        window = resize(image[:, top : top + sides[0], left : left + sides[1]], (height, width))
        texture = window.permute(1, 2, 0).numpy()
        return np.ascontiguousarray(texture[:, ::-1] if rng.random() < 0.5 else texture)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the files' names and contents."""
        names = [path.relative_to(self._folder).as_posix() for path in self.paths]
        facts = list(zip(names, file_digests(self.paths), strict=True))
        return hashlib.sha256(repr(facts).encode()).hexdigest()

    def _read(self, path: Path) -> Tensor:
        image = self._cache.get(path)
        if image is None:
            image = read_image(path)
            if self._kept + image.nbytes <= _CACHE_BYTES:
                self._kept += image.nbytes
                self._cache[path] = image
        return image


def _is_readable(path: Path) -> bool:
    try:
        read_image(path)
    except ImageError:
        return False
    return True
