"""Pillow's readers of PNG, JPEG and TIFF, without what the pixels do not need.

Texts, profiles, resolutions and thumbnails are passed over unread. They may be huge, or broken, and
then Pillow refuses an image whose pixels are fine, or warns. Nothing of Pillow's is changed for
other code of the process: these are subclasses, and no setting is touched.
"""

import io
import struct
from typing import IO, Any, Literal, cast

from PIL import Image, JpegImagePlugin, PngImagePlugin, TiffImagePlugin


class _OwnExif:
    """Holds what is put there, and reads none from the file."""

    def getexif(self) -> Image.Exif:
        return self.__dict__.setdefault("_own_exif", Image.Exif())


class PngFile(_OwnExif, PngImagePlugin.PngImageFile):
    """PNG by its chunks of pixels, palette and transparency. Of an animation, the still image."""

    @property
    def png(self) -> "_Chunks | None":
        return self._chunks

    @png.setter
    def png(self, stream: PngImagePlugin.PngStream | None) -> None:
        self._chunks = _Chunks(cast(IO[bytes], stream.fp)) if stream is not None else None


class _Chunks(PngImagePlugin.PngStream):
    NEEDED = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")

    def call(self, cid: bytes, pos: int, length: int) -> Any:
        if cid in self.NEEDED:
            return super().call(cid, pos, length)
        file = cast(IO[bytes], self.fp)
        file.seek(pos + max(length, 1) - 1)
        if length and not file.read(1):
            raise OSError("image file is truncated")
        return b""

    def crc(self, cid: bytes, data: bytes) -> None:
        if cid in self.NEEDED:
            super().crc(cid, data)
        else:
            self.crc_skip(cid, data)


class JpegFile(_OwnExif, JpegImagePlugin.JpegImageFile):
    """JPEG without its colour profile and resolution. Of several pictures, the first."""

    def _open(self) -> None:
        try:
            super()._open()
        except (SyntaxError, IndexError, TypeError, struct.error):  # a segment is broken
            file = cast(IO[bytes], self.fp)
            self.fp = io.BytesIO(_needed_segments(file))
            super()._open()
            self.fp = file

    @property
    def icclist(self) -> list[bytes]:
        return []  # what Pillow appends is dropped

    @icclist.setter
    def icclist(self, pieces: list[bytes]) -> None:
        pass


def _needed_segments(file: IO[bytes]) -> bytes:
    """A JPEG file up to its pixels, without comments and what applications wrote, but for EXIF."""
    file.seek(0)
    kept = file.read(2)
    marker = b""
    while marker != b"\xff\xda":  # after which the pixels come
        marker = file.read(2)
        while marker == b"\xff\xff":  # padding
            marker = b"\xff" + file.read(1)
        if len(marker) < 2 or marker[0] != 0xFF:
            raise SyntaxError("no marker found")
        length = file.read(2)
        data = file.read(int.from_bytes(length, "big") - 2)
        if (not 0xE0 <= marker[1] <= 0xEF and marker[1] != 0xFE) or data.startswith(b"Exif\0"):
            kept += marker + length + data
    return kept


class TiffFile(_OwnExif, TiffImagePlugin.TiffImageFile):
    """TIFF by the tags that describe its pixels, and not turned by Pillow, whose versions differ in
    when that happens and what ``size`` is before."""

    @property
    def tag_v2(self) -> TiffImagePlugin.ImageFileDirectory_v2:
        return self._tags

    @tag_v2.setter
    def tag_v2(self, tags: TiffImagePlugin.ImageFileDirectory_v2 | None) -> None:
        if tags is not None:  # as Pillow 10 begins
            tags.__class__ = _Tags
            self._tags = tags

    def load_end(self) -> None:
        pass  # Pillow's reads EXIF and turns the image


class _Tags(TiffImagePlugin.ImageFileDirectory_v2):
    # Size, bits, compression, photometric interpretation, fill order, strips, samples, extremes,
    # planes; fax options; predictor, palette, tiles; inks, extra samples, formats; JPEG; YCbCr; HD.
    NEEDED = frozenset(
        {
            *(256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 280, 281, 284, 292, 293, 317),
            *(320, 322, 323, 324, 325, 332, 338, 339, 347, 512, 513, 514, 529, 530, 531, 532),
            0xBC01,
        }
    )

    def _ensure_read(self, fp: IO[bytes], size: int) -> bytes:
        data = fp.read(size)
        if size in (4, 8):  # where the next directory is; some writers leave it out at the end
            return data.ljust(size, b"\0")
        if len(data) != size:
            raise ValueError("its header is cut short")
        order: Literal["little", "big"] = "little" if self._endian == "<" else "big"
        if size == 2 or int.from_bytes(data[:2], order) in self.NEEDED:
            return data
        return data[:2] + b"\xff\xff" + data[4:]  # a type that is unknown, which Pillow skips
