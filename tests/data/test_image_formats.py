"""Every kind of pixel and file that people's images come in, and limits on what is read."""

import os
import struct
import threading
import warnings
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fastad.data import ImageError, read_image

RGB = np.random.default_rng(0).integers(0, 256, (11, 7, 3), dtype=np.uint8)


def pixels(path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image = read_image(path)
    assert image.dtype == torch.uint8
    assert image.is_contiguous()
    return image.permute(1, 2, 0).numpy()


def mode_of(path):
    with Image.open(path) as image:
        return image.mode


@pytest.mark.parametrize(
    "name", ["a.png", "A.PNG", "a.bmp", "A.Bmp", "a.tif", "A.TIFF", "a.webp", "wrong ending.jpg"]
)
def test_lossless_files_are_read_exactly(tmp_path, name):
    kind = {"a": None, "A": None}.get(name.split(".")[0], "png")
    options = {"lossless": True} if name.endswith("webp") else {}
    Image.fromarray(RGB).save(tmp_path / name, kind, **options)
    assert np.array_equal(pixels(tmp_path / name), RGB)


@pytest.mark.parametrize("name", ["a.jpg", "A.JPEG", "a.Jpg"])
def test_jpeg(tmp_path, name):
    flat = np.full((16, 16, 3), (200, 40, 90), np.uint8)
    Image.fromarray(flat).save(tmp_path / name, quality=95)
    assert np.abs(pixels(tmp_path / name).astype(int) - flat).max() <= 3


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif"])
def test_grey_and_bilevel_become_rgb(tmp_path, name):
    grey = RGB[:, :, 0]
    Image.fromarray(grey).save(tmp_path / name)
    assert mode_of(tmp_path / name) == "L"
    assert np.array_equal(pixels(tmp_path / name), np.dstack([grey] * 3))
    Image.fromarray(grey > 127).save(tmp_path / name)
    assert mode_of(tmp_path / name) == "1"
    assert np.array_equal(pixels(tmp_path / name), np.dstack([(grey > 127) * np.uint8(255)] * 3))


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.webp"])
def test_alpha_is_dropped(tmp_path, name):
    options = {"lossless": True, "exact": True} if name == "a.webp" else {}
    rgba = np.dstack([RGB, np.zeros((11, 7), np.uint8)])
    Image.fromarray(rgba).save(tmp_path / name, **options)
    assert mode_of(tmp_path / name) == "RGBA"
    assert np.array_equal(pixels(tmp_path / name), RGB)


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_grey_with_alpha(tmp_path, name):
    Image.fromarray(RGB[:, :, :2].copy()).save(tmp_path / name)
    assert mode_of(tmp_path / name) == "LA"
    assert np.array_equal(pixels(tmp_path / name), np.dstack([RGB[:, :, 0]] * 3))


@pytest.mark.parametrize("transparency", [None, 0, b"\x00\x80\xff\x10"])
@pytest.mark.parametrize("name", ["a.png", "a.gif"])
def test_palette_gives_its_colours(tmp_path, name, transparency):
    colours = np.array([[200, 10, 30], [0, 0, 0], [255, 255, 255], [1, 2, 3]], np.uint8)
    indices = np.random.default_rng(1).integers(0, 4, (6, 5), dtype=np.uint8)
    image = Image.fromarray(indices)
    image.putpalette(colours.ravel().tolist())
    if name == "a.gif" and isinstance(transparency, bytes):
        pytest.skip("GIF has one transparent colour at most")
    options = {} if transparency is None else {"transparency": transparency}
    image.save(tmp_path / name, **options)
    assert mode_of(tmp_path / name) == "P"
    assert np.array_equal(pixels(tmp_path / name), colours[indices])


@pytest.mark.parametrize(
    ("array", "transparency"), [(RGB, (1, 2, 3)), (RGB[:, :, 0], 7), (RGB[:, :, 0] > 99, 0)]
)
def test_a_transparent_colour_is_a_colour(tmp_path, array, transparency):
    Image.fromarray(array).save(tmp_path / "a.png", transparency=transparency)
    Image.fromarray(array).save(tmp_path / "b.png")
    assert np.array_equal(pixels(tmp_path / "a.png"), pixels(tmp_path / "b.png"))


@pytest.mark.parametrize(("name", "limit"), [("c.tif", 2), ("c.jpg", 4)])
def test_cmyk_becomes_rgb(tmp_path, name, limit):
    flat = np.full((16, 16, 3), (200, 40, 90), np.uint8)
    Image.fromarray(flat).convert("CMYK").save(tmp_path / name)
    assert mode_of(tmp_path / name) == "CMYK"
    assert np.abs(pixels(tmp_path / name).astype(int) - flat).max() <= limit


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("name", ["s.png", "s.tif", "s.TIFF"])
def test_16_bit_is_scaled_to_8_bits(tmp_path, name, order):
    values = np.array([[0, 128, 129, 257], [32767, 32768, 65406, 65535]], np.uint16)
    mode = "I;16" if order == "<" else "I;16B"
    data = values.astype(f"{order}u2").tobytes()
    Image.frombytes(mode, values.shape[::-1], data).save(tmp_path / name)
    expected = np.array([[0, 0, 1, 1], [127, 128, 254, 255]])
    assert np.array_equal(pixels(tmp_path / name), np.dstack([expected] * 3))


def test_16_bit_colour_png(tmp_path):
    deep = (RGB.astype(">u2") << 8) + 17
    rows = b"".join(b"\x00" + row.tobytes() for row in deep.astype(">u2"))
    write_png(tmp_path / "deep.png", 7, 11, 16, 2, zlib.compress(rows))
    assert np.abs(pixels(tmp_path / "deep.png").astype(int) - RGB).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["r.png", "r.tif", "r.webp", "r.jpg"])
