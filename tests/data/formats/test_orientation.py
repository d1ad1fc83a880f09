"""Files are turned once, by the same rule in every container, whatever else their EXIF holds."""

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin, TiffImagePlugin

from fastad.data import ImageError, read_image, read_mask
from fastad.data.formats.orientation import orientation as orientation_of
from fastad.data.images import image_shape, rgb_array

PICTURE = np.zeros((24, 40), np.uint8)
PICTURE[:8, :16], PICTURE[16:, 30:] = 255, 128
SHOWN = {  # of a stored array, by orientation
    1: lambda stored: stored,
    2: np.fliplr,
    3: lambda stored: np.rot90(stored, 2),
    4: np.flipud,
    5: lambda stored: stored.T,
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: np.rot90(stored, 2).T,
    8: lambda stored: np.rot90(stored, 1),
}


def check(path, orientation, tolerance=0, picture=PICTURE):
    """Pixels, shape and mask of a file agree with what the orientation shows; nothing warns."""
    expected = SHOWN[orientation](picture)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pixels = read_image(path).numpy().astype(int)
        assert image_shape(path) == expected.shape
        assert tuple(read_mask(path).shape) == expected.shape
    assert pixels.shape == (3, *expected.shape)
    assert np.abs(pixels - expected).max() <= tolerance


def directory(*entries, order="<", tail=b""):
    """EXIF or TIFF bytes: a header and one directory of (tag, type, count, value or offset)."""
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8)
    rows = b"".join(struct.pack(order + "HHII", *entry) for entry in entries)
    return head + struct.pack(order + "H", len(entries)) + rows + bytes(4) + tail


def jpeg_with(*segments):
    buffer = io.BytesIO()
    Image.fromarray(PICTURE).save(buffer, "JPEG", quality=95)
    data = buffer.getvalue()
    extra = b"".join(b"\xff\xe1" + struct.pack(">H", len(s) + 2) + s for s in segments)
    return data[:2] + extra + data[2:]


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_with(before=b"", after=b""):
    buffer = io.BytesIO()
    Image.fromarray(PICTURE).save(buffer, "PNG")
    data = buffer.getvalue()
    return data[:33] + before + data[33:-12] + after + data[-12:]


# TIFF ------------------------------------------------------------------------------------------

MODES = {
    "1": lambda grey: Image.fromarray(grey > 200),
    "L": Image.fromarray,
    "LA": lambda grey: Image.fromarray(grey).convert("LA"),
    "I;16": lambda grey: Image.fromarray(grey.astype(np.uint16) * 257),
    "P": lambda grey: Image.fromarray(grey).convert("P"),
    "RGB": lambda grey: Image.fromarray(grey).convert("RGB"),
    "RGBA": lambda grey: Image.fromarray(grey).convert("RGBA"),
}


@pytest.mark.parametrize("large", [False, True], ids=["small", "above Pillow's limit"])
@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_deflate", "packbits", "jpeg"])
@pytest.mark.parametrize("mode", MODES)
def test_tiff_is_turned_in_every_mode_and_compression(
    tmp_path, monkeypatch, mode, compression, large
):
    if compression == "jpeg" and mode not in ("L", "RGB"):
        pytest.skip("JPEG inside TIFF is of 8 bits, grey or colour")
    if large:
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", PICTURE.size - 1)
    picture = np.where(PICTURE > 200, np.uint8(255), np.uint8(0)) if mode == "1" else PICTURE
    for orientation in SHOWN:
        path = tmp_path / f"{orientation}.tif"
        tags = {274: orientation, 278: 8}  # eight rows in a strip
        options = {"quality": 95} if compression == "jpeg" else {}
        MODES[mode](picture).save(path, compression=compression, tiffinfo=tags, **options)
        check(path, orientation, 12 if compression == "jpeg" else 0, picture)


@pytest.mark.parametrize("orientation", SHOWN)
def test_tiff_in_tiles_is_turned(tmp_path, orientation):
    def number(tag, value):
        return tag, 4, 1, value

    tiles = [
        np.pad(PICTURE, ((0, 8), (0, 8)))[y : y + 16, x : x + 16].tobytes()
        for y in (0, 16)
        for x in (0, 16, 32)
    ]
    at = 8 + 2 + 11 * 12 + 4
    offsets = struct.pack("<6I", *(at + 48 + 256 * i for i in range(6)))
    data = directory(
        *(number(256, 40), number(257, 24), number(258, 8), number(259, 1), number(262, 1)),
        *((274, 3, 1, orientation), number(277, 1), number(322, 16), number(323, 16)),
        *((324, 4, 6, at), (325, 4, 6, at + 24)),
        tail=offsets + struct.pack("<6I", *[256] * 6) + b"".join(tiles),
    )
    (tmp_path / "tiles.tif").write_bytes(data)
    check(tmp_path / "tiles.tif", orientation)


