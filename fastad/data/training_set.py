"""What a detector trains on: images in any form at one size, and which of them are held out."""

import hashlib
import itertools
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ImageFile
from torch import Tensor

from fastad._values import plain
from fastad.data.appearance import log_aspects
from fastad.data.depth import BitDepth, PixelRange, parse_range
from fastad.data.facts import (
    ImageFacts,
    common_shape,
    facts_of,
    holds_16_bits,
    warn_of_constant_images,
)
from fastad.data.finding import given_path
from fastad.data.folder import ImageDataset, Images
from fastad.data.images import FORMATS, ImageError, parse_size
from fastad.data.in_memory import encoded, is_encoded
from fastad.data.inputs import gathered, image_dataset, is_one, is_path
from fastad.data.layouts import TrainingImages, training_images
from fastad.data.sizes import ITEMS_READ, auto_size, is_auto, resize_in_words
from fastad.data.survey import choose_range

log = logging.getLogger("fastad")

SKIPPED_NAMES = 20  # how many of the skipped files a record names
IN_MEMORY_BYTES = 4 * 2**30  # larger sets are decoded again in every epoch
PIXELS = "pixels:"  # before the digest of an image in memory
MIN_SIDE = 32  # pixels: a feature map of stride 16 has two a side then


@dataclass
class TrainingSet:
    """Normal images, ready to train on.

    Attributes:
        dataset: images (3, H, W) at ``size``.
        size: (height, width).
        held_out: indices that the folder's layout sets apart; None to choose them at random.
        name: of the folder; None for images given otherwise.
        skipped: unreadable files that were left out, and why.
        pixel_range: by which 16-bit values were read; None where all images have 8 bits.
        facts: what the images are like.
        log_aspects: (n,) logarithms of width by height of images in memory; of files see
            `aspects_of`.
        shape: (height, width) of the original images. None where they differ.
        excluded: images that the user left out.
        copies: images that repeat another one, byte by byte.
    """

    dataset: Images
    size: tuple[int, int]
    held_out: list[int] | None = None
    name: str | None = None
    skipped: list[tuple[Path, str]] = field(default_factory=list)
    pixel_range: PixelRange | None = None
    facts: ImageFacts = field(default_factory=ImageFacts)
    log_aspects: np.ndarray | None = None
    shape: tuple[int, int] | None = None
    excluded: list[Path] = field(default_factory=list)
    copies: int = 0

    def aspects_of(self, indices: Sequence[int]) -> np.ndarray:
        """Logarithms of width by height of some images, NaN where unknown: (n,)."""
        paths = getattr(self.dataset, "paths", None)
        if paths is not None:
            return log_aspects([paths[i] for i in indices], len(indices))
        if self.log_aspects is None:
            return np.full(len(indices), np.nan)
        return self.log_aspects[list(indices)]

    def notes(self) -> list[str]:
        """What a record says of files left out (each kind with the first names) and copies."""
        unreadable = [path for path, _ in self.skipped]
        kinds = (unreadable, "unreadable images skipped"), (self.excluded, "images excluded")
        notes = []
        for paths, what in kinds:
            names = ", ".join(path.name for path in paths[:SKIPPED_NAMES])
            more = ", ..." if len(paths) > SKIPPED_NAMES else ""
            notes += [f"{len(paths)} {what}: {names}{more}"] if paths else []
        if self.copies:
            notes.append(
                f"{self.copies} of {len(self.dataset)} images are exact copies of others. All "
                "copies of an image are held out together, or trained on together"
            )
        return notes


def training_size(image_size: int | str | tuple[int, int]) -> tuple[int, int]:
    """(height, width) as `parse_size`; ValueError for a side below `MIN_SIDE`, too."""
    size = parse_size(image_size)
    if min(size) < MIN_SIDE:
        raise ValueError(f"image size must be at least {MIN_SIDE} a side, got {image_size!r}")
    return size