def test_exif_rotation_is_applied(tmp_path, name, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    shown = np.zeros((16, 32, 3), np.uint8)
    shown[:8, :16] = 255  # the upper left quarter
    # Which axes of the stored image are flipped, after its axes are swapped from 5 on.
    flipped = {1: (), 2: (1,), 3: (0, 1), 4: (0,), 5: (), 6: (1,), 7: (0, 1), 8: (0,)}[orientation]
    stored = np.flip(shown, flipped)
    if orientation >= 5:
        stored = stored.swapaxes(0, 1)
    stored = np.ascontiguousarray(stored)
    Image.fromarray(stored).save(tmp_path / name, exif=exif, quality=95)
    assert np.abs(pixels(tmp_path / name).astype(int) - shown).max() <= 40


@pytest.mark.parametrize("name", ["a.gif", "a.png", "a.webp", "a.tif", "a.mpo"])
def test_of_several_frames_the_first_is_taken(tmp_path, name):
    frames = [Image.fromarray(np.full((16, 16, 3), v, np.uint8)) for v in (250, 100, 0)]
    kind = {"save_all": True, "append_images": frames[1:]}
    frames[0].save(tmp_path / name, **kind)
    with Image.open(tmp_path / name) as image:
        assert image.n_frames == 3
    assert np.abs(pixels(tmp_path / name).astype(int) - 250).max() <= 2


@settings(deadline=None, max_examples=60)
@given(
    mode=st.sampled_from(["1", "L", "LA", "P", "RGB", "RGBA", "I;16"]),
    shape=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    ending=st.sampled_from(["png", "PNG", "tif", "TIFF"]),
    seed=st.integers(0, 2**31),
)
def test_any_mode_and_size_keeps_its_pixels(tmp_path_factory, mode, shape, ending, seed):
    rng = np.random.default_rng(seed)
    if mode == "I;16":
        array = rng.integers(0, 65536, shape, dtype=np.uint16)
        image = Image.fromarray(array)
        expected = np.dstack([np.rint(array / 257)] * 3)
    else:
        image = Image.fromarray(rng.integers(0, 256, (*shape, 3), dtype=np.uint8)).convert(mode)
        expected = np.asarray(image.convert("RGB"))
    path = tmp_path_factory.mktemp("mode") / f"a.{ending}"
    image.save(path)
    assert mode_of(path) == mode
    assert np.array_equal(pixels(path), expected)


def write_png(path, width, height, bits, colour, data):
    def chunk(kind: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", data), (b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts))
    return path


def test_a_decompression_bomb_is_named_with_its_pixels_and_the_cure(tmp_path):
    bomb = write_png(tmp_path / "bomb.png", 60000, 50000, 8, 2, b"")
    said = r"bomb\.png: .*50000x60000 is 3000000000 pixels.* limit of \d+; .* FASTAD_MAX_PIXELS"
    with pytest.raises(ImageError, match=said):
        pixels(bomb)


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif", "a.tiff", "a.webp"])
def test_the_limit_is_twice_pillows_and_nothing_warns_below(
    tmp_path, monkeypatch, name, orientation
):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {".webp": {"lossless": True}, ".tiff": {"compression": "tiff_lzw"}}
    options = options.get(os.path.splitext(name)[1], {})
    Image.fromarray(RGB).save(tmp_path / name, exif=exif, **options)
    expected = pixels(tmp_path / name)  # `pixels` turns warnings into errors
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 39)  # the image has 77
    assert np.array_equal(pixels(tmp_path / name), expected)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 38)
    with pytest.raises(ImageError, match=r"a\..*77 pixels.* limit of 76"):
        pixels(tmp_path / name)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert np.array_equal(pixels(tmp_path / name), expected)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.bmp", "a.tif"])
