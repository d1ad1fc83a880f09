"""Pixels of more than 8 bits: every bit is read, and one range makes grey levels of them."""

import base64
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fastad.data import ImageDataset, ImageError, PixelRange, auto_size, read_image
from fastad.data.depth import FULL, as_levels, parse_range
from fastad.data.images import is_deep_image, open_image, stored_values, zero_is_white
from fastad.data.in_memory import shape_of
from fastad.data.inputs import image_batches, to_tensor
from fastad.data.survey import choose_range

sys.path.insert(0, str(Path(__file__).parent))
from deep_files import write_png, write_tiff

RANDOM = np.random.default_rng(0).integers(0, 65536, (13, 18, 4), dtype=np.uint16)
GREY, RGB = RANDOM[..., 0], RANDOM[..., :3]
TWELVE = PixelRange(0, 4095)


def values_of(path):
    with open_image(path) as image:
        return stored_values(image)


def levels_of(path, pixel_range, clipping=False):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if clipping else "error")
        return read_image(path, pixel_range).permute(1, 2, 0).numpy()


@pytest.mark.parametrize("filtered", [False, True])
@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_every_bit_of_a_png_is_read(tmp_path, channels, interlaced, filtered):
    path = write_png(tmp_path / "a.png", RANDOM[..., :channels], interlaced, filtered)
    expected = {1: GREY, 2: np.dstack([GREY] * 3)}.get(channels, RGB)
    assert np.array_equal(values_of(path), expected)


