"""Images from files, and the one resize that training, evaluation and prediction share.

The resize is antialiased bilinear in floating point, the same on every device and within one grey
level of Pillow's BILINEAR. Using one function everywhere is what keeps a detector's scores the
same on the line as in training.
"""

import io
import os
import re
import stat
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import torch
import torch.nn.functional as F
from PIL import ExifTags, Image, ImageFile, TiffImagePlugin
from torch import Tensor

from fastad import _extension  # noqa: F401  registers the op
from fastad._values import is_integer, plain
from fastad.data.depth import PixelRange, levels_within
from fastad.data.formats.decoders import JpegFile, PngFile, TiffFile
from fastad.data.formats.deep_colour import colour_values, is_deep_colour, name_planes
from fastad.data.formats.orientation import orientation, stored_orientation, upright
from fastad.data.remote import fetch, is_address

MAX_SIDE = 8192  # pixels; beyond it one image's features take gigabytes

# By content, whatever the ending says. Not every decoder of Pillow's: some run other programs.
FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF", "PPM", "JPEG2000")
_READERS = {"PNG": PngFile, "JPEG": JpegFile, "TIFF": TiffFile}


_FOLDER = "a folder; give it by itself, or the list of its files by fastad.data.find_images"


class ImageError(ValueError):
    """A file cannot be read as an image; the message names the file and the reason."""


def read_image(path: str | Path | io.BytesIO, pixel_range: PixelRange | None = None) -> Tensor:
    """Read an image file, on disk or in memory, as RGB: uint8 (3, H, W).

    The EXIF rotation is applied. Grey and palette images become RGB, an alpha channel is dropped.
    Of several frames the first is taken.

    Args:
        path: of the file.
        pixel_range: the values of 16-bit pixels that become black and white. None takes all 16
            bits: 65535 becomes 255.

    Raises:
        FileNotFoundError: there is no such file.
        PermissionError: the file may not be read.
        ImageError: the file is no complete image, or has too many pixels. The limit is twice
            Pillow's MAX_IMAGE_PIXELS, or the environment variable FASTAD_MAX_PIXELS.

    Examples:
        >>> import numpy as np
        >>> from PIL import Image
        >>> from fastad.data import read_image
        >>> Image.fromarray(np.full((48, 64), 128, dtype=np.uint8)).save("grey.png")
        >>> image = read_image("grey.png")
        >>> image.shape, image.dtype, image[:, 0, 0]
        (torch.Size([3, 48, 64]), torch.uint8, tensor([128, 128, 128], dtype=torch.uint8))
    """
    with open_image(path) as image:
        return as_planes(rgb_array(image, pixel_range))


def as_planes(array: np.ndarray) -> Tensor:
    """(H, W, 3) -> (3, H, W)."""
    return torch.from_numpy(array).permute(2, 0, 1).contiguous()


def rgb_array(image: Image.Image, pixel_range: PixelRange | None = None) -> np.ndarray:
    """Pixels of a Pillow image as ``read_image`` gives them, but (H, W, 3) uint8.

    Raises ValueError for pixels without a known range (32-bit integers and floats).
    """
    of_colour = is_deep_colour(image)
    if is_deep_image(image) and not (of_colour and pixel_range is None):
        inverted = zero_is_white(image)
        values = stored_values(image)
        if pixel_range is None:
            _warn_if_dark(values)
        levels = levels_within(values, pixel_range)
        levels = 255 - levels if inverted else levels
        return levels if levels.ndim == 3 else np.repeat(levels[:, :, None], 3, axis=2)
    if of_colour:
        name_planes(image)
    image = upright(image)
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # straight to RGB would warn
    array = np.array(image if image.mode == "RGB" else image.convert("RGB"))
    if of_colour:
        _warn_if_dark(array.astype(np.uint16) << 8)
    return array


def is_deep_image(image: Image.Image) -> bool:
    """Whether the pixels have more than 8 bits; of colour only as `is_deep_colour` knows."""
    return image.mode.startswith(("I", "F")) or is_deep_colour(image)


def stored_values(image: Image.Image) -> np.ndarray:
    """Values of an image of 16 bits: (H, W) of grey or (H, W, 3). Raises as `rgb_array`."""
    if is_deep_colour(image):
        return colour_values(image, _reopened, upright)
    return deep_values(upright(image))