@pytest.mark.parametrize("orientation", SHOWN)
@pytest.mark.parametrize("mode", ["L", "I;16", "RGB", "RGBA"])
def test_a_tiff_opened_by_the_caller_is_turned(tmp_path, orientation, mode):
    MODES[mode](PICTURE).save(tmp_path / "a.tif", tiffinfo={274: orientation})
    with Image.open(tmp_path / "a.tif") as image:
        pixels = rgb_array(image)
        assert image.filename
    assert np.array_equal(pixels, np.dstack([SHOWN[orientation](PICTURE)] * 3))


def test_float_pixels_stay_refused_when_turned(tmp_path):
    Image.fromarray(PICTURE.astype(np.float32)).save(tmp_path / "f.tif", tiffinfo={274: 6})
    with pytest.raises(ImageError, match=r"f\.tif.*no known range"):
        read_image(tmp_path / "f.tif")


@pytest.mark.parametrize("orientation", [1, 6])
def test_broken_and_huge_tags_of_a_tiff_are_passed_over(tmp_path, orientation):
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[274], tags[282], tags[305] = orientation, 72.0, "x" * 100
    tags[50839], tags.tagtype[50839] = bytes(3_000_000), 1  # as ImageJ writes it
    Image.fromarray(PICTURE).save(tmp_path / "a.tif", tiffinfo=tags)
    data = bytearray((tmp_path / "a.tif").read_bytes())
    (first,) = struct.unpack_from("<I", data, 4)
    broken = 0
    for at in range(first + 2, first + 2 + 12 * data[first], 12):
        (tag,) = struct.unpack_from("<H", data, at)
        if tag == 305:  # lies beyond the end
            struct.pack_into("<I", data, at + 8, len(data) + 999)
            broken += 1
        elif tag == 282:  # bytes where a fraction should be
            struct.pack_into("<HI", data, at + 2, 7, 8)
            broken += 1
    assert broken == 2
    (tmp_path / "a.tif").write_bytes(data)
    check(tmp_path / "a.tif", orientation)


def test_an_exif_directory_that_is_nowhere_does_not_matter(tmp_path):
    Image.fromarray(PICTURE).save(tmp_path / "a.tif", tiffinfo={274: 8, 34665: 99_999_999})
    check(tmp_path / "a.tif", 8)


# EXIF ------------------------------------------------------------------------------------------

SIX = (0x112, 3, 1, 6)
BLOCKS = {
    "plain": (directory(SIX), 6),
    "big-endian": (directory((0x112, 3, 1, 6 << 16), order=">"), 6),
    "doubled header": (b"Exif\0\0" + directory(SIX), 6),
    "long instead of short": (directory((0x112, 4, 1, 6)), 6),
    "byte": (directory((0x112, 1, 1, 6)), 6),
    "two values": (directory((0x112, 3, 2, 6 | 6 << 16)), 6),
    "a fraction of wrong type": (directory(SIX, (0x11A, 7, 8, 26), tail=bytes(8)), 6),
    "no GPS": (directory(SIX, (0x8825, 3, 1, 7)), 6),
    "EXIF beyond the end": (directory(SIX, (0x8769, 4, 1, 99999)), 6),
    "text of wrong type": (directory((0x10F, 5, 1, 50), SIX, (0x131, 4, 1, 7)), 6),
    "unknown type beside": (directory((0x100, 77, 1, 1), SIX), 6),
    "value beyond the end": (directory((0x10E, 2, 2**31, 2**31), SIX), 6),
    "more entries than there are": (directory(SIX)[:8] + b"\xff\xff" + directory(SIX)[10:22], 6),
    "nothing": (b"", 1),
    "garbage": (bytes(range(1, 40)), 1),
    "no directory": (b"II*\0\xff\xff\xff\xff", 1),
    "cut short": (directory(SIX)[:14], 1),
    "0": (directory((0x112, 3, 1, 0)), 1),
    "9": (directory((0x112, 3, 1, 9)), 1),
    "65535": (directory((0x112, 3, 1, 65535)), 1),
    "text": (directory((0x112, 2, 2, 0x36)), 1),
    "no value": (directory((0x112, 3, 0, 6)), 1),
    "thumbnail's": (directory((0x100, 3, 1, 1))[:-4] + b"\x1a\0\0\0" + directory(SIX)[8:], 1),
}


