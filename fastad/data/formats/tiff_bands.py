"""A large TIFF in bands, each of which is a small TIFF of some of its strips or rows of tiles.

Strips and tiles are compressed one by one. So a file with the header of the large one and some of
its strips is a TIFF, too, and Pillow decodes it to the very pixels of the large one.
"""

import io
import itertools
import struct
from collections.abc import Iterator
from contextlib import suppress
from typing import BinaryIO, NamedTuple

from fastad.data.formats.decoders import _Tags

_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}  # of types
_FORMATS = {1: "B", 3: "H", 4: "I"}
_LONG = 4
_WIDTH, _LENGTH, _COMPRESSION, _PLANES = 256, 257, 259, 284
_STRIPS, _TILES = (273, 279, 278), (324, 325, 323)  # tags of offsets, of byte counts, of rows
_TILE_WIDTH = 322
# None, LZW, deflate, PackBits, JPEG, LZMA, Zstandard: what comes before in the file does not count.
_COMPRESSIONS = frozenset({1, 5, 7, 8, 32773, 32946, 34925, 50000})
_MOST = 2**20  # strips; more are no picture

Entry = tuple[int, bytes]  # type, and the value


class TiffBands(NamedTuple):
    """Where the pixels of a TIFF lie.

    Attributes:
        order: of its bytes, as `struct` writes it.
        entries: of its directory, by tag.
        tags: of offsets and byte counts.
        pieces: (offset, bytes) of each strip or tile.
        across: pieces side by side.
        height, rows: of the image, and of a piece.
    """

    order: str
    entries: dict[int, Entry]
    tags: tuple[int, int]
    pieces: list[tuple[int, int]]
    across: int
    height: int
    rows: int

    def files(self, file: BinaryIO, least: int) -> Iterator[io.BytesIO]:
        """Bands of at least so many rows, from the top down, but for the last one."""
        step = -(-least // self.rows)
        for first in range(0, -(-self.height // self.rows), step):
            height = min(step * self.rows, self.height - first * self.rows)
            data = []
            for offset, length in self.pieces[first * self.across : (first + step) * self.across]:
                file.seek(offset)
                data.append(file.read(length))
            yield io.BytesIO(self._file(height, data))

    def _file(self, height: int, data: list[bytes]) -> bytes:
        order, count = self.order, len(data)
        entries = self.entries | {
            _LENGTH: (_LONG, struct.pack(order + "I", height)),
            self.tags[0]: (_LONG, bytes(4 * count)),
            self.tags[1]: (_LONG, struct.pack(f"{order}{count}I", *map(len, data))),
        }
        begin = 8 + 2 + 12 * len(entries) + 4
        after = begin + sum(len(value) + len(value) % 2 for _, value in entries.values())
        offsets = [*itertools.accumulate(map(len, data[:-1]), initial=after)]
        entries[self.tags[0]] = (_LONG, struct.pack(f"{order}{count}I", *offsets))
        directory, values = b"", b""
        for tag, (kind, value) in sorted(entries.items()):
            field = value.ljust(4, b"\0")
            if len(value) > 4:
                field = struct.pack(order + "I", begin + len(values))
                values += value + bytes(len(value) % 2)
            directory += struct.pack(order + "HHI", tag, kind, len(value) // _BYTES[kind]) + field
        head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, 8)
        head += struct.pack(order + "H", len(entries)) + directory + bytes(4)
        return (head + values).ljust(after, b"\0") + b"".join(data)


def tiff_bands(file: BinaryIO) -> TiffBands | None:
    """Of a TIFF's first image; None where its pieces cannot be decoded by themselves.

    That is a BigTIFF, one with a plane for each colour, a rare compression, or a single piece.
    """
    position = file.tell()
    try:
        with suppress(struct.error, KeyError, IndexError, ValueError, OverflowError):
            return _bands(file)
    finally:
        file.seek(position)
    return None


def _bands(file: BinaryIO) -> TiffBands | None:
    file.seek(0)
    header = file.read(8)
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(header[:4])
    if order is None:
        return None
    entries = _entries(file, order, struct.unpack(order + "I", header[4:])[0])

    def numbers(tag: int) -> tuple[int, ...]:
        kind, value = entries[tag]
        return struct.unpack(f"{order}{len(value) // _BYTES[kind]}{_FORMATS[kind]}", value)

    def one(tag: int, default: int) -> int:
        return numbers(tag)[0] if tag in entries else default

    if one(_COMPRESSION, 1) not in _COMPRESSIONS or one(_PLANES, 1) != 1:
        return None
    height = one(_LENGTH, 0)
    tags = _TILES if _TILES[0] in entries else _STRIPS
    rows = one(tags[2], height)
    across = -(-one(_WIDTH, 0) // one(_TILE_WIDTH, 0)) if tags is _TILES else 1
    pieces = list(zip(numbers(tags[0]), numbers(tags[1]), strict=True))
    if not 0 < rows < height or len(pieces) != across * -(-height // rows):
        return None
    return TiffBands(order, entries, tags[:2], pieces, across, height, rows)


def _entries(file: BinaryIO, order: str, place: int) -> dict[int, Entry]:
    """What describes the pixels, of the directory at a place."""
    file.seek(place)
    (count,) = struct.unpack(order + "H", file.read(2))
    block = file.read(12 * count)
    entries = {}
    for tag, kind, number, field in struct.iter_unpack(order + "HHI4s", block):
        if tag not in _Tags.NEEDED:
            continue
        length = number * _BYTES[kind]
        if length > 4:
            if number > _MOST:
                return {}
            file.seek(struct.unpack(order + "I", field)[0])
            field = file.read(length)
        entries[tag] = (kind, field[:length])
    return entries
