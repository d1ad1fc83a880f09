"""The range of pixel values that images of a training use, found by looking at some of them."""

import logging
import math
import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from fastad.data.depth import DEEPEST, PixelRange, is_deep
from fastad.data.folder import READER_THREADS
from fastad.data.images import ImageError, is_deep_image, open_image, stored_values
from fastad.data.in_memory import encoded, is_encoded

LOOKED_AT = 64  # images, spread evenly over all
USUAL_BITS = (8, 10, 12, 14, 16)  # of cameras
TAIL = 0.001  # of all pixels, at either end: dead and hot ones say nothing of the window
NARROW = 8  # a window of less than this part of the range leaves fewer than 32 grey levels
GAP = 3  # from one image's brightest values to the next brighter one's: two bits more are four
EVERYTHING = 0.99  # of all pixels
MARGIN = 0.1  # of the window's width, at either end of the one proposed

log = logging.getLogger("fastad")


@dataclass(frozen=True)
class _Look:
    """One image: what messages call it, and how many pixels have each value, (65536,)."""

    name: str
    counts: np.ndarray  # of 8 bits none

    @property
    def high(self) -> int:
        """The value that all but the brightest pixels stay below or have."""
        return _quantile(self.counts, 1 - TAIL)


def choose_range(images: Any, given: PixelRange | None = None) -> PixelRange | None:
    """The smallest usual range that holds all values of the images with more than 8 bits.

    At most `LOOKED_AT` images are read, spread evenly, and of files with 8 bits the header alone.
    What cannot be read is passed over. A warning tells of several depths. Another one names a
    narrow window, which is never chosen by itself: an image darker than all others may be a defect.

    Args:
        images: paths, Pillow images, arrays or tensors, or one array or tensor of many, or a
            map-style data set of them.
        given: the range that was asked for, which is then checked instead.

    Returns:
        None where no image has more than 8 bits and no range was asked for.

    Raises:
        ValueError: practically all pixels are outside of the range that was asked for, or none was
            asked for and all images of 16 bits are black.
    """
    items = _sample(images)
    with ThreadPoolExecutor(READER_THREADS) as pool:
        looks = [look for look in pool.map(_look, items) if look is not None]
    deep = [look for look in looks if look.counts.any()]
    if not deep:
        return given
    total = np.sum([look.counts for look in deep], axis=0)
    if given is not None:
        _refuse_what_clips(total, given, deep)
        chosen = given
    else:
        largest = int(np.flatnonzero(total)[-1])
        if largest == 0:
            raise ValueError(
                f"bit_depth auto: all {len(deep)} images of 16 bits a value are black, for example "
                f"{deep[0].name}: give images with light, or the bit_depth"
            )
        chosen = PixelRange(0, 2 ** _usual_bits(largest) - 1)
        log.info(f"16-bit values are read as {chosen} (bit_depth={chosen.option})")
    shallow = [look for look in looks if not look.counts.any()]
    if shallow:
        warnings.warn(
            f"{len(shallow)} of {len(looks)} images looked at have 8 bits, the others 16, for "
            f"example {shallow[0].name} and {deep[0].name}: white is 255 in those, {chosen.high} "
            "in these. If all are values of one camera, save all with 16 bits",
            stacklevel=2,
        )
    _warn_of_several_depths(deep, chosen)
    if given is None:
        _warn_of_a_narrow_window(total, chosen)
    return chosen


def _sample(images: Any) -> list[tuple[int, Any]]:
    """Positions and images."""
    if isinstance(images, (np.ndarray, Tensor)):
        if not is_deep(images):
            return []
        images = images if images.ndim == 4 else [images]
    elif (
        isinstance(images, (str, os.PathLike, Image.Image))
        or is_encoded(images)
        or not hasattr(images, "__getitem__")
    ):
        images = [images]
    count = len(images)
    if count == 0 or isinstance(images, dict):
        return []
    chosen = np.unique(np.linspace(0, count - 1, LOOKED_AT).round().astype(int)).tolist()
    if isinstance(images, (Sequence, np.ndarray, Tensor)):
        return [(i, images[i]) for i in chosen]
    first = _image_of(images[0])  # items of a data set may be costly, and are of one kind
    return [(i, _image_of(images[i])) for i in chosen] if _may_be_deep(first) else []


def _image_of(item: Any) -> Any:
    """The image of a data set's item, as `fastad.data.inputs.ResizedDataset` takes it."""
    if isinstance(item, dict):
        return item.get("image")
    return item[0] if isinstance(item, (tuple, list)) and item else item


