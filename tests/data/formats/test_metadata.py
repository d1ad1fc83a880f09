"""What is not pixels is passed over: texts and profiles of any size, also broken ones."""

import io
import struct
import tracemalloc
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile, PngImagePlugin

from fastad.data import ImageError, read_image
from fastad.data.images import image_shape

RGB = np.random.default_rng(0).integers(0, 256, (9, 14, 3), dtype=np.uint8)
BOMB = zlib.compress(bytes(300_000_000), 9)  # 300 kB that unpack to 300 MB
LONG = zlib.compress(b"position=1.0;" * 200_000)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def encoded(kind, **options):
    buffer = io.BytesIO()
    Image.fromarray(RGB).save(buffer, kind, **options)
    return buffer.getvalue()


def read(path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert image_shape(path) == RGB.shape[:2]
        return read_image(path).permute(1, 2, 0).numpy()


CHUNKS = {
    "long zTXt": chunk(b"zTXt", b"metadata\0\0" + LONG),
    "long iTXt": chunk(b"iTXt", b"metadata\0\1\0\0\0" + LONG),
    "long tEXt": chunk(b"tEXt", b"metadata\0" + b"x" * 3_000_000),
    "long XMP": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + LONG),
    "long raw EXIF": chunk(b"zTXt", b"Raw profile type exif\0\0" + LONG),
    "long profile": chunk(b"iCCP", b"profile\0\0" + zlib.compress(bytes(1_500_000))),
    "bomb zTXt": chunk(b"zTXt", b"metadata\0\0" + BOMB),
    "bomb XMP": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + BOMB),
    "bomb raw EXIF": chunk(b"zTXt", b"Raw profile type exif\0\0" + BOMB),
    "bomb profile": chunk(b"iCCP", b"profile\0\0" + BOMB),
    "many texts": b"".join(chunk(b"zTXt", b"%d\0\0" % i + LONG) for i in range(40)),
    "no text": chunk(b"zTXt", b"") + chunk(b"iTXt", b"") + chunk(b"tEXt", b""),
    "XMP cut short": chunk(b"iTXt", b"XML:com.adobe.xmp\0"),
    "unknown compression": chunk(b"zTXt", b"a\0\7x") + chunk(b"iCCP", b"a\0\7x"),
    "wrong checksum": chunk(b"tEXt", b"a\0b")[:-1] + b"?",
    "short numbers": b"".join(
        chunk(k, b"x") for k in (b"gAMA", b"cHRM", b"pHYs", b"acTL", b"fcTL")
    ),
    "private chunk": chunk(b"prVt", bytes(2_000_000)),
}


@pytest.mark.parametrize("after_pixels", [False, True])
@pytest.mark.parametrize("name", CHUNKS)
def test_png_is_read_past_its_other_chunks(tmp_path, name, after_pixels):
    data = encoded("PNG")
    at = len(data) - 12 if after_pixels else 33
    (tmp_path / "a.png").write_bytes(data[:at] + CHUNKS[name] + data[at:])
    tracemalloc.start()
    pixels = read(tmp_path / "a.png")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert np.array_equal(pixels, RGB)
    assert peak < 8_000_000


def test_no_limit_of_pillows_is_changed(tmp_path):
    limits = (PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY)
    data = encoded("PNG")
    (tmp_path / "a.png").write_bytes(data[:33] + CHUNKS["long zTXt"] + data[33:])
    read(tmp_path / "a.png")
    assert limits == (PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY)
    assert not ImageFile.LOAD_TRUNCATED_IMAGES
    with pytest.raises(ValueError, match=r"(?i)too large"):
        Image.open(tmp_path / "a.png")


@pytest.mark.parametrize("after_pixels", [False, True])
def test_a_png_that_ends_within_another_chunk_is_refused(tmp_path, after_pixels):
    data = encoded("PNG")
    at = len(data) - 12 if after_pixels else 33
    (tmp_path / "cut.png").write_bytes(data[:at] + chunk(b"tEXt", b"a\0" + bytes(99))[:50])
    with pytest.raises(ImageError, match=r"cut\.png.*truncated"):
        read_image(tmp_path / "cut.png")


@pytest.mark.parametrize("keep", [0.3, 0.7, 0.97])
@pytest.mark.parametrize("ending", ["png", "jpg"])
def test_truncated_pixels_behind_long_texts_are_refused(tmp_path, ending, keep):
    noise = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / f"a.{ending}")
    data = (tmp_path / f"a.{ending}").read_bytes()
    extra = CHUNKS["long zTXt"] if ending == "png" else segment(0xE2, bytes(60_000))
    at = 33 if ending == "png" else 2
    data = data[:at] + extra + data[at : at + int((len(data) - at) * keep)]
    (tmp_path / f"cut.{ending}").write_bytes(data)
    with pytest.raises(ImageError, match=f"cut.{ending}"):
        read_image(tmp_path / f"cut.{ending}")


def segment(marker, data):
    return bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data


SEGMENTS = {
    "profile without a number": segment(0xE2, b"ICC_PROFILE\0"),
    "profile in too few pieces": segment(0xE2, b"ICC_PROFILE\0\x01\x05abc"),
    "long profile": b"".join(
        segment(0xE2, b"ICC_PROFILE\0" + bytes([i, 200]) + bytes(60_000)) for i in range(200)
    ),
    "many segments": b"".join(segment(0xE1 + i % 14, bytes(50_000)) for i in range(200)),
    "broken list of pictures": segment(0xE2, b"MPF\0garbage"),
    "short JFIF": segment(0xE0, b"JFIF\0"),
    "short Adobe": segment(0xEE, b"Adobe"),
    "short Photoshop": segment(0xED, b"Photoshop 3.0\x008BIM\x03\xed"),
    "long comment": segment(0xFE, bytes(65_000)),
}


@pytest.mark.parametrize("name", SEGMENTS)
def test_jpeg_is_read_past_its_other_segments(tmp_path, name):
    data = encoded("JPEG", quality=95)
    (tmp_path / "plain.jpg").write_bytes(data)
    turned = b"II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\3\0\0\0"
    exif = segment(0xE1, b"Exif\0\0" + turned)
    (tmp_path / "r.jpg").write_bytes(data[:2] + SEGMENTS[name] + exif + data[2:])
    assert np.array_equal(read(tmp_path / "r.jpg"), read(tmp_path / "plain.jpg")[::-1, ::-1])
    (tmp_path / "a.jpg").write_bytes(data[:20] + SEGMENTS[name] + data[20:])
    assert np.array_equal(read(tmp_path / "a.jpg"), read(tmp_path / "plain.jpg"))