def zero_is_white(image: Image.Image) -> bool:
    """Whether a grey image of 16 bits is a negative, which Pillow turns round at 8 bits alone."""
    tags = getattr(image, "tag_v2", {})
    return tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0 and image.mode[0] == "I"


def _reopened(image: ImageFile.ImageFile) -> ImageFile.ImageFile:
    """The file and frame of an image that is not decoded yet, once more."""
    assert image.fp is not None  # it is open until the pixels are decoded
    image.fp.seek(0)
    again = type(image)(image.fp, image.filename)
    if isinstance(again, (PngFile, TiffFile)):
        _keep_the_orientation_alone(cast(BinaryIO, image.fp), again)
    _check_pixels(again)
    if image.tell():
        again.seek(image.tell())
    return again


def _warn_if_dark(values: np.ndarray) -> None:
    most = int(values.max())
    if values.size > 10_000 and 0 < most < 2**14:  # a picture, as of a camera of 12 bits
        bits = next(bits for bits in (8, 10, 12, 14) if most < 2**bits)
        warnings.warn(
            f"a 16-bit image uses only the lower {bits} bits and is read as nearly black, as "
            f"65535 is taken for white: give bit_depth={bits} to the training, or "
            f"pixel_range=PixelRange(0, {2**bits - 1}) to read_image (said once)",
            stacklevel=3,
        )


@contextmanager
def open_image(path: str | Path | io.BytesIO) -> Iterator[Image.Image]:
    """Give the first frame of a file, or of one in memory, its header read and its pixels not yet.

    Whatever goes wrong with it inside the block, decoding too, is raised as ImageError; errors
    otherwise as in ``read_image``.
    """
    if not isinstance(path, io.BytesIO) and is_address(path):
        path = fetch(path)
    name: str | Path = getattr(path, "name", "BytesIO") if isinstance(path, io.BytesIO) else path
    mode = stat.S_IFREG if isinstance(path, io.BytesIO) else os.stat(path).st_mode
    if not stat.S_ISREG(mode):  # a named pipe would wait for its writer for ever
        raise ImageError(f"{path}: is {_FOLDER if stat.S_ISDIR(mode) else 'no regular file'}")
    with path if isinstance(path, io.BytesIO) else open(path, "rb") as file:
        try:
            image = _decoder(file, name)
            _check_pixels(image)
            yield image
        except Exception as error:  # broken files raise whatever the decoder stumbles over
            reason = f"cannot be read as an image: {error or type(error).__name__}"
            if file.seek(0, os.SEEK_END) == 0:
                reason = "is empty"
            raise ImageError(f"{name}: {reason}") from error


def _decoder(file: BinaryIO, path: str | Path) -> Image.Image:
    # Image.open would warn of, or refuse, images by a limit of its own that only global state
    # lifts; nothing of the warnings module can be silenced in one thread alone.
    Image.init()
    prefix = file.read(16)
    for name in (name for name in FORMATS if name in Image.OPEN):
        factory, accepts = Image.OPEN[name]
        if accepts is not None and accepts(prefix) is True:
            file.seek(0)
            try:
                image = _READERS.get(name, factory)(file, os.fspath(path))
                _keep_the_orientation_alone(file, image)
                return image
            except (SyntaxError, IndexError, TypeError, struct.error) as error:
                raise ValueError(f"its header is damaged: {error}") from error
            except Image.DecompressionBombError as error:  # WebP alone checks this early
                raise ValueError(f"{error} PIL.Image.MAX_IMAGE_PIXELS raises it.") from error
    raise ValueError(f"it is none of {', '.join(FORMATS)}")


def _check_pixels(image: Image.Image) -> None:
    given = os.environ.get("FASTAD_MAX_PIXELS", "").strip()
    if given and not (given.isdecimal() and int(given) > 0):
        raise ValueError(f"FASTAD_MAX_PIXELS must be a number of pixels; it is {given!r}")
    width, height = image.size
    pillows = Image.MAX_IMAGE_PIXELS
    limit = int(given) if given else None if pillows is None else 2 * pillows
    if limit is None:
        return
    if width * height > limit:
        raise ValueError(
            f"{height}x{width} is {width * height} pixels, more than the limit of {limit}; the "
            "environment variable FASTAD_MAX_PIXELS raises it for files that you trust"
        )
    if image.format == "TIFF" and pillows is not None and width * height > pillows:
        # Decoding would apply Pillow's limit again; it does not where memory is there already.
        image.im = Image.core.new(image.mode, image.size)