@pytest.mark.parametrize("rows_per_strip", [None, 5])
@pytest.mark.parametrize("deflated", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_bit_of_a_tiff_is_read(tmp_path, channels, order, deflated, rows_per_strip):
    values = RANDOM[..., :channels]
    options = {"order": order, "deflated": deflated, "rows_per_strip": rows_per_strip}
    path = write_tiff(tmp_path / "a.tif", values, **options)
    assert np.array_equal(values_of(path), GREY if channels == 1 else RGB)


@pytest.mark.parametrize("rows_per_strip", [None, 5])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("extra", [None, 0, 2])
def test_a_tiff_with_a_plane_for_each_colour(tmp_path, extra, order, rows_per_strip):
    values = RGB if extra is None else RANDOM
    options = {"order": order, "planar": True, "extra": extra, "rows_per_strip": rows_per_strip}
    path = write_tiff(tmp_path / "a.tif", values, **options)
    assert np.array_equal(values_of(path), RGB)
    assert np.array_equal(levels_of(path, None), RGB >> 8)


@pytest.mark.parametrize("extra", [0, 2])
def test_the_alpha_of_a_tiff_is_dropped(tmp_path, extra):
    path = write_tiff(tmp_path / "a.tif", RANDOM, extra=extra)
    assert np.array_equal(values_of(path), RGB)


def test_colours_that_were_multiplied_by_alpha_are_divided_by_it(tmp_path):
    colour = np.full((4, 5, 3), 40000, np.uint16)
    alpha = np.full((4, 5, 1), 32768, np.uint16)
    stored = (colour.astype(np.uint64) * alpha // 65535).astype(np.uint16)
    path = write_tiff(tmp_path / "a.tif", np.dstack([stored, alpha]), extra=1)
    assert np.abs(values_of(path).astype(int) - 40000).max() <= 2


def test_a_compressed_plane_for_each_colour_is_refused_where_all_bits_are_needed(tmp_path):
    path = write_tiff(tmp_path / "a.tif", RGB, planar=True, deflated=True)
    assert np.array_equal(levels_of(path, None), RGB >> 8)
    with pytest.raises(
        ImageError, match=r"a\.tif: .*16 bits cannot be read .* save it uncompressed"
    ):
        read_image(path, TWELVE)


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("write", [write_png, write_tiff])
def test_the_range_makes_grey_levels(tmp_path, write, channels, bits):
    most = 2**bits - 1
    values = RANDOM[..., :channels] & most
    path = write(tmp_path / "a", values)
    expected = np.broadcast_to(np.floor(values.astype(int) * 255 / most + 0.5), (13, 18, 3))
    assert np.array_equal(levels_of(path, PixelRange(0, most)), expected)


@pytest.mark.parametrize("write", [write_png, write_tiff])
def test_a_window_is_spread_over_all_grey_levels(tmp_path, write):
    values = np.linspace(29000, 35000, 13 * 18).astype(np.uint16).reshape(13, 18)
    levels = levels_of(write(tmp_path / "a", values), PixelRange(30000, 34000), True)[..., 0]
    assert levels[values <= 30000].max() == 0
    assert levels[values >= 34000].min() == 255
    assert len(np.unique(levels)) > 100
    assert np.array_equal(np.argsort(levels.ravel(), kind="stable"), np.arange(13 * 18))


def test_eight_bits_are_taken_as_they_are(tmp_path):
    bytes_ = (RGB >> 8).astype(np.uint8)
    Image.fromarray(bytes_).save(tmp_path / "a.png")
    assert np.array_equal(levels_of(tmp_path / "a.png", TWELVE), bytes_)


@pytest.mark.parametrize("deflated", [False, True])
@pytest.mark.parametrize("values", [GREY, (GREY >> 8).astype(np.uint8)])
def test_a_negative_is_turned_round_at_8_and_16_bits(tmp_path, values, deflated):
    path = write_tiff(tmp_path / "a.tif", values, photometric=0, deflated=deflated)
    plain = write_tiff(tmp_path / "b.tif", values)
    assert np.array_equal(levels_of(path, None), 255 - levels_of(plain, None))
    if values.itemsize == 2:
        assert np.array_equal(levels_of(path, TWELVE, True), 255 - levels_of(plain, TWELVE, True))
        with open_image(path) as negative, open_image(plain) as positive:
            assert (zero_is_white(negative), zero_is_white(positive)) == (True, False)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_both_bytes_are_rotated(tmp_path, orientation):
    with open_image(write_png(tmp_path / "a.png", RGB)) as image:
        upper = np.asarray(image)
    Image.fromarray(upper).save(
        tmp_path / "8.tif", compression="tiff_deflate", tiffinfo={274: orientation}
    )
    path = write_tiff(tmp_path / "a.tif", RGB, orientation=orientation, deflated=True)
    assert np.array_equal(values_of(path) >> 8, levels_of(tmp_path / "8.tif", None))


@pytest.mark.parametrize("keep", [0.3, 0.9])
@pytest.mark.parametrize(
    ("write", "options"), [(write_png, {}), (write_tiff, {}), (write_tiff, {"deflated": True})]
)
def test_truncated_deep_files_are_named(tmp_path, write, options, keep):
    path = write(tmp_path / "broken", RGB, **options)
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
    with pytest.raises(ImageError, match="broken"):
        read_image(path, TWELVE)


@pytest.mark.parametrize("write", [write_png, write_tiff])
def test_the_limit_of_pixels_holds(tmp_path, monkeypatch, write):
    path = write(tmp_path / "a", RGB)
    monkeypatch.setenv("FASTAD_MAX_PIXELS", str(13 * 18 - 1))
    with pytest.raises(ImageError, match="more than the limit"):
        read_image(path, TWELVE)
    monkeypatch.setenv("FASTAD_MAX_PIXELS", str(13 * 18))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)  # Pillow's own must not stop it
    assert np.array_equal(levels_of(path, FULL), FULL.levels(RGB))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("write", [write_png, write_tiff])
def test_dark_pixels_without_a_range_are_told(tmp_path, write, channels):
    values = np.zeros((128, 128, channels), np.uint16)
    values[::2] = 16383
    path = write(tmp_path / "a", values)
    with pytest.warns(UserWarning, match=r"only the lower 14 bits .* bit_depth=14"):
        read_image(path)
    values[0, 0] = 16384
    levels_of(write(path, values), None)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("write", [write_png, write_tiff])
def test_memory_and_file_give_the_same(tmp_path, write, channels):
    values = RANDOM[..., :channels] & 4095
    path = write(tmp_path / "a", values)
    expected = to_tensor(path, TWELVE)
    tensor = torch.from_numpy(np.moveaxis(values, 2, 0).copy())
    opened = Image.open(path)
    forms = [
        values,
        values.astype(">u2"),
        values[..., 0] if channels == 1 else values,
        tensor,
        opened,
    ]
    for form in forms:
        assert torch.equal(to_tensor(form, TWELVE), expected)
    dataset = ImageDataset([path], (13, 18), pixel_range=TWELVE)
    on_disk = ImageDataset([path], (13, 18), in_memory=False, pixel_range=TWELVE)
    assert torch.equal(dataset[0], expected)
    assert torch.equal(on_disk[0], expected)
    for images in (values[None], tensor[None], [path], [values]):
        ((_, batch, _),) = image_batches(images, (13, 18), 2, pixel_range=TWELVE)
        assert torch.equal(batch[0], expected)


@pytest.mark.parametrize("write", [write_png, write_tiff])
def test_a_decoded_image_that_has_lost_its_lower_bits_is_refused(tmp_path, write):
    image = Image.open(write(tmp_path / "a", RGB))
    image.load()
    assert is_deep_image(image)
    with pytest.raises(ValueError, match="a Pillow image that is decoded already: give its path"):
        to_tensor(image, TWELVE)
    Image.fromarray((RGB >> 8).astype(np.uint8)).save(tmp_path / "8.png")
    eight = Image.open(tmp_path / "8.png")
    eight.load()
    assert not is_deep_image(eight)


# (128, 128, 3) of 4095, 2000, 100, written by OpenJPEG with 16 bits a value, which Pillow cannot.
JPEG_2000 = zlib.decompress(
    base64.b85decode(
        "c-s5#|38pHp8*6Kpcn>F`ON%`j1crch=B(vz{tqJ!otA#KZb$Dq2YfDgDL}~b5UwyNotBhQl)}_L28~?fUCPgS!z*n"
        "W`3T6k)ElZ$^QuqTp+`kdVm@yKmX6hQ~%*$|33-C|B1~Ef&n4x|JUzpZctBw*~!US|G%DE;t%Sloc}cQU$FhD1elU~"
        "7X^fhKaL+D95x}L|8*)x3<zG0;~891^&`Qo2mc+X|B<Xe2qYLp7-E3tzU)j8?SrKa#+H`-{}i6#u%>=+>iB;X0H4vq"
        "mH"
    )
)


def test_colour_of_16_bits_in_jpeg_2000_is_told_or_refused(tmp_path):
    """Its lower bits cannot be had, so 12 of 16 bits must not pass for a dark picture of 8."""
    (tmp_path / "a.jp2").write_bytes(JPEG_2000)
    with open_image(tmp_path / "a.jp2") as image:
        assert is_deep_image(image)
        assert np.asarray(image)[0, 0].tolist() == [16, 8, 0]  # what Pillow makes of it
    with pytest.warns(UserWarning, match="is read as nearly black"):
        read_image(tmp_path / "a.jp2")
    with pytest.raises(ImageError, match=r"a\.jp2: .*16 bits cannot be read from JPEG 2000: save"):
        read_image(tmp_path / "a.jp2", TWELVE)
    Image.fromarray((RGB >> 8).astype(np.uint8)).save(tmp_path / "8.jp2", irreversible=False)
    assert np.array_equal(levels_of(tmp_path / "8.jp2", TWELVE), RGB >> 8)


@pytest.mark.parametrize("look", [shape_of, choose_range, auto_size])
def test_looking_at_an_open_pillow_image_leaves_it_whole(tmp_path, look):
    """What is decoded has lost its lower bits; and its owner may go on with it."""
    path = write_png(tmp_path / "a.png", RGB)
    image = Image.open(path)
    look(image if look is shape_of else [image])
    assert np.array_equal(to_tensor(image, FULL), read_image(path, FULL))
    assert np.array_equal(np.asarray(image), RGB >> 8)


def test_without_a_range_65535_is_white():
    values = np.array([[0, 128, 129, 65535]], np.uint16)
    assert to_tensor(values)[0].tolist() == [[0, 0, 1, 255]]
    assert as_levels(values, None) is values
    bytes_ = np.zeros(3, np.uint8)
    assert as_levels(bytes_, TWELVE) is bytes_


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("auto", None),
        (" Auto ", None),
        (8, (0, 255)),
        ("10", (0, 1023)),
        (np.int64(12), (0, 4095)),
        ("16", (0, 65535)),
        ("30000-34000", (30000, 34000)),
        ("30000 - 34000", (30000, 34000)),
        ((5, 6), (5, 6)),
        ([5, 6], (5, 6)),
        (PixelRange(1, 2), (1, 2)),
    ],
)
def test_options(option, expected):
    found = parse_range(option)
    assert found == (None if expected is None else PixelRange(*expected))
    if found is not None:
        assert parse_range(found.option) == found
        assert parse_range(str(found.option)) == found


