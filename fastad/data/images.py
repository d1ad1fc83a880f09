"""Images from files, and the one resize that training, evaluation and prediction share.

The resize is antialiased bilinear in floating point, the same on every device and within one grey
level of Pillow's BILINEAR. Using one function everywhere is what keeps a detector's scores the
same on the line as in training.
"""

import os
import re
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")


class ImageError(ValueError):
    """A file cannot be read as an image; the message names the file and the reason."""


def read_image(path: str | Path) -> Tensor:
    """Read an image file as RGB: uint8 (3, H, W).

    The EXIF rotation is applied, grey and palette images become RGB, an alpha channel is dropped,
    16-bit values are scaled to 8 bits (65535 -> 255), of several frames the first is taken.

    Raises FileNotFoundError when there is no such file, ImageError for anything that is not a
    complete image.
    """
    image = _open(path)
    try:
        return torch.from_numpy(rgb_array(image)).permute(2, 0, 1).contiguous()
    except ValueError as error:
        raise ImageError(f"{path}: cannot be read as an RGB image: {error}") from error


def read_mask(path: str | Path) -> Tensor:
    """Read a ground-truth mask: bool (H, W), true where a value exceeds half of its range.

    A colour mask is turned grey first. Errors as in ``read_image``.
    """
    image = _open(path)
    try:
        if image.mode == "P" or len(image.getbands()) > 1:
            image = image.convert("RGB").convert("L")
        return torch.from_numpy(_grey_to_8_bits(image) > 127)
    except ValueError as error:
        raise ImageError(f"{path}: cannot be read as a mask: {error}") from error


def rgb_array(image: Image.Image) -> np.ndarray:
    """Pixels of a Pillow image as ``read_image`` gives them, but (H, W, 3) uint8.

    Raises ValueError for pixels without a known range (32-bit integers and floats).
    """
    image = ImageOps.exif_transpose(image)
    if image.mode == "F" or image.mode.startswith("I"):
        grey = _grey_to_8_bits(image)
        return np.repeat(grey[:, :, None], 3, axis=2)
    return np.array(image.convert("RGB"))


def _open(path: str | Path) -> Image.Image:
    try:
        image = Image.open(path)
        image.load()
    except (FileNotFoundError, PermissionError):
        raise
    except Exception as error:  # broken files raise whatever the decoder stumbles over
        reason = "is empty" if _is_empty(path) else f"is no readable image: {error}"
        raise ImageError(f"{path}: {reason}") from error
    return image


def _is_empty(path: str | Path) -> bool:
    return os.path.isfile(path) and os.path.getsize(path) == 0


def _grey_to_8_bits(image: Image.Image) -> np.ndarray:
    """One-channel image -> (H, W) uint8."""
    if image.mode == "F":
        raise ValueError("32-bit float pixels have no known range; save it with 8 or 16 bits")
    if not image.mode.startswith("I"):
        return np.array(image.convert("L"))
    # 16-bit files come as "I;16" or, from some Pillow versions and formats, as 32-bit "I".
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError("32-bit integer pixels have no known range; save it with 8 or 16 bits")
    return ((values + 128) // 257).astype(np.uint8)


def resize(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize images (..., C, H, W) to ``size`` (H, W), antialiased bilinear.

    Floating images keep their dtype, uint8 images are rounded back to uint8. Three or four
    dimensions. An image that has the size already is returned as it is.
    """
    if images.ndim not in (3, 4):
        raise ValueError(
            f"images must be (C, H, W) or (N, C, H, W), got shape {tuple(images.shape)}"
        )
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise TypeError(f"images must be uint8 or floating point, got {images.dtype}")
    if tuple(images.shape[-2:]) == tuple(size):
        return images
    if size[1] == 1 and size[0] > 1:  # torch's antialiased kernel is wrong for an output width of 1
        return resize(images.mT, (1, size[0])).mT
    batch = images if images.ndim == 4 else images[None]
    # Half precision has no antialiased kernel on CPU. uint8 has one, on CPU only and with 16-bit
    # weights: going through float32 gives the same grey levels on every device.
    wide = batch if batch.dtype == torch.float64 else batch.float()
    wide = F.interpolate(wide, size=size, mode="bilinear", antialias=True, align_corners=False)
    if images.dtype == torch.uint8:
        wide = wide.round_().clamp_(0, 255)
    result = wide.to(images.dtype)
    return result if images.ndim == 4 else result[0]


def resize_masks(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize bool masks (..., H, W) to ``size`` by nearest neighbour (pixel centres)."""
    if tuple(masks.shape[-2:]) == tuple(size):
        return masks
    flat = masks.reshape(-1, 1, *masks.shape[-2:]).to(torch.uint8)
    return (
        F.interpolate(flat, size=size, mode="nearest-exact")
        .bool()
        .reshape(*masks.shape[:-2], *size)
    )


def parse_size(size: str | int | tuple[int, int]) -> tuple[int, int]:
    """``256``, ``"256"``, ``"640x256"`` (height x width) or ``(640, 256)`` -> (height, width)."""
    if isinstance(size, str):
        match = re.fullmatch(r"\s*(\d+)\s*(?:[xX]\s*(\d+)\s*)?", size)
        sides = (int(match[1]), int(match[2] or match[1])) if match else ()
    elif isinstance(size, int) and not isinstance(size, bool):
        sides = (size, size)
    elif isinstance(size, (tuple, list)) and all(type(side) is int for side in size):
        sides = tuple(size)
    else:
        sides = ()
    if len(sides) != 2 or min(sides) < 1:
        raise ValueError(
            f"image size must be like 256 or 640x256 (height x width) and positive, got {size!r}"
        )
    return sides


def find_images(folder: str | Path) -> list[Path]:
    """Image files below a folder, at any depth, in natural order (2.png before 10.png).

    Recognised by their ending, in upper or lower case; hidden files and folders are passed over,
    links to folders are followed. Raises FileNotFoundError or NotADirectoryError.
    """
    folder = Path(folder)
    if not folder.exists():
        raise FileNotFoundError(f"no such folder: {folder}")
    if not folder.is_dir():
        raise NotADirectoryError(f"not a folder: {folder}")
    found, seen = [], set()
    for root, subfolders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(root)
        if real in seen:  # a link back to a folder above would never end
            subfolders.clear()
            continue
        seen.add(real)
        subfolders[:] = [name for name in sorted(subfolders) if not name.startswith(".")]
        found += [
            Path(root, name)
            for name in files
            if name.lower().endswith(ENDINGS) and not name.startswith(".")
        ]
    return sorted(found, key=lambda path: natural_key(path.relative_to(folder).as_posix()))


def natural_key(text: str) -> tuple:
    """Sort key that orders numbers inside names by value; equal names by their exact spelling."""
    pieces = re.split(r"([0-9]+)", text)
    return [int(p) if i % 2 else p.lower() for i, p in enumerate(pieces)], text
