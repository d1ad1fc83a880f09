"""Pictures of a result: small files for the store, and what a browser shows."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

from fastad.data.images import open_image, read_image
from fastad.evaluation.report.pictures import IMAGE_SIDE, outline
from fastad.inference.heatmaps import colourise

THUMBNAIL = 240  # pixels of the longer side
TYPES = {
    "PNG": "image/png",
    "JPEG": "image/jpeg",
    "BMP": "image/bmp",
    "TIFF": "image/tiff",
    "WEBP": "image/webp",
    "GIF": "image/gif",
    "PPM": "image/x-portable-anymap",
    "JPEG2000": "image/jp2",
}
SUFFIXES = {kind: f".{kind.lower()}" for kind in TYPES} | {"JPEG": ".jpg", "JPEG2000": ".jp2"}


def kind_and_shape(content: bytes) -> tuple[str, int, int]:
    """Format, height and width of an image file by its header. ImageError where it is none."""
    with open_image(io.BytesIO(content)) as image:
        kind = image.format or ""
        return ("JPEG" if kind == "MPO" else kind), image.height, image.width


def packed_map(anomaly_map: np.ndarray, scale: float) -> bytes:
    """A map (H, W) as a grey PNG, white at ``scale``."""
    levels = np.rint(np.clip(anomaly_map / scale, 0.0, 1.0) * 255).astype(np.uint8)
    return _grey_png(np.diff(levels, axis=0, prepend=np.uint8(0)), levels.shape, bits=8)


def packed_mask(mask: np.ndarray) -> bytes:
    """A mask (H, W) as a black and white PNG."""
    return _grey_png(np.packbits(mask, axis=1), mask.shape, bits=1)


def heatmap(packed: bytes) -> bytes:
    """A packed map in colour, as PNG. Clear where the map is 0."""
    with Image.open(io.BytesIO(packed)) as image:
        values = np.asarray(image.convert("L")).astype(np.float32) / 255
    alpha = np.minimum(2 * values, 1.0)[..., None] * 255
    pixels = np.concatenate([colourise(values), alpha], axis=2)
    return _png(Image.fromarray(np.rint(pixels).astype(np.uint8), "RGBA"))


def mask_outline(packed: bytes) -> tuple[str, int, int]:
    """The border of a packed mask as SVG path data, and the mask's height and width."""
    with Image.open(io.BytesIO(packed)) as image:
        mask = np.asarray(image.convert("L")) > 127
    return outline(mask.astype(np.float32), 0.5), *mask.shape


def shown(content: bytes, side: int = IMAGE_SIDE) -> bytes:
    """An image file as a JPEG that any browser shows, no side longer than ``side``."""
    image = Image.fromarray(read_image(io.BytesIO(content)).permute(1, 2, 0).numpy())
    image.thumbnail((side, side), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def _grey_png(rows: np.ndarray, shape: tuple[int, ...], bits: int) -> bytes:
    """A grey PNG (H, W) of rows of bytes; with 8 bits they are differences to the row above.

    Pillow tries five filters on every row. That takes four times as long, before each answer, and
    the file of a smooth map is as large. The format: ISO/IEC 15948.
    """
    height, width = shape
    strategy, filter_type = (zlib.Z_HUFFMAN_ONLY, 2) if bits == 8 else (zlib.Z_DEFAULT_STRATEGY, 0)
    filtered = np.insert(rows, 0, filter_type, axis=1)
    deflate = zlib.compressobj(1, zlib.DEFLATED, zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL, strategy)
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)),
        (b"IDAT", deflate.compress(filtered.tobytes()) + deflate.flush()),
        (b"IEND", b""),
    )
    parts = [b"\x89PNG\r\n\x1a\n"]
    for name, content in chunks:
        check = zlib.crc32(content, zlib.crc32(name))
        parts += [struct.pack(">I", len(content)), name, content, struct.pack(">I", check)]
    return b"".join(parts)


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
