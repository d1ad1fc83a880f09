"""Images in memory: the same pixels as of the same image in a file.

An array or a tensor of bytes is taken as it is, one of bool as black and white, one of uint16 as a
file of 16 bits. Alpha is dropped. Floats are in [0, 1].
"""

import contextlib
import io
import mmap
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fastad.data.depth import PixelRange
from fastad.data.finding import ENDINGS
from fastad.data.formats.orientation import orientation
from fastad.data.images import image_shape, read_image, rgb_array

BUFFERS = (bytes, bytearray, memoryview, mmap.mmap)
CHANNELS = (1, 2, 3, 4)  # grey, grey and alpha, RGB, RGB and alpha
ARRAYS = (
    "uint8 of shape (N, H, W, 3), or (H, W, 3) for one, or of grey images (N, H, W, 1), or (H, W); "
    "bool, uint16 and floats in [0, 1] are taken, too, and an alpha channel is dropped"
)


class Encoded(NamedTuple):
    """The bytes of an image file, and what messages call it."""

    data: bytes
    name: str

    def read(self, pixel_range: PixelRange | None = None) -> Tensor:
        """As `read_image` reads the same file."""
        return read_image(self.file(), pixel_range)

    def file(self) -> io.BytesIO:
        """The file in memory, with its name."""
        file = io.BytesIO(self.data)
        file.name = self.name
        return file


def is_encoded(item: Any) -> bool:
    """Whether an item is the bytes of a file, or a file: something that can be read."""
    if isinstance(item, (Encoded, *BUFFERS)):
        return True
    has_reader = hasattr(item, "read") or hasattr(item, "read_bytes")
    return has_reader and not hasattr(item, "__getitem__") and not isinstance(item, os.PathLike)


def encoded(item: Any) -> Encoded:
    """The bytes of a file in memory, of an open file, or of a member of an archive.

    A file is read from its beginning, where it can be, and left at the position at which it was.

    Raises TypeError where reading does not give bytes, or the bytes are a path, and what the file
    itself raises.
    """
    if isinstance(item, Encoded):
        return item
    kind = type(item).__name__
    if isinstance(item, BUFFERS):
        content = bytes(item)
        if content.lower().endswith(tuple(map(str.encode, ENDINGS))):
            raise TypeError(
                f"images: bytes are the content of an image file; of the path {content!r} give "
                f"os.fsdecode({content!r})"
            )
        return Encoded(content, kind)
    name = str(getattr(item, "name", kind))
    if hasattr(item, "read_bytes"):
        return Encoded(item.read_bytes(), name)
    data = None if isinstance(item, io.TextIOBase) else _whole(item)
    if not isinstance(data, BUFFERS):
        raise TypeError(f'images: {name} must be a file opened in binary mode ("rb"); got {kind}')
    return Encoded(bytes(data), name)


def _whole(file: Any) -> Any:
    if not (hasattr(file, "seekable") and file.seekable()):
        with contextlib.suppress(TypeError):  # an archive wants to know what to read
            return file.read()
        return None
    position = file.tell()
    file.seek(0)
    try:
        return file.read()
    finally:
        file.seek(position)


def from_pillow(image: Image.Image, pixel_range: PixelRange | None = None) -> Tensor:
    """(3, H, W) uint8; ``pixel_range`` as of `read_image`.

    Raises ValueError for pixels without a known range.
    """
    return torch.from_numpy(rgb_array(image, pixel_range)).permute(2, 0, 1)


def with_four_axes(images: np.ndarray) -> np.ndarray:
    """One image or many, (H, W), (H, W, C) or (N, H, W, C) -> (N, H, W, C).

    Raises ValueError for another shape or dtype; the message says what is accepted.
    """
    given = images
    if images.ndim == 2:
        images = images[..., None]
    if images.ndim == 3:
        images = images[None]
    is_known = images.dtype.kind in "bf" or images.dtype.name in ("uint8", "uint16")
    if images.ndim != 4 or images.shape[3] not in CHANNELS or not is_known:
        raise ValueError(
            f"images: an array must be {ARRAYS}; got {given.dtype} {given.shape}{_advice(given)}"
        )
    if 0 in images.shape[1:]:
        raise ValueError(f"images: there are no pixels in shape {given.shape}")
    return images


def _advice(images: np.ndarray) -> str:
    """What would make an array that is refused one that is taken."""
    shape = images.shape
    if images.ndim in (3, 4) and shape[-3] in (3, 4) and shape[-1] not in CHANNELS:
        axes = "1, 2, 0" if images.ndim == 3 else "0, 2, 3, 1"
        return f": the channels come first, use images.transpose({axes})"
    if images.ndim == 3 and shape[-1] not in CHANNELS:
        return ": many grey images need a fourth axis, use images[..., None]"
    if images.dtype.kind in "iu" and images.ndim >= 2:
        return ": use images.astype(np.uint8) for values from 0 to 255, np.uint16 for 16 bits"
    return ""


