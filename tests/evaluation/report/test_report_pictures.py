"""Pictures of a report: outlines by their area and corners, colours, sizes."""

import io
import re

import matplotlib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fastad.data import ImageError
from fastad.evaluation.report.pictures import (
    IMAGE_SIDE,
    UNITS,
    colour_bar,
    outline,
    write_image,
    write_map,
)


def polygons(path):
    """The closed lines of path data, in pixels."""
    found = []
    for part in path.split("z")[:-1]:
        start, moves = re.fullmatch(r"M(-?\d+ -?\d+)l([-\d ]*)", part).groups()
        steps = np.array([*start.split(), *moves.split()], dtype=int).reshape(-1, 2)
        found.append(np.cumsum(steps, axis=0) / UNITS)
    return found


def area(path):
    """Enclosed area; holes count negative, because they run the other way round."""
    total = 0.0
    for polygon in polygons(path):
        x, y = polygon.T
        total += float(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y)) / 2
    return abs(total)


def test_a_rectangle_is_outlined_along_its_pixels():
    mask = np.zeros((20, 30), bool)
    mask[5:9, 10:17] = True
    path = outline(mask, 0.5)
    [polygon] = polygons(path)
    assert polygon.min(axis=0).tolist() == [10, 5]  # x, y
    assert polygon.max(axis=0).tolist() == [17, 9]
    assert area(path) == pytest.approx(4 * 7 - 4 / 8)  # corners are cut off by half a pixel


def test_a_region_at_the_edge_ends_there():
    [polygon] = polygons(outline(np.ones((6, 9), bool), 0.5))
    assert polygon.min(axis=0).tolist() == [0, 0]
    assert polygon.max(axis=0).tolist() == [9, 6]


def test_a_region_with_a_hole_and_another():
    mask = np.zeros((12, 12), bool)
    mask[1:8, 1:8], mask[3:6, 3:6], mask[10, 10] = True, False, True
    path = outline(mask, 0.5)
    assert len(polygons(path)) == 3
    assert area(path) == pytest.approx(49 - 9 - 4 / 8 + 4 / 8 + 0.5, abs=0.1)


def test_nothing_above_the_level():
    assert outline(np.zeros((4, 4)), 0.5) == ""
    assert outline(np.full((4, 4), 0.5), 0.5) == ""  # equal is not above


def test_between_pixels_the_border_is_interpolated():
    values = np.tile(np.linspace(0, 1, 11), (5, 1))  # above 0.33 from x = 0.5 + 3.3 on
    [polygon] = polygons(outline(values, 0.33))
    assert polygon[:, 0].min() == pytest.approx(3.8)
    assert area(outline(values, 0.33)) == pytest.approx(5 * 7.2, abs=1)


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 2**32 - 1))
def test_any_mask_gives_closed_lines_inside_the_image(height, width, seed):
    mask = np.random.default_rng(seed).random((height, width)) > 0.5
    found = polygons(outline(mask, 0.5))
    assert bool(found) == bool(mask.any())
    for polygon in found:
        assert (polygon >= 0).all()
        assert (polygon <= (width, height)).all()


def test_maps_share_one_scale_and_matplotlibs_colours(tmp_path):
    values = np.array([[0.0, 1.0, 2.0, 4.0, -1.0]])
    write_map(values, 2.0, tmp_path / "map.png")
    picture = Image.open(tmp_path / "map.png")
    found = np.asarray(picture.convert("RGB"))[0]
    expected = matplotlib.colormaps["inferno"](np.array([0, 128, 255, 255, 0]), bytes=True)[:, :3]
    np.testing.assert_array_equal(found, expected)
    bar = np.asarray(Image.open(io.BytesIO(colour_bar())).convert("RGB"))
    np.testing.assert_array_equal(bar[0, [0, 128, 255]], expected[[0, 1, 2]])


@pytest.mark.parametrize("shape", [(30, 70), (1500, 3000), (2100, 400)])
def test_images_are_copied_no_larger_than_can_be_seen(tmp_path, shape):
    pixels = np.full((*shape, 3), (200, 30, 90), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "in.png")
    height, width = write_image(tmp_path / "in.png", tmp_path / "out.jpg")
    picture = Image.open(tmp_path / "out.jpg")
    assert picture.size == (width, height)
    assert max(picture.size) == min(max(shape), IMAGE_SIDE)
    assert height / width == pytest.approx(shape[0] / shape[1], rel=0.01)
    assert np.abs(np.asarray(picture).astype(int) - pixels[0, 0]).max() <= 3


def test_an_image_that_has_gone(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.png"):
        write_image(tmp_path / "gone.png", tmp_path / "out.jpg")
    (tmp_path / "broken.png").write_bytes(b"broken")
    with pytest.raises(ImageError, match=r"broken\.png"):
        write_image(tmp_path / "broken.png", tmp_path / "out.jpg")
