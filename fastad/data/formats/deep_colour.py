"""Colour images of 16 bits a channel, whose lower bytes Pillow leaves out.

Pillow knows no such images. It reads a pixel of 16-bit RGB by an unpacker that takes the more
significant byte of each value. The unpacker for the other byte order takes the less significant
one of the same data. So a file that is decoded by each of them gives all bits, whatever its
compression, and whatever Pillow checks is checked.
"""

import re
import sys
from collections.abc import Callable
from typing import IO, Any, cast

import numpy as np
from PIL import Image, ImageFile, Jpeg2KImagePlugin, PngImagePlugin, TiffImagePlugin

Reopen = Callable[[ImageFile.ImageFile], ImageFile.ImageFile]
Upright = Callable[[Image.Image], Image.Image]

_OTHER = {"L": "B", "B": "L", "N": "B" if sys.byteorder == "little" else "L"}
_UNPACKER = re.compile(r"(RGBA|RGBa|RGBX|RGB|LA|[RGBAX;]);16([LBN])")
_ENOUGH = 2**20  # bytes of boxes before the pixels
_LOST = (
    "the lower 8 of its 16 bits cannot be read {how}: save it uncompressed, with its colours side "
    "by side, as grey, or with 8 bits"
)
_DECODED = (
    "the lower 8 of its 16 bits cannot be read from a Pillow image that is decoded already: give "
    "its path, or open it anew"
)


def is_deep_colour(image: Image.Image) -> bool:
    """Whether a file's pixels are colours of 16 bits, or grey of 16 bits with alpha.

    Known until they are decoded, of a TIFF, and a PNG whose file is there, afterwards, too.
    """
    return _has_16_bits(image) if image.mode in ("RGB", "RGBA", "LA") else False


def colour_values(image: Image.Image, reopen: Reopen, upright: Upright) -> np.ndarray:
    """All bits of a deep colour image that is not decoded yet: (H, W, 3) uint16, alpha dropped.

    Args:
        image: one of which `is_deep_colour` is true. It is not decoded.
        reopen: the same file and frame as a new image.
        upright: turns an image as its EXIF rotation says.

    Raises:
        ValueError: the pixels are decoded already, or so stored that Pillow cannot give all bits.
    """
    if not isinstance(image, ImageFile.ImageFile) or not image.tile:
        raise ValueError(_DECODED)
    if isinstance(image, Jpeg2KImagePlugin.Jpeg2KImageFile):
        raise ValueError(_LOST.format(how="from JPEG 2000"))
    stored = _unpackers(image)[0]
    upper, lower = (
        np.asarray(upright(_unpacked_by(reopen(image), lower))).astype(np.uint16)
        for lower in (False, True)
    )
    values = (upper << 8) | (lower[..., 1:2] if stored.startswith("LA") else lower)
    if stored.startswith("RGBa"):  # the colours were multiplied by alpha
        alpha = np.maximum(values[..., 3:], 1).astype(np.uint64)
        values = np.minimum(values * np.uint64(65535) // alpha, 65535).astype(np.uint16)
    return np.ascontiguousarray(values[..., :3])


def name_planes(image: Image.Image) -> None:
    """Let a TIFF with a plane for each colour decode as 16 bits; Pillow would take them for 8."""
    if isinstance(image, ImageFile.ImageFile) and image.tile:
        _set_unpackers(image, _unpackers(image))


def _has_16_bits(image: Image.Image) -> bool:
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        photometric = image.tag_v2.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION)
        return photometric == 2 and 16 in image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, ())
    if isinstance(image, PngImagePlugin.PngImageFile):
        return ";16" in _unpackers(image)[0] if image.tile else _header_has_16_bits(image.filename)
    if isinstance(image, Jpeg2KImagePlugin.Jpeg2KImageFile) and image.tile:
        return _declares_16_bits(image)
    return False


def _declares_16_bits(image: Jpeg2KImagePlugin.Jpeg2KImageFile) -> bool:
    """Of JPEG 2000's first colour. Fewer bits that are declared are scaled as 8 bits are."""
    file = cast(IO[bytes], image.fp)
    position = file.tell()
    file.seek(0)
    _, marker, header = file.read(_ENOUGH).partition(b"\xff\x4f\xff\x51")
    file.seek(position)
    return bool(marker) and header[38:39] == b"\x0f"  # one less than the number of bits


def _header_has_16_bits(path: Any) -> bool:
    """Of the file that a PNG was decoded from; Pillow keeps its name, but not its depth."""
    try:
        with open(path, "rb") as file:
            header = file.read(25)
    except (OSError, TypeError, ValueError):  # none, or gone
        return False
    return header.startswith(b"\x89PNG") and header[24:] == b"\x10"


def _name(tile: Any) -> str:
    return tile[3] if isinstance(tile[3], str) else tile[3][0]


def _unpackers(image: ImageFile.ImageFile) -> list[str]:
    """Of each tile, with the bits that Pillow leaves out where a tile is of one colour (TIFF)."""
    order = "L" if getattr(getattr(image, "tag_v2", None), "prefix", b"II") == b"II" else "B"
    names = [_name(tile) for tile in image.tile]
    return [f"{name};16{order}" if len(name) == 1 else name for name in names]


def _set_unpackers(image: ImageFile.ImageFile, names: list[str]) -> None:
    tiles: list[Any] = []
    for tile, name in zip(image.tile, names, strict=True):
        if name[0] in "X;":  # a plane that is no colour
            continue
        kind, extents, offset, arguments = tile
        changed = (name, *arguments[1:]) if isinstance(arguments, tuple) else name
        tiles.append((kind, extents, offset, changed))
    named = getattr(ImageFile, "_Tile", None)  # older versions of Pillow have plain tuples
    image.tile = tiles if named is None else [named(*tile) for tile in tiles]


def _unpacked_by(image: ImageFile.ImageFile, lower: bool) -> ImageFile.ImageFile:
    """The image with unpackers that give the upper or the lower byte of each value."""
    is_planar = getattr(image, "tag_v2", {}).get(TiffImagePlugin.PLANAR_CONFIGURATION, 1) == 2
    if is_planar and any(tile[0] == "libtiff" for tile in image.tile):
        raise ValueError(_LOST.format(how="as it is compressed with a plane for each colour"))
    names = []
    for name in _unpackers(image):
        match = _UNPACKER.fullmatch(name)
        if match is None or (match[1] == "LA" and image.mode != "RGBA"):
            raise ValueError(_LOST.format(how=f"as {name}"))
        channels, order = match[1].replace("RGBa", "RGBA"), match[2]
        if channels == "LA" and lower:
            names.append("RGBA")  # the bytes as they come: upper and lower of grey, then of alpha
        else:
            names.append(f"{channels};16{_OTHER[order] if lower else order}")
    _set_unpackers(image, names)
    return image