def _may_be_deep(item: Any) -> bool:
    return is_deep(item) or isinstance(item, (str, os.PathLike, Image.Image)) or is_encoded(item)


def _look(place: tuple[int, Any]) -> _Look | None:
    """None for what cannot be read."""
    position, item = place
    try:
        values = _stored(item)
    except (ImageError, OSError, ValueError):
        return None
    values = np.empty(0, np.int64) if values is None else values.ravel()
    name = str(item) if isinstance(item, (str, os.PathLike)) else f"image {position}"
    return _Look(name, np.bincount(values, minlength=DEEPEST + 1))


def _stored(item: Any) -> np.ndarray | None:
    """Values of one image of more than 8 bits; None for others."""
    if isinstance(item, Tensor) and is_deep(item):
        has_alpha = item.ndim == 3 and item.shape[0] in (2, 4)
        return np.asarray((item[:-1] if has_alpha else item).cpu())
    if is_deep(item):
        has_alpha = item.ndim == 3 and item.shape[2] in (2, 4)
        return np.asarray(item[..., :-1] if has_alpha else item)
    if isinstance(item, (str, os.PathLike)) or is_encoded(item):
        file = encoded(item).file() if is_encoded(item) else Path(item)
        with open_image(file) as image:
            return stored_values(image) if is_deep_image(image) else None
    is_deep_one = isinstance(item, Image.Image) and is_deep_image(item)
    return stored_values(item) if is_deep_one else None


def _quantile(counts: np.ndarray, share: float) -> int:
    below = np.cumsum(counts)
    return int(np.searchsorted(below, share * below[-1]))


def _usual_bits(value: int) -> int:
    return next(bits for bits in USUAL_BITS if value < 2**bits)


def _refuse_what_clips(counts: np.ndarray, given: PixelRange, deep: list[_Look]) -> None:
    outside = 1 - counts[given.low : given.high + 1].sum() / counts.sum()
    if outside <= EVERYTHING:
        return
    low, high = _quantile(counts, TAIL), _quantile(counts, 1 - TAIL)
    raise ValueError(
        f"bit_depth {given.option}: {outside:.1%} of the pixels of the images looked at are "
        f"outside of {given.low} to {given.high} and would become black or white. Nearly all lie "
        f"between {low} and {high}, for example in {deep[0].name}: give a range that holds them, "
        "or auto"
    )


def _warn_of_several_depths(deep: list[_Look], chosen: PixelRange) -> None:
    """Images of one camera differ in brightness little by little, and not by bits."""
    pictures = sorted((look for look in deep if look.high > 0), key=lambda look: look.high)
    groups: list[list[_Look]] = []
    for look in pictures:
        last = groups[-1][-1] if groups else None
        is_alike = last is not None and (
            look.high < GAP * last.high or _usual_bits(look.high) == _usual_bits(last.high)
        )
        if is_alike:
            groups[-1].append(look)
        else:
            groups.append([look])
    if len(groups) < 2:
        return
    found = ", ".join(
        f"{len(group)} use {_usual_bits(group[-1].high)} bits (values up to {group[-1].high}, for "
        f"example {group[-1].name})"
        for group in groups
    )
    warnings.warn(
        f"of {len(deep)} images looked at with 16 bits a value, {found}. One range is for all, "
        f"{chosen}, so those of fewer bits are read as nearly black. Bring all to one depth, or "
        "train a detector for each",
        stacklevel=3,
    )


def _warn_of_a_narrow_window(counts: np.ndarray, chosen: PixelRange) -> None:
    low, high = _quantile(counts, TAIL), _quantile(counts, 1 - TAIL)
    if not 0 < (high - low) * NARROW < chosen.high:
        return
    step = 10 ** max(math.floor(math.log10(high - low)) - 1, 0)
    margin = MARGIN * (high - low)
    start = max(math.floor((low - margin) / step) * step, 0)
    end = min(math.ceil((high + margin) / step) * step, DEEPEST)
    levels = np.ptp(chosen.levels(np.array([low, high])).astype(int)) + 1
    warnings.warn(
        f"the images are read as {chosen}, but nearly all of their pixels lie between {low} and "
        f"{high}: that leaves {levels} of 256 grey levels. If no defect lies outside, give "
        f"--bit-depth {start}-{end} (bit_depth={f'{start}-{end}'!r})",
        stacklevel=3,
    )
