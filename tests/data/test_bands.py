"""Large files, read in bands at the size asked for: the pixels of `read_image` and `resize`."""

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from fastad.data import ImageError, PixelRange, auto_size, bands, read_image
from fastad.data.bands import read_for
from fastad.data.folder import ImageDataset
from fastad.data.formats.tiff_bands import tiff_bands
from fastad.data.images import resize
from fastad.data.inputs import image_batches

SHAPE = (205, 163)
SIZES = (SHAPE, (100, 80), (77, 163), (205, 60), (300, 200), (50, 1), (3, 2))
PIXELS = np.random.default_rng(0).integers(0, 256, (*SHAPE, 3), dtype=np.uint8)
DEEP = np.random.default_rng(1).integers(0, 4096, SHAPE, dtype=np.uint16)
RANGE = PixelRange(0, 4095)


@pytest.fixture(autouse=True)
def seen(monkeypatch):
    """Rows of each band, of images that all count as large."""
    rows = []
    of_band = bands.rgb_array

    def rgb_array(image, pixel_range=None):
        rows.append(image.height)
        return of_band(image, pixel_range)

    monkeypatch.setattr(bands, "LARGE", 1000)
    monkeypatch.setattr(bands, "BAND", 20 * SHAPE[1])
    monkeypatch.setattr(bands, "rgb_array", rgb_array)
    return rows


def encoded(pixels, **how):
    file = io.BytesIO()
    Image.fromarray(pixels).convert(how.pop("mode", None)).save(file, **how)
    return file.getvalue()


def tiled_tiff(pixels, order):
    """TIFF of tiles of 32x32 pixels, which Pillow does not write."""
    down, across = (-(-side // 32) for side in SHAPE)
    padded = np.pad(pixels, ((0, 32 * down - SHAPE[0]), (0, 32 * across - SHAPE[1]), (0, 0)))
    tiles = padded.reshape(down, 32, across, 32, 3).swapaxes(1, 2).reshape(-1, 32 * 32 * 3)
    data = [zlib.compress(tile.tobytes()) for tile in tiles]
    count, begin = len(data), 8 + 2 + 12 * 10 + 4
    after = begin + 6 + 8 * count
    offsets = np.cumsum([after, *map(len, data[:-1])]).tolist()
    rows = [(256, "I", [SHAPE[1]]), (257, "I", [SHAPE[0]]), (258, "H", [8, 8, 8])]
    rows += [(259, "H", [8]), (262, "H", [2]), (277, "H", [3]), (322, "I", [32]), (323, "I", [32])]
    rows += [(324, "I", offsets), (325, "I", [*map(len, data)])]
    directory, values = b"", b""
    for tag, kind, numbers in rows:
        value = struct.pack(f"{order}{len(numbers)}{kind}", *numbers)
        field = value.ljust(4, b"\0")
        if len(value) > 4:
            field, values = struct.pack(order + "I", begin + len(values)), values + value
        code = {"H": 3, "I": 4}[kind]
        directory += struct.pack(order + "HHI", tag, code, len(numbers)) + field
    head = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(order + "IH", 8, len(rows))
    return head + directory + bytes(4) + values + b"".join(data)


def tiff(compression, **how):
    return encoded(PIXELS, format="TIFF", compression=compression, tiffinfo={278: 16}, **how)


FILES = {
    **{f"tiff {c}": tiff(c) for c in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")},
    **{f"tiff {mode}": tiff("tiff_lzw", mode=mode) for mode in ("P", "1", "CMYK")},
    "tiles": tiled_tiff(PIXELS, "<"),
    "tiles, big-endian": tiled_tiff(PIXELS, ">"),
    "tiff, one strip": encoded(PIXELS, format="TIFF", tiffinfo={278: SHAPE[0]}),
    "jpeg": encoded(PIXELS, format="JPEG"),
    "grey jpeg": encoded(PIXELS[..., 0], format="JPEG"),
    "png with alpha": encoded(PIXELS, format="PNG", mode="RGBA"),
    "palette": encoded(PIXELS, format="PNG", mode="P"),
    "deep png": encoded(DEEP, format="PNG"),
    "deep tiff": encoded(DEEP, format="TIFF", compression="tiff_lzw", tiffinfo={278: 8}),
}


@pytest.mark.parametrize("name", FILES)
def test_the_pixels_are_those_of_the_whole_image(name, seen):
    pixel_range = RANGE if "deep" in name else None
    whole = read_image(io.BytesIO(FILES[name]), pixel_range)
    for size in SIZES:
        found, shape = read_for(io.BytesIO(FILES[name]), size, pixel_range)
        assert shape == SHAPE
        assert torch.equal(found, resize(whole, size)), size
    assert max(seen) <= 32


def test_turned_images_and_unknown_ranges_are_read_whole(seen):
    exif = Image.Exif()
    exif[274] = 6
    turned = encoded(PIXELS, format="JPEG", exif=exif)
    found, shape = read_for(io.BytesIO(turned), (80, 100))
    assert shape == found.shape[1:] == (SHAPE[1], SHAPE[0])
    assert torch.equal(found, read_image(io.BytesIO(turned)))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        read_for(io.BytesIO(FILES["deep tiff"]), (80, 100))
    assert ["lower 12 bits" in str(one.message) for one in said] == [True]
    assert min(seen) >= SHAPE[1]


def test_what_is_no_tiff_in_pieces():
    one = FILES["tiff, one strip"]
    for data in (one, b"", b"II*\0", FILES["jpeg"], one[:200], b"II+\0" + one[4:]):
        assert tiff_bands(io.BytesIO(data)) is None


def test_damaged_files_are_named(tmp_path):
    cut = tmp_path / "cut.tif"
    cut.write_bytes(FILES["tiff tiff_lzw"][: -(len(FILES["tiff tiff_lzw"]) // 3)])
    with pytest.raises(ImageError, match=r"cut\.tif"):
        read_for(cut, (50, 40))


def test_all_ways_to_read_take_bands(tmp_path, seen):
    path = tmp_path / "part.tif"
    path.write_bytes(FILES["tiff raw"])
    expected = resize(read_image(path), (100, 80))
    seen.clear()
    assert torch.equal(ImageDataset([path], (100, 80))[0], expected)
    assert torch.equal(ImageDataset([path], (100, 80), in_memory=False)[0], expected)
    looks = []
    [batch] = image_batches([path], (100, 80), 1, look=lambda *looked: looks.append(looked[2]))
    assert torch.equal(batch.images[0], expected)
    assert batch.sizes == looks == [SHAPE]
    assert len(seen) > 3
    assert max(seen) <= 32
    assert auto_size([path]) == (288, 224)


def test_a_band_must_hold_what_is_asked_of_it():
    images = torch.zeros(1, 3, 20, 30, dtype=torch.uint8)
    resized = torch.ops.fastad.resize_bytes
    for device in ("cpu", "meta"):
        assert resized(images.to(device), 10, 15, 40, 0, 0, 4).shape == (1, 3, 4, 15)
    for top, first, last in ((0, 0, 10), (1, 0, 4), (21, 5, 9), (0, 4, 4), (-1, 0, 4)):
        with pytest.raises(RuntimeError, match="images"):
            resized(images, 10, 15, 40, top, first, last)
