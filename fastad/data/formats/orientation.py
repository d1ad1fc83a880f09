"""The rotation that a file asks for, read from its bytes.

Only the one entry is looked at: whatever else is broken in a file's EXIF neither refuses the image
nor warns. Where EXIF has no orientation, that of XMP counts, as in Pillow.
"""

import io
import re
import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from typing import BinaryIO, cast

from PIL import ExifTags, Image, PngImagePlugin, TiffImagePlugin

from fastad.data.formats.decoders import JpegFile, PngFile, TiffFile

_XMP_TAG = 700
_INTEGERS = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i"}  # TIFF's types
_ENOUGH = 2**20  # bytes of metadata that are looked through
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def upright(image: Image.Image) -> Image.Image:
    """Decode an image and turn it as its orientation says; the image itself if there is no turn."""
    if isinstance(image, TiffImagePlugin.TiffImageFile) and not isinstance(image, TiffFile):
        # The caller's own. Pillow turns it, but without a name does not map the file into memory:
        # from version 11 on it maps with the size after the turn, which tears the rows.
        name, image.filename = image.filename, ""
        try:
            image.load()
        finally:
            image.filename = name
        return image
    image.load()
    turn = _TURNS.get(orientation(image))
    return image if turn is None else image.transpose(turn)


def orientation(image: Image.Image) -> int:
    """1 to 8 of an image, which is not decoded by it.

    Pillow's own PNGs would be, and of what is decoded nobody knows that it had 16 bits.
    """
    if (
        isinstance(image, PngImagePlugin.PngImageFile)
        and not isinstance(image, PngFile)
        and image.tile
        and image.fp is not None
    ):
        return stored_orientation(cast(BinaryIO, image.fp), image)
    try:
        value = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # an image that somebody else opened; its EXIF may be broken anyhow
        return 1
    return value if value in _TURNS else 1


def stored_orientation(file: BinaryIO, image: Image.Image) -> int:
    """1 to 8, of an image file that Pillow has opened. What is missing or unreadable is 1."""
    position = file.tell()
    exif, xmp = image.info.get("exif"), image.info.get("xmp")
    value = None
    if isinstance(image, JpegFile):  # whose XMP is not in `info` before Pillow 11
        begin = b"http://ns.adobe.com/xap/1.0/\0"
        xmp = next((data for _, data in image.applist if data.startswith(begin)), None)
    try:
        if image.format == "TIFF":
            file.seek(0)
            value, xmp = _of_tiff(file)
        elif image.format == "PNG":
            exif, xmp = _png_metadata(file)
        if exif:
            value, _ = _of_tiff(io.BytesIO(re.sub(rb"^(Exif\0\0)+", b"", exif[:_ENOUGH])))
    except (ValueError, OverflowError, OSError, struct.error):
        pass
    file.seek(position)
    if value is None and isinstance(xmp, bytes):
        match = re.search(rb'tiff:Orientation(?:="|>)([0-9])', xmp[:_ENOUGH])
        value = int(match[1]) if match else None
    return value if value in _TURNS else 1


def _of_tiff(file: BinaryIO) -> tuple[int | None, bytes | None]:
    """Orientation and XMP of a TIFF file's first directory; EXIF is a TIFF file, too."""
    header = file.read(16)
    order = {b"II": "<", b"MM": ">"}.get(header[:2])
    if order is None:
        return None, None
    value, place, length = None, None, 0
    for tag, kind, count, field in _entries(file, header, order):
        if tag == ExifTags.Base.Orientation and value is None:
            number = _INTEGERS.get(kind)
            value = struct.unpack_from(order + number, field)[0] if number and count else 1
        elif tag == _XMP_TAG:
            place, length = (
                struct.unpack(order + ("Q" if len(field) == 8 else "I"), field)[0],
                count,
            )
    if value is not None or place is None:
        return value, None
    file.seek(place)
    return None, file.read(min(length, _ENOUGH))


def _entries(file: BinaryIO, header: bytes, order: str) -> Iterator[tuple[int, int, int, bytes]]:
    """(tag, type, count, value or its offset) of the first directory, as far as the file goes."""
    big = 43 in header[2:4]  # BigTIFF has 64-bit offsets
    offset, entry = ("Q", "HHQ8s") if big else ("I", "HHI4s")
    file.seek(struct.unpack_from(order + offset, header, 8 if big else 4)[0])
    (number,) = struct.unpack(order + ("Q" if big else "H"), file.read(8 if big else 2))
    size = struct.calcsize(order + entry)
    block = file.read(min(number, 65535) * size)
    yield from struct.iter_unpack(order + entry, block[: len(block) // size * size])


def _png_metadata(file: BinaryIO) -> tuple[bytes | None, bytes | None]:
    """EXIF and XMP of a PNG file, before its pixels or after them. Pixels are passed over."""
    exif, profile, xmp = None, None, None
    file.seek(8)
    while len(head := file.read(8)) == 8 and head[4:] != b"IEND":
        after = file.tell() + int.from_bytes(head[:4], "big") + 4
        if head[4:] in (b"eXIf", b"iTXt", b"zTXt", b"tEXt"):
            data = file.read(min(after - 4 - file.tell(), _ENOUGH))
            if head[4:] == b"eXIf":
                exif = data
            elif data.startswith(b"XML:com.adobe.xmp\0"):
                text = data[20:].split(b"\0", 2)[-1]
                xmp = _unpacked(text) if data[18:19] == b"\1" else text
            elif data.startswith(b"Raw profile type exif\0"):  # as ImageMagick once wrote it
                profile = _unpacked(data[23:]) if head[4:] == b"zTXt" else data[22:]
        file.seek(after)
    if exif is None and profile is not None:
        with suppress(ValueError):
            exif = bytes.fromhex(b"".join(profile.split(b"\n")[3:]).decode("ascii"))
    return exif, xmp


def _unpacked(data: bytes) -> bytes:
    try:
        return zlib.decompressobj().decompress(data, _ENOUGH)
    except zlib.error:
        return b""
