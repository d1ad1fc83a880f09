"""Large image files at the size that is asked for, read band by band.

Between the file and the result lies one band of its pixels, not the whole image in several copies.
A TIFF in strips or tiles is decoded band by band, too. Other files Pillow decodes as a whole, into
one byte a pixel of grey and four of colour. The result is the same as that of `read_image` and
`resize`.
"""

import io
import math
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fastad._threads import own_threads
from fastad.data.depth import PixelRange
from fastad.data.formats.deep_colour import is_deep_colour
from fastad.data.formats.orientation import orientation
from fastad.data.formats.tiff_bands import tiff_bands
from fastad.data.images import (
    as_planes,
    is_deep_image,
    open_image,
    resize,
    rgb_array,
    zero_is_white,
)

LARGE = 2**22  # pixels: of a smaller image no band is worth its time
BAND = 2**20  # pixels of a band, about


def read_for(
    source: str | Path | io.BytesIO, size: tuple[int, int], pixel_range: PixelRange | None = None
) -> tuple[Tensor, tuple[int, int]]:
    """An image file for a resize to ``size``: uint8 (3, h, w), and its own (height, width).

    One of more than `LARGE` pixels has ``size`` already. A smaller one is as `read_image` gives it.

    Raises:
        The errors of `read_image`.

    Examples:
        >>> from PIL import Image
        >>> from fastad.data.bands import read_for
        >>> Image.new("L", (3000, 2000)).save("grey.tif", compression="tiff_lzw")
        >>> image, own_size = read_for("grey.tif", (1000, 1500))
        >>> image.shape, own_size
        (torch.Size([3, 1000, 1500]), (2000, 3000))
    """
    with open_image(source) as image:
        shape = image.height, image.width
        # Of values of 16 bits whose range is not known, rgb_array warns where all are dark.
        is_large = math.prod(shape) > LARGE and (pixel_range or not is_deep_image(image))
        if is_large and orientation(image) == 1:
            bands = _bands(image, pixel_range)
            if bands is not None:
                return _joined(bands, shape, size), shape
        found = as_planes(rgb_array(image, pixel_range))
        return found, (found.shape[1], found.shape[2])


def _bands(image: Image.Image, pixel_range: PixelRange | None) -> Iterator[np.ndarray] | None:
    """(rows, W, 3) uint8 of an open file, from the top down. None where it takes no cutting."""
    least = -(-BAND // image.width)
    pieces = None
    if image.format == "TIFF":
        file = cast(BinaryIO, image.fp)  # type: ignore[attr-defined]  # of a file
        pieces = tiff_bands(file)
    if pieces is not None:
        name = str(getattr(image, "filename", ""))
        return (_decoded(band, name, pixel_range) for band in pieces.files(file, least))
    if is_deep_colour(image) or (is_deep_image(image) and zero_is_white(image)):
        return None
    return _cut(image, least, pixel_range)


def _decoded(file: io.BytesIO, name: str, pixel_range: PixelRange | None) -> np.ndarray:
    file.name = name
    with open_image(file) as band:
        return rgb_array(band, pixel_range)


def _cut(image: Image.Image, least: int, pixel_range: PixelRange | None) -> Iterator[np.ndarray]:
    image.load()
    for top in range(0, image.height, least):
        bottom = min(top + least, image.height)
        yield rgb_array(image.crop((0, top, image.width, bottom)), pixel_range)


def _joined(bands: Iterator[np.ndarray], shape: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Bands of an image of ``shape``, resized: (3, *size)."""
    if size[1] == 1:  # which the op does not take in bands
        whole = torch.from_numpy(np.concatenate(list(bands))).permute(2, 0, 1)
        return resize(whole, size)
    found = torch.empty(3, *size, dtype=torch.uint8)
    held = np.empty((0, shape[1], 3), np.uint8)
    top = done = 0  # rows of the image before those that are held, and of the result
    for band in bands:
        held = np.concatenate([held, band])
        ready = size[0] if top + len(held) == shape[0] else done
        while ready < size[0] and _taken(ready, shape, size)[1] <= top + len(held):
            ready += 1
        if ready > done:
            rows = torch.from_numpy(held).permute(2, 0, 1)
            found[:, done:ready] = _resized(rows, shape, size, top, done, ready)
            done = ready
        if done < size[0]:
            unused = max(_taken(done, shape, size)[0] - top, 0)
            held, top = held[unused:], top + min(unused, len(held))
    return found


def _taken(row: int, shape: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
    """From which row to which one an image gives a row of its resize, and a few around."""
    if shape == size:
        return row, row + 1
    length, scale = shape[0], shape[0] / size[0]
    reach = math.ceil(max(scale, 1)) + 1
    first = max(int(scale * (row + 0.5)) - reach, 0)
    # The op looks at equally many rows for each, at the ends of the image, too.
    return max(min(first, length - 2 * reach - 1), 0), min(first + 2 * reach + 3, length)


def _resized(
    rows: Tensor, shape: tuple[int, int], size: tuple[int, int], top: int, first: int, last: int
) -> Tensor:
    """Rows first to last of a resize, from (3, h, W), the image's rows from ``top`` on."""
    if shape == size:
        return rows[:, first - top : last - top]
    with own_threads():
        return torch.ops.fastad.resize_bytes(rows[None], *size, shape[0], top, first, last)[0]