@pytest.mark.parametrize("container", ["jpg", "png", "png after the pixels", "webp"])
@pytest.mark.parametrize("name", BLOCKS)
def test_only_the_orientation_of_exif_counts(tmp_path, name, container):
    exif, orientation = BLOCKS[name]
    path = tmp_path / "a"
    if container == "jpg":
        path.write_bytes(jpeg_with(b"Exif\0\0" + exif))
    elif container == "webp":
        Image.fromarray(PICTURE).save(path, "WEBP", lossless=True, exif=exif)
    elif container == "png":
        path.write_bytes(png_with(chunk(b"eXIf", exif)))
    else:
        path.write_bytes(png_with(after=chunk(b"eXIf", exif)))
    check(path, orientation, 12 if container == "jpg" else 0)


XMP = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'


@pytest.mark.parametrize("container", ["jpg", "png", "packed png", "webp", "tif"])
@pytest.mark.parametrize("exif", [None, 1, 3])
def test_the_orientation_of_xmp_counts_where_exif_has_none(tmp_path, container, exif):
    block = directory((0x112, 3, 1, exif)) if exif else b""
    path = tmp_path / "a"
    if container == "jpg":
        path.write_bytes(jpeg_with(b"Exif\0\0" + block, b"http://ns.adobe.com/xap/1.0/\0" + XMP))
    elif container == "webp":
        options = {"exif": block} if block else {}
        Image.fromarray(PICTURE).save(path, "WEBP", lossless=True, xmp=XMP, **options)
    elif container == "tif":
        Image.fromarray(PICTURE).save(path, "TIFF", tiffinfo={700: XMP, 274: exif or 1})
        data = path.read_bytes()
        if not exif:  # tag 274 becomes one that nobody knows
            path.write_bytes(
                data.replace(struct.pack("<HHI", 274, 3, 1), b"\x13\x01\x03\0\1\0\0\0")
            )
    else:
        packed = container == "packed png"
        text = b"XML:com.adobe.xmp\0" + bytes([packed, 0]) + b"\0\0"
        text += zlib.compress(XMP) if packed else XMP
        path.write_bytes(png_with((chunk(b"eXIf", block) if block else b"") + chunk(b"iTXt", text)))
    check(path, exif or 6, 12 if container == "jpg" else 0)


def test_exif_in_a_text_chunk_as_imagemagick_wrote_it(tmp_path):
    data = b"Exif\0\0" + directory(SIX)
    text = b"\nexif\n%8d\n%s\n" % (len(data), data.hex().encode())
    key = b"Raw profile type exif\0"
    (tmp_path / "z.png").write_bytes(png_with(chunk(b"zTXt", key + b"\0" + zlib.compress(text))))
    check(tmp_path / "z.png", 6)
    (tmp_path / "t.png").write_bytes(png_with(chunk(b"tEXt", key + text)))
    check(tmp_path / "t.png", 6)
    (tmp_path / "b.png").write_bytes(png_with(chunk(b"tEXt", key + b"\nexif\n 9\nno hex\n")))
    check(tmp_path / "b.png", 1)


@pytest.mark.parametrize(
    "broken",
    [
        chunk(b"iTXt", b"XML:com.adobe.xmp\0"),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0not packed"),
        chunk(b"zTXt", b"Raw profile type exif\0\0not packed"),
    ],
)
def test_broken_texts_do_not_hide_the_orientation(tmp_path, broken):
    (tmp_path / "a.png").write_bytes(png_with(broken, chunk(b"eXIf", directory(SIX))))
    check(tmp_path / "a.png", 6)
    xmp = chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP)
    (tmp_path / "x.png").write_bytes(png_with(broken, xmp))
    check(tmp_path / "x.png", 6)


def test_broken_exif_of_an_image_opened_by_the_caller(tmp_path):
    (tmp_path / "a.jpg").write_bytes(jpeg_with(b"Exif\0\0" + bytes(range(1, 40))))
    with Image.open(tmp_path / "a.jpg") as image:
        assert rgb_array(image).shape == (24, 40, 3)
    with Image.open(tmp_path / "a.jpg") as image:
        image.getexif()[0x112] = 6
        assert rgb_array(image).shape == (40, 24, 3)


def test_pillow_itself_is_left_as_it_was(tmp_path):
    info = PngImagePlugin.PngInfo()
    info.add_text("name", "value")
    Image.fromarray(PICTURE).save(tmp_path / "a.png", pnginfo=info)
    read_image(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        assert type(image) is PngImagePlugin.PngImageFile
        assert image.text == {"name": "value"}


@pytest.mark.parametrize("value", range(1, 9))
def test_the_turn_of_an_open_pillow_image_is_known_without_decoding(tmp_path, value):
    exif = Image.Exif()
    exif[0x0112] = value
    Image.fromarray(PICTURE).save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as image:
        assert orientation_of(image) == value
        assert image.tile  # not decoded
        expected = SHOWN[value](PICTURE)
        assert np.array_equal(rgb_array(image)[..., 0], expected)
        assert orientation_of(image) == value
