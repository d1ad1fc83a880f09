"""Real defects of a few images: as they are, or cut out by their masks and pasted elsewhere.

The "extended anomalies" of Zhang et al., "Prototypical Residual Networks for Anomaly Detection and
Localization", CVPR 2023, section 3.4.
"""

import hashlib
import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from fastad.data.depth import PixelRange
from fastad.data.images import ImageError, read_image, resize
from fastad.data.layouts import Sample, defect_samples
from fastad.data.masks import read_ground_truth, resize_masks
from fastad.data.synthesis import augmentations
from fastad.data.training_set import file_digests

WHOLE = 0.25  # probability that the image of a defect is taken as it is
CHANGES = 3  # of a defect, drawn from those below
STAYS = 0.5  # probability that a defect is pasted about where it was
NEAR = 0.05  # of the image's sides: how far it may move then
FEATHER = 1.0  # pixels: standard deviation by which the paste's edge is softened
ASPECT_TOLERANCE = 0.05  # a mask may be smaller than its image, but not of another shape
MIN_PIXELS = 4  # of a defect at the size of the training's images

_COLOURS = ("gamma", "brightness", "sharpness", "autocontrast")
_SHAPES = ("mirror", "rotate", "scale")


def chosen_defects(folder: str | Path, number: int | None = None, seed: int = 0) -> list[Sample]:
    """The images that `RealDefects` takes of a folder, none of them read.

    Raises its errors of the folder and of the number.
    """
    samples = defect_samples(folder)
    if number is None:
        return samples
    if number > len(samples):
        raise ValueError(
            f"defects: there are {len(samples)} images with masks in {folder}, fewer than the "
            f"{number} asked for"
        )
    return _some_of_each(samples, number, seed)