def _keep_the_orientation_alone(file: BinaryIO, image: Image.Image) -> None:
    value = stored_orientation(file, image)
    for name in ("exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif"):
        image.info.pop(name, None)  # Pillow would read them again when it turns the image
    image.getexif()[ExifTags.Base.Orientation] = value


def deep_values(image: Image.Image) -> np.ndarray:
    """Pixels of a 16-bit grey image: (H, W) int64."""
    if image.mode == "F":
        raise ValueError("32-bit float pixels have no known range; save it with 8 or 16 bits")
    # 16-bit files come as "I;16" or, from some Pillow versions and formats, as 32-bit "I".
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError("32-bit integer pixels have no known range; save it with 8 or 16 bits")
    return values


def resize(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize images to ``size``, antialiased bilinear.

    Images that have the size already are returned as they are.

    Args:
        images: (C, H, W) or (N, C, H, W), uint8 or floating.
        size: (H, W) of the result, in pixels.

    Returns:
        Images of the same dtype. uint8 values are rounded.

    Raises:
        ValueError: a wrong number of dimensions.
        TypeError: another dtype.

    Examples:
        >>> import torch
        >>> from fastad.data import resize
        >>> image = torch.tensor([[[0, 0, 200, 200]]], dtype=torch.uint8)  # (C, H, W)
        >>> resize(image, (1, 2))
        tensor([[[ 29, 171]]], dtype=torch.uint8)
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
    if images.dtype == torch.uint8 and images.device.type == "cpu" and 0 not in images.shape:
        result = _resize_bytes(batch, size)
        return result if images.ndim == 4 else result[0]
    # Half precision has no antialiased kernel on CPU. uint8 has one, on CPU only and with 16-bit
    # weights: going through float32 gives the same grey levels on every device.
    wide = batch if batch.dtype == torch.float64 else batch.float()
    wide = F.interpolate(wide, size=size, mode="bilinear", antialias=True, align_corners=False)
    if images.dtype == torch.uint8:
        wide = wide.round_().clamp_(0, 255)
    result = wide.to(images.dtype)
    return result if images.ndim == 4 else result[0]


def _resize_bytes(images: Tensor, size: tuple[int, int]) -> Tensor:
    """What the way through float32 gives, in one pass over the bytes."""
    interleaved = images.stride(1) == 1 and images.stride(3) == images.shape[1]
    if not interleaved and images.stride(3) != 1:
        images = images.contiguous()
    return torch.ops.fastad.resize_bytes(images, *size)


@torch.library.register_fake("fastad::resize_bytes")
def _fake(
    images: Tensor,
    height: int,
    width: int,
    rows: int = -1,
    top: int = 0,
    first: int = 0,
    last: int = -1,
) -> Tensor:
    return images.new_empty((*images.shape[:2], (height if last < 0 else last) - first, width))


def parse_size(size: str | int | tuple[int, int]) -> tuple[int, int]:
    """``256``, ``"256"``, ``"640x256"`` (height x width) or ``(640, 256)`` -> (height, width).

    Raises:
        ValueError: anything else, or a side above `MAX_SIDE` pixels.

    Examples:
        >>> from fastad.data import parse_size
        >>> parse_size("640x256"), parse_size(256)
        ((640, 256), (256, 256))
    """
    size = plain(size)
    if isinstance(size, str):
        match = re.fullmatch(r"\s*(\d+)\s*(?:[xX]\s*(\d+)\s*)?", size)
        sides: tuple[int, ...] = (int(match[1]), int(match[2] or match[1])) if match else ()
    elif is_integer(size, 1):
        sides = (size, size)
    elif isinstance(size, (tuple, list)) and all(is_integer(side, 1) for side in size):
        sides = tuple(size)
    else:
        sides = ()
    if len(sides) != 2 or min(sides) < 1:
        raise ValueError(
            f"image size must be like 256 or 640x256 (height x width) and positive, got {size!r}"
        )
    if max(sides) > MAX_SIDE:
        raise ValueError(f"image size may be at most {MAX_SIDE} a side, got {size!r}")
    return sides[0], sides[1]


def image_shape(path: str | Path | io.BytesIO) -> tuple[int, int]:
    """(height, width) of an image, its EXIF rotation applied, from its header alone.

    Errors as `read_image`.
    """
    with open_image(path) as image:
        width, height = image.size
        return (width, height) if orientation(image) >= 5 else (height, width)