def test_the_environment_sets_the_limit(tmp_path, monkeypatch, name):
    Image.fromarray(RGB).save(tmp_path / name)
    monkeypatch.setenv("FASTAD_MAX_PIXELS", "76")
    with pytest.raises(ImageError, match="more than the limit of 76"):
        read_image(tmp_path / name)
    expected = read_image_at(tmp_path / name, monkeypatch, "77")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5)
    assert np.array_equal(read_image_at(tmp_path / name, monkeypatch, "77"), expected)


def read_image_at(path, monkeypatch, limit):
    monkeypatch.setenv("FASTAD_MAX_PIXELS", limit)
    return pixels(path)


@pytest.mark.parametrize("value", ["many", "-1", "0", "1e9"])
def test_a_wrong_limit_is_said(tmp_path, monkeypatch, value):
    Image.fromarray(RGB).save(tmp_path / "a.png")
    monkeypatch.setenv("FASTAD_MAX_PIXELS", value)
    with pytest.raises(ValueError, match=f"FASTAD_MAX_PIXELS must be .* it is '{value}'"):
        read_image(tmp_path / "a.png")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
def test_a_named_pipe_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    errors = []

    def read():
        with pytest.raises(ImageError, match=r"pipe\.png: is no regular file"):
            read_image(tmp_path / "pipe.png")
        errors.append("seen")

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(10)
    assert errors == ["seen"]


def test_other_programs_formats_are_refused(tmp_path):
    (tmp_path / "a.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    with pytest.raises(ImageError, match=r"a\.png: cannot be read as an image: it is none of PNG"):
        read_image(tmp_path / "a.png")


def test_no_file_stays_open(tmp_path):
    frame = Image.fromarray(RGB)
    frame.save(tmp_path / "two.tif", save_all=True, append_images=[frame])
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        read_image(tmp_path / "two.tif")
    assert not seen


def test_twelve_bits_in_sixteen_are_told(tmp_path):
    values = np.linspace(0, 4095, 128 * 128).reshape(128, 128).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "camera.png")
    Image.fromarray(values * 16).save(tmp_path / "full.png")
    with pytest.warns(UserWarning, match="only the lower 12 bits"):
        read_image(tmp_path / "camera.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_image(tmp_path / "full.png")