def read_training_set(
    images: Any,
    image_size: int | str | tuple[int, int],
    skip_bad: bool = False,
    bit_depth: BitDepth = "auto",
) -> TrainingSet:
    """A folder, images in any form (`fastad.data.inputs`), or a data set of them, at one size.

    A folder may be given as what `training_images` found in it, too.

    ``image_size`` "auto" keeps the aspect ratio; see `fastad.data.auto_size`. ``skip_bad`` leaves
    unreadable files out. ``bit_depth`` is an option of `fastad.data.depth.parse_range`; "auto" is
    settled by the images (`fastad.data.survey.choose_range`). Up to 4 GiB are decoded once and kept
    in memory.

    Raises ValueError, TypeError, FileNotFoundError or ImageError; the message names the argument,
    the file or the shape.
    """
    apart: list[Path] = []
    name = None
    image_size = plain(image_size)
    pixel_range = parse_range(bit_depth)
    images = gathered(images)
    found = images if isinstance(images, TrainingImages) else None
    if is_path(images) and not given_path(images).is_file():
        found = training_images(given_path(images))
    if found is not None:
        name, apart = found.name, found.held_out
        images = [*found.paths, *apart]
        log.info(f"reading {len(images)} normal images from {name} ({found.layout})")
    elif is_path(images):
        images = [images]
    elif isinstance(images, Iterable) and not is_one(images) and not _can_be_read_twice(images):
        image_size, images = _begun(images, image_size)
    size = auto_size(images) if is_auto(image_size) else training_size(image_size)
    count = len(images) if hasattr(images, "__len__") else 1
    in_memory = count * 3 * size[0] * size[1] <= IN_MEMORY_BYTES
    pixel_range = choose_range(images, pixel_range)
    try:
        dataset = image_dataset(
            images, size, in_memory=in_memory, skip_bad=skip_bad, pixel_range=pixel_range
        )
    except ImageError as error:
        if skip_bad:
            raise
        raise ImageError(f"{error}; skip_bad=True (--skip-bad) leaves such files out") from error
    skipped = getattr(dataset, "skipped", [])
    for path, reason in skipped:
        log.warning(f"skipped: {reason}" if str(path) in reason else f"skipped {path}: {reason}")
    # Now that all are known to be images.
    if (resize := resize_in_words(images, size, name_shapes=not is_auto(image_size))) is not None:
        log.info(resize)
    warn_of_constant_images(dataset)
    held_out = None
    if apart:
        wanted = set(apart)
        assert isinstance(dataset, ImageDataset)  # they were found as files
        held_out = [i for i, path in enumerate(dataset.paths) if path in wanted]
    has_paths = hasattr(dataset, "paths")
    return TrainingSet(
        dataset,
        size,
        held_out or None,
        name,
        skipped,
        pixel_range,
        facts_of(images, dataset),
        None if has_paths else log_aspects(images, len(dataset)),
        common_shape(images),
        [] if found is None else found.excluded,
    )


def _can_be_read_twice(images: Any) -> bool:
    """Streamed data sets have ``__getitem__``, too, but no length."""
    return hasattr(images, "__getitem__") and hasattr(images, "__len__")


def _begun(images: Iterable[Any], image_size: Any) -> tuple[Any, Iterable[Any]]:
    """The size, and all images of what iterates over them; "auto" is settled by the first ones.

    They are a list where paths, or values of 16 bits, whose range is not known before, are among
    the first. Others are left to be read one by one.
    """
    iterator = map(_held, images)
    first = list(itertools.islice(iterator, ITEMS_READ if is_auto(image_size) else 1))
    if any(is_path(item) or holds_16_bits(item) for item in first):
        return image_size, [*first, *iterator]
    size = auto_size(first) if is_auto(image_size) else image_size
    return size, itertools.chain(iter(first), iterator)


def _held(item: Any) -> Any:
    """An item whose file may be closed as soon as the next item is asked for."""
    is_open = isinstance(item, ImageFile.ImageFile) and item.tile and item.fp and not item.tell()
    if is_open and item.format in FORMATS:
        return encoded(item.fp)  # a Pillow image that is not decoded yet
    return encoded(item) if is_encoded(item) else item


def image_digests(dataset: Images) -> list[str]:
    """What tells the images of a training apart, one digest each.

    Of files `file_digests`. Of images in memory that of their pixels, after `PIXELS`. Empty where
    neither can be had.
    """
    if isinstance(dataset, Tensor):
        pixels = (image.contiguous().cpu().numpy().data for image in dataset)
        return [PIXELS + hashlib.blake2b(data, digest_size=8).hexdigest() for data in pixels]
    return file_digests(getattr(dataset, "paths", ()))


def file_digests(paths: Iterable[str | Path]) -> list[str]:
    """16 hexadecimal digits for the bytes of each file: the same image is found under any name."""
    return [hashlib.blake2b(Path(path).read_bytes(), digest_size=8).hexdigest() for path in paths]
