"""The range of pixel values that images of a training use, found by looking at some of them."""

import logging
import math
import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
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
MARGIN = 0.1  # of the window's width, at either end of the one proposed

log = logging.getLogger("fastad")


def choose_range(images: Any) -> PixelRange | None:
    """The smallest usual range that holds all values of the images with more than 8 bits.

    At most `LOOKED_AT` images are read, spread evenly, and of files with 8 bits the header alone.
    What cannot be read is passed over. A warning names a narrow window, which is never chosen by
    itself: an image darker than all others may be a defect.

    Args:
        images: paths, Pillow images, arrays or tensors, or one array or tensor of many, or a
            map-style data set of them.

    Returns:
        None where no image has more than 8 bits.
    """
    items = _sample(images)
    with ThreadPoolExecutor(READER_THREADS) as pool:
        counts = [found for found in pool.map(_counts, items) if found is not None]
    deep = [found for found in counts if found.any()]
    if not deep:
        return None
    total = np.sum(deep, axis=0)
    largest = int(np.flatnonzero(total)[-1])
    chosen = PixelRange(0, 2 ** next(n for n in USUAL_BITS if largest < 2**n) - 1)
    log.info(f"16-bit values are read as {chosen} (bit_depth={chosen.option})")
    if len(deep) < len(counts):
        warnings.warn(
            f"{len(counts) - len(deep)} of {len(counts)} images looked at have 8 bits, the others "
            f"16: white is 255 in those, {chosen.high} in these. If all are values of one camera, "
            "save all with 16 bits",
            stacklevel=2,
        )
    _warn_of_a_narrow_window(total, chosen)
    return chosen


def _sample(images: Any) -> list[Any]:
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
        return [images[i] for i in chosen]
    first = _image_of(images[0])  # items of a data set may be costly, and are of one kind
    return [_image_of(images[i]) for i in chosen] if _may_be_deep(first) else []


def _image_of(item: Any) -> Any:
    """The image of a data set's item, as `fastad.data.inputs.ResizedDataset` takes it."""
    if isinstance(item, dict):
        return item.get("image")
    return item[0] if isinstance(item, (tuple, list)) and item else item


def _may_be_deep(item: Any) -> bool:
    return is_deep(item) or isinstance(item, (str, os.PathLike, Image.Image)) or is_encoded(item)


def _counts(item: Any) -> np.ndarray | None:
    """(65536,) how many pixels have each value, of 8 bits none. None for what cannot be read."""
    try:
        values = _stored(item)
    except (ImageError, OSError, ValueError):
        return None
    if values is None:
        return np.zeros(DEEPEST + 1, np.int64)
    return np.bincount(values.ravel(), minlength=DEEPEST + 1)


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


def _warn_of_a_narrow_window(counts: np.ndarray, chosen: PixelRange) -> None:
    below = np.cumsum(counts)
    low, high = (int(np.searchsorted(below, q * below[-1])) for q in (TAIL, 1 - TAIL))
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
