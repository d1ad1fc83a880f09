"""Files of 16 bits a value, as cameras write them and Pillow cannot."""

import struct
import zlib

import numpy as np

COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}  # of a PNG, by its channels
ADAM7 = (
    (0, 0, 8, 8),
    (0, 4, 8, 8),
    (4, 0, 8, 4),
    (0, 2, 4, 4),
    (2, 0, 4, 2),
    (0, 1, 2, 2),
    (1, 0, 2, 1),
)


def write_png(path, values, interlaced=False, filtered=False):
    """(H, W) or (H, W, C) uint16, as PNG: rows unfiltered, or each less the one above it."""
    values = values.reshape(*values.shape[:2], -1)
    height, width, channels = values.shape
    passes = ADAM7 if interlaced else ((0, 0, 1, 1),)
    rows = b""
    for top, left, down, right in passes:
        part = values[top::down, left::right].astype(">u2")
        lines = np.frombuffer(part.tobytes(), np.uint8).reshape(part.shape[0], -1)
        before = np.vstack([np.zeros_like(lines[:1]), lines[:-1]])
        for line, above in zip(lines, before, strict=True):
            rows += b"\2" + (line - above).tobytes() if filtered else b"\0" + line.tobytes()
    header = (width, height, 16, COLOUR_TYPES[channels], 0, 0, int(interlaced))

    def chunk(kind, content):
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", *header)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts))
    return path


def write_tiff(
    path,
    values,
    *,
    order="<",
    photometric=None,
    planar=False,
    deflated=False,
    rows_per_strip=None,
    extra=None,
    orientation=1,
):
    """(H, W) or (H, W, C) unsigned integers as TIFF, in strips; ``extra`` is what alpha means."""
    bits = values.dtype.itemsize * 8
    values = values.reshape(*values.shape[:2], -1)
    height, width, channels = values.shape
    step = rows_per_strip or height
    planes = np.moveaxis(values, 2, 0)[..., None] if planar else values[None]
    strips = [
        plane[row : row + step].astype(values.dtype.newbyteorder(order)).tobytes()
        for plane in planes
        for row in range(0, height, step)
    ]
    strips = [zlib.compress(strip) for strip in strips] if deflated else strips
    if photometric is None:
        photometric = 1 if channels == 1 else 2
    tags = {
        256: ("I", [width]),
        257: ("I", [height]),
        258: ("H", [bits] * channels),
        259: ("H", [8 if deflated else 1]),
        262: ("H", [photometric]),
        273: ("I", [0] * len(strips)),
        274: ("H", [orientation]),
        277: ("H", [channels]),
        278: ("I", [step]),
        279: ("I", [len(strip) for strip in strips]),
        284: ("H", [2 if planar else 1]),
    }
    if extra is not None:
        tags[338] = ("H", [extra])
    sizes = {"H": 2, "I": 4}
    outside = sum(
        len(numbers) * sizes[kind]
        for kind, numbers in tags.values()
        if len(numbers) * sizes[kind] > 4
    )
    start = 8 + 2 + 12 * len(tags) + 4
    first = start + outside
    tags[273] = ("I", [first + sum(map(len, strips[:i])) for i in range(len(strips))])
    entries, rest = b"", b""
    for tag, (kind, numbers) in sorted(tags.items()):
        content = struct.pack(f"{order}{len(numbers)}{kind}", *numbers)
        if len(content) > 4:
            rest, content = rest + content, struct.pack(f"{order}I", start + len(rest))
        entries += struct.pack(f"{order}HHI", tag, {"H": 3, "I": 4}[kind], len(numbers))
        entries += content.ljust(4, b"\0")
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 8)
    count = struct.pack(f"{order}H", len(tags))
    path.write_bytes(head + count + entries + b"\0" * 4 + rest + b"".join(strips))
    return path