def from_arrays(images: np.ndarray) -> Tensor:
    """(N, H, W, C) as `with_four_axes` gives it -> (N, 3, H, W) uint8.

    Floats are rounded to the 256 grey levels of a file. Raises ValueError where they are not in
    [0, 1].
    """
    images = np.asarray(images)  # of a subclass, such as a matrix
    kind = images.dtype.kind
    if kind == "b":
        images = images.astype(np.uint8) * np.uint8(255)
    elif kind == "f":
        least, most = (images.min(), images.max()) if images.size else (0, 1)
        if not (least >= 0 and most <= 1):  # NaN neither
            advice = ": divide them by 255" if 0 <= least <= most <= 255 else ""
            raise ValueError(
                f"images: an array must be {ARRAYS}; got {images.dtype} from {least:g} to {most:g}"
                f"{advice}"
            )
        images = np.rint(images.astype(np.float32) * 255).astype(np.uint8)
    elif images.dtype.itemsize == 2:
        images = _levels(images.astype(np.uint16))  # in this machine's order of bytes
    images = images[..., :1] if images.shape[3] < 3 else images[..., :3]
    # Torch takes no negative strides, not even of axes of one element, and warns of arrays that
    # cannot be written to, as Pillow's are.
    if any(stride < 0 for stride in images.strides) or not images.flags.writeable:
        images = images.copy()
    found = torch.from_numpy(images).permute(0, 3, 1, 2)
    return found if found.shape[1] == 3 else found.repeat(1, 3, 1, 1)


def _levels(values: np.ndarray) -> np.ndarray:
    """16 bits (N, H, W, C) -> 8 bits, as of files of so many channels."""
    if values.shape[3] > 1:
        return (values >> 8).astype(np.uint8)  # Pillow decodes colour to 8 bits
    grey = [rgb_array(Image.fromarray(image[..., 0]))[..., :1] for image in values]
    return np.stack(grey) if grey else values.astype(np.uint8)


def from_tensors(images: Tensor) -> Tensor:
    """(N, C, H, W), or (3, H, W) and (1, H, W) for one image -> (N, 3, H, W), uint8 or floating.

    Raises ValueError or TypeError; the message says what is accepted.
    """
    given = tuple(images.shape)
    if images.ndim == 3 and images.shape[0] in (1, 3):
        images = images[None]
    if images.ndim != 4 or images.shape[1] not in CHANNELS:
        raise ValueError(
            "images: a tensor must have shape (N, 3, H, W), or (3, H, W) for one, with one channel "
            f"for grey images; got {given}{_advice_on_tensor(given)}"
        )
    if 0 in images.shape[2:]:
        raise ValueError(f"images: there are no pixels in shape {given}")
    images = images.detach()
    if images.dtype in (torch.bool, torch.uint16):
        device = images.device
        images = from_arrays(images.cpu().permute(0, 2, 3, 1).numpy()).to(device)
    elif images.shape[1] != 3:
        images = images[:, :3] if images.shape[1] == 4 else images[:, :1].repeat(1, 3, 1, 1)
    if images.dtype == torch.uint8:
        return images
    if not images.is_floating_point():
        raise TypeError(
            "images: a tensor must be uint8 or floating point in [0, 1] (or bool or uint16); got "
            f"{images.dtype}"
        )
    if images.numel() and not (images.min() >= 0 and images.max() <= 1):  # false for NaN too
        raise ValueError(
            "images: a floating tensor must be in [0, 1]; "
            f"got {images.min().item():g} to {images.max().item():g}"
        )
    return images


def _advice_on_tensor(shape: tuple[int, ...]) -> str:
    if len(shape) in (3, 4) and shape[-1] in (3, 4):
        axes = "2, 0, 1" if len(shape) == 3 else "0, 3, 1, 2"
        return f": the channels come last, use images.permute({axes})"
    if len(shape) == 3:
        return ": use images[:, None] for many grey images, images[None] for one with alpha"
    return ""


def shape_of(item: Any) -> tuple[int, int] | None:
    """(height, width) of one image in any form, as it is read; None for what is no image.

    Of files the header is read alone. Raises as `image_shape`.
    """
    if isinstance(item, (str, os.PathLike)):
        return image_shape(Path(item))
    if is_encoded(item):
        return image_shape(encoded(item).file())
    if isinstance(item, Image.Image):
        turned = orientation(item) >= 5
        return (item.width, item.height) if turned else (item.height, item.width)
    if isinstance(item, Tensor) and item.ndim == 3:
        return item.shape[1], item.shape[2]
    if isinstance(item, np.ndarray) and item.ndim in (2, 3):
        return item.shape[0], item.shape[1]
    return None