@pytest.mark.parametrize(
    "option",
    [
        7,
        17,
        "7",
        "x",
        "",
        "12bit",
        12.0,
        True,
        None,
        "5-5",
        "9-3",
        "0-65536",
        (1,),
        (1, 2, 3),
        -12,
        "-12",
    ],
)
def test_wrong_options_are_told(option):
    with pytest.raises(ValueError, match=r"bit_depth must be auto, a number of bits from 8 to 16"):
        parse_range(option)


def test_many_values_outside_of_the_range_are_told(tmp_path):
    values = np.zeros((100, 100), np.uint16)
    values.flat[:100] = 4096
    for form in (values, write_png(tmp_path / "a.png", values)):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            to_tensor(form, TWELVE)  # 1 % of them
    values.flat[100] = 4096
    for form in (values, write_png(tmp_path / "a.png", values)):
        with pytest.warns(
            UserWarning, match="more than 1% of an image's pixels are outside of 0 to 4095"
        ):
            to_tensor(form, TWELVE)
    for top, share in ((2000, "10%"), (2600, "25%"), (6000, "50%"), (9950, "99%")):
        values.flat[:top] = 4096
        with pytest.warns(UserWarning, match=f"^more than {share} .* and become white: "):
            to_tensor(values, TWELVE)
    with pytest.warns(UserWarning, match="^more than 99% .* and become black: "):
        to_tensor(values, PixelRange(5000, 6000))
    with pytest.warns(UserWarning, match="^more than 99% .* and become black or white: "):
        to_tensor(values, PixelRange(10, 20))
    values[:] = 65535
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("default")
        for _ in range(3):
            to_tensor(values, TWELVE)
    assert len(said) == 1


def test_a_wrong_range_is_told():
    with pytest.raises(ValueError, match="within 0 to 65535"):
        PixelRange(5, 5)


def test_options_from_other_libraries():
    for twelve in (np.int64(12), np.array(12), torch.tensor(12), np.str_("12")):
        assert parse_range(twelve) == PixelRange(0, 4095)
    for window in (np.array([0, 4095]), [np.uint16(0), 4095], torch.tensor([0, 4095])):
        assert parse_range(window) == PixelRange(0, 4095)
    for wrong in (12.0, True, np.array([1.5, 3]), float("nan")):
        with pytest.raises(ValueError, match="bit_depth must be"):
            parse_range(wrong)