class RealDefects:
    """Gives images of defects with their masks, most of them pasted into normal images.

    Args:
        folder: images of defects with their masks; see `fastad.data.layouts.defect_samples`.
        number: of the images to take, of each type about as many; None for all.
        seed: of which ones those are.
        pixel_range: that of `fastad.data.read_image`.

    Attributes:
        paths: of the images.

    Raises:
        FileNotFoundError, NotADirectoryError: there is no such folder.
        ValueError: no defects with masks in it, fewer than ``number``, or a mask of no or every
            pixel.
        ImageError: an image or a mask cannot be read, or the mask has another shape.
    """

    def __init__(
        self,
        folder: str | Path,
        number: int | None = None,
        seed: int = 0,
        pixel_range: PixelRange | None = None,
    ) -> None:
        samples = chosen_defects(folder, number, seed)
        self.paths = [sample.path for sample in samples]
        self._pixel_range = pixel_range
        self._masks = [sample.mask_paths for sample in samples]
        self._cuts: dict[tuple[int, int], list[_Cut]] = {}
        self._at((64, 64))  # what cannot be used is found before a training begins, not within

    def __call__(
        self, image: np.ndarray, allowed: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """An image (H, W, 3) uint8 with a defect, and the defect's mask, bool (H, W), never empty.

        One of the defects, changed in three ways, is pasted into ``image``, as far as it comes to
        lie on ``allowed``, bool (H, W), where its middle always does. One in four is its own image
        instead, resized: what surrounds a defect belongs to it as well.
        """
        cuts = self._at(image.shape[:2])
        cut = cuts[int(rng.integers(len(cuts)))]
        if rng.random() < WHOLE:
            return cut.image.copy(), cut.whole_mask.copy()
        pixels, mask = _changed(cut.pixels, cut.mask, rng)
        middle = cut.middle + rng.uniform(-NEAR, NEAR, 2) * image.shape[:2]
        row, column = np.clip(middle, 0, np.array(image.shape[:2]) - 1).astype(int)
        if rng.random() >= STAYS or not allowed[row, column]:
            places = np.argwhere(allowed)
            row, column = places[int(rng.integers(len(places)))]
        return _pasted(image, allowed, pixels, mask, int(row), int(column))

    @cached_property
    def digests(self) -> list[str]:
        """Of the images' bytes, by which a test set knows them again."""
        return file_digests(self.paths)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the images and masks."""
        masks = [file_digests(paths) for paths in self._masks]
        facts = list(zip(self.digests, masks, strict=True))
        return hashlib.sha256(repr(facts).encode()).hexdigest()

    def _at(self, size: tuple[int, int]) -> "list[_Cut]":
        if size not in self._cuts:
            pairs = zip(self.paths, self._masks, strict=True)
            self._cuts[size] = [_Cut(path, masks, size, self._pixel_range) for path, masks in pairs]
        return self._cuts[size]


class _Cut:
    """A defect at one size: ``pixels`` (h, w, 3) and ``mask`` (h, w) of its box, its ``middle``.

    Its own ``image`` (H, W, 3) and ``whole_mask`` (H, W), too.
    """

    def __init__(
        self,
        path: Path,
        masks: tuple[Path, ...],
        size: tuple[int, int],
        pixel_range: PixelRange | None,
    ) -> None:
        image, marked = read_image(path, pixel_range), read_ground_truth(masks)
        _require_same_shape(path, masks[0], image.shape[1:], marked.shape)
        if marked.all():
            raise ValueError(f"defects: the mask of {path} marks the whole image")
        image, mask = resize(image, size), resize_masks(marked, size).numpy()
        rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
        if len(rows) == 0:
            raise ValueError(f"defects: the mask of {path} marks no pixel")
        box = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
        self.image, self.whole_mask = image.permute(1, 2, 0).contiguous().numpy(), mask
        self.pixels, self.mask = self.image[box], mask[box]
        self.middle = np.array([rows[0] + rows[-1], columns[0] + columns[-1]]) / 2


def _require_same_shape(path: Path, mask: Path, whole: Sequence[int], own: Sequence[int]) -> None:
    if abs(math.log(own[0] * whole[1] / (own[1] * whole[0]))) > ASPECT_TOLERANCE:
        raise ImageError(
            f"{mask}: the mask of {own[0]}x{own[1]} pixels is not of the shape of its image, "
            f"{path} of {whole[0]}x{whole[1]}"
        )


def _some_of_each(samples: list[Sample], number: int, seed: int) -> list[Sample]:
    """``number`` of the samples, taking turns between their types."""
    rng = np.random.default_rng([seed, 5])
    by_type: dict[str, list] = {}
    for sample in samples:
        by_type.setdefault(sample.defect_type, []).append(sample)
    queues = [[own[i] for i in rng.permutation(len(own))] for own in by_type.values()]
    turns = [
        queue[turn]
        for turn in range(max(map(len, queues)))
        for queue in queues
        if turn < len(queue)
    ]
    return turns[:number]


def _changed(
    pixels: np.ndarray, mask: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """The defect after three different changes of colour or shape."""
    image, shape = Image.fromarray(pixels), Image.fromarray(np.uint8(mask) * 255)
    for name in rng.choice((*_COLOURS, *_SHAPES), CHANGES, replace=False):
        if name in _COLOURS:
            image = augmentations.AUGMENTATIONS[name](image, rng)
        elif name == "mirror":
            image, shape = (x.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for x in (image, shape))
        elif name == "rotate":
            angle = rng.uniform(0, 360)
            # The image's corners are outside the mask, whatever they hold.
            image = image.rotate(angle, Image.Resampling.BILINEAR, expand=True)
            shape = shape.rotate(angle, Image.Resampling.NEAREST, expand=True)
        else:
            factor = math.exp2(rng.uniform(-0.5, 0.5))
            size = [max(2, round(side * factor)) for side in image.size]
            image, shape = image.resize(size), shape.resize(size, Image.Resampling.NEAREST)
    changed = np.asarray(shape) > 127
    return (np.asarray(image), changed) if changed.sum() >= MIN_PIXELS else (pixels, mask)


def _pasted(
    image: np.ndarray,
    allowed: np.ndarray,
    pixels: np.ndarray,
    mask: np.ndarray,
    row: int,
    column: int,
) -> tuple[np.ndarray, np.ndarray]:
    """The image with the defect around a place, as far as that is allowed, and its mask."""
    points = np.argwhere(mask)
    # The pixel of the defect nearest to its middle: of a ring the middle itself is none.
    nearest = points[np.square(points - np.array(mask.shape) / 2).sum(axis=1).argmin()]
    corner = (row - int(nearest[0]), column - int(nearest[1]))
    inside = tuple(
        slice(max(0, first), min(first + length, whole))
        for first, length, whole in zip(corner, mask.shape, image.shape[:2], strict=True)
    )
    own = tuple(slice(s.start - o, s.stop - o) for s, o in zip(inside, corner, strict=True))
    where = np.zeros(image.shape[:2], dtype=bool)
    where[inside] = mask[own] & allowed[inside]
    soft = Image.fromarray(np.uint8(where) * 255).filter(ImageFilter.GaussianBlur(FEATHER))
    share = (np.asarray(soft)[inside] / 255 * where[inside])[..., None]
    result = image.copy()
    covered = share * pixels[own] + (1 - share) * image[inside]
    result[inside] = np.rint(covered).astype(np.uint8)
    return result, where
