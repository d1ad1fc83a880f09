"""Regions of interest as they are given: masks and polygons."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from fastad.data.images import ImageError
from fastad.data.roi import filled, read_roi, same_aspect


@pytest.fixture
def white():
    mask = np.zeros((40, 60), dtype=bool)
    mask[10:30, 20:50] = True
    return mask


@pytest.mark.parametrize("kind", ["bool", "bytes", "ones", "float", "tensor", "16 bits"])
def test_an_array_is_a_mask(white, kind):
    given = {
        "bool": white,
        "bytes": white.astype(np.uint8) * 255,
        "ones": white.astype(np.int64),
        "float": white * 0.8 + 0.1,
        "tensor": torch.from_numpy(white),
        "16 bits": white.astype(np.uint16) * 65535,
    }[kind]
    found = read_roi(given).at((40, 60), (40, 60))
    assert found.dtype == torch.bool
    assert np.array_equal(found.numpy(), white)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "soft"])
def test_an_image_is_a_mask_as_of_defects(white, tmp_path, mode, recwarn):
    picture = Image.fromarray(white.astype(np.uint8) * 255)
    if mode == "P":
        picture = Image.fromarray(white.astype(np.uint8), "P")
        picture.putpalette([0, 0, 0, 200, 30, 40])
    elif mode == "soft":  # edges are cut at half of the range
        picture = picture.resize((240, 160)).resize((60, 40), Image.Resampling.BICUBIC)
    else:
        picture = picture.convert(mode)
    picture.save(tmp_path / "mask.png")
    found = read_roi(tmp_path / "mask.png").at((40, 60), None)
    assert np.array_equal(found.numpy(), white)


def test_a_region_may_be_most_of_the_image_without_a_warning(tmp_path, recwarn):
    picture = Image.new("L", (60, 40), 255)
    picture.putpixel((0, 0), 0)
    picture.save(tmp_path / "mask.png")
    assert read_roi(str(tmp_path / "mask.png")).at((20, 30), (80, 120)).all()
    assert not recwarn.list


def test_it_is_resized_to_the_model(white):
    found = read_roi(white).at((20, 30), (400, 600))
    assert np.array_equal(found.numpy(), white[1::2, 1::2])
    speck = np.zeros((400, 600), dtype=bool)
    speck[7, 9] = True
    assert read_roi(speck).at((20, 30), (400, 600)).nonzero().tolist() == [[0, 0]]


def inside_by_angles(polygon, x, y):
    """Winding number by angles, of a polygon that does not cross itself."""
    to = np.asarray(polygon, dtype=np.float64) - (x, y)
    angles = np.arctan2(to[:, 1], to[:, 0])
    turns = np.diff(np.append(angles, angles[0]))
    turns = (turns + np.pi) % (2 * np.pi) - np.pi
    return abs(turns.sum()) > np.pi


def test_polygons_hold_the_pixels_whose_centres_are_inside():
    star = [
        [3.2, 1.1],
        [30.7, 14.3],
        [58.1, 2.9],
        [40.2, 21.7],
        [52.3, 38.8],
        [29.9, 27.1],
        [5, 39],
    ]
    triangle = [[-5.0, 30.2], [12.6, 33.1], [-3.0, 70.0]]  # beyond the edges
    found = filled([np.array(star), np.array(triangle)], (40, 60))
    for y in range(40):
        for x in range(60):
            centre = x + 0.5, y + 0.5
            expected = inside_by_angles(star, *centre) or inside_by_angles(triangle, *centre)
            assert bool(found[y, x]) == expected, (x, y)
    whole = filled([np.array([[0, 0], [60, 0], [60, 40], [0, 40]])], (40, 60))
    assert whole.all()
    twice = [[10, 10], [20, 10], [20, 20], [10, 20], [10, 10], [20, 10], [20, 20], [10, 20]]
    assert not filled([np.array(twice)], (40, 60)).any()


def test_polygons_as_json_and_as_lists(tmp_path, white):
    polygons = [[[20, 10], [50, 10], [50, 30], [20, 30]]]
    sized = {"image_size": [60, 40], "polygons": polygons}
    (tmp_path / "sized.json").write_text(json.dumps(sized))
    (tmp_path / "plain.json").write_text(json.dumps(polygons))
    for given in (sized, tmp_path / "sized.json"):
        assert np.array_equal(read_roi(given).at((40, 60), None).numpy(), white)
    for given in (polygons, np.array(polygons).tolist(), str(tmp_path / "plain.json")):
        assert np.array_equal(read_roi(given).at((40, 60), (40, 60)).numpy(), white)
    # In pixels of the images, whatever size these are resized to.
    large = [[[2 * x, 2 * y] for x, y in polygons[0]]]
    assert np.array_equal(read_roi(large).at((40, 60), (80, 120)).numpy(), white)
    with pytest.raises(ValueError, match="size of the images is not known, or they differ"):
        read_roi(polygons).at((40, 60), None)
    with pytest.raises(ValueError, match="roi marks no pixel"):
        read_roi([[[100, 100], [101, 100], [101, 101]]]).at((40, 60), (40, 60))


@pytest.mark.parametrize(
    ("mask", "image", "same"),
    [
        ((40, 60), (400, 600), True),
        ((100, 171), (700, 1200), True),  # 171.4 rounded
        ((700, 1200), (100, 171), True),
        ((100, 170), (700, 1200), True),  # cut off
        ((100, 168), (700, 1200), False),
        ((60, 40), (400, 600), False),
        ((256, 256), (400, 600), False),
        ((768, 1024), (600, 800), True),
    ],
)
def test_another_aspect_is_told_from_rounding(mask, image, same):
    assert same_aspect(mask, image) == same


def test_a_mask_of_another_aspect_is_refused(white):
    match = r"roi is of 60x40 pixels \(width x height\), another aspect .* images, 500x500"
    with pytest.raises(ValueError, match=match):
        read_roi(white).at((256, 256), (500, 500))


@pytest.mark.parametrize(
    ("given", "match"),
    [
        (np.zeros((40, 60), dtype=bool), "marks no pixel: white is what counts"),
        (np.zeros((40, 60, 3), dtype=bool), r"\(H, W\); got shape \(40, 60, 3\)"),
        (np.full((4, 6), 2.5), "floats from 0 to 1; got float64, 2.5 to 2.5"),
        (np.full((4, 6), -1), "whole numbers from 0"),
        (np.full((4, 6), np.nan), "floats from 0 to 1"),
        ([], "at least three points each"),
        ([[0, 0], [1, 0], [1, 1]], "at least three points each"),
        ([[[0, 0], [1, 0]]], "at least three points each"),
        ([[[0, 0], [1, 0], [1, float("nan")]]], "at least three points each"),
        ({"polygons": [[[0, 0], [1, 0], [1, 1]]]}, r'"image_size" of roi must be \[W, H\]'),
        ({"image_size": [60, 0], "polygons": []}, r'"image_size" of roi must be \[W, H\]'),
        ({"image_size": [60, 40]}, "roi must be a mask or polygons"),
        (3, "roi must be a mask or polygons"),
    ],
)
def test_what_is_no_region_is_refused(given, match):
    with pytest.raises(ValueError, match=match):
        read_roi(given)


def test_files_that_are_no_region_are_named(tmp_path):
    Image.new("L", (60, 40)).save(tmp_path / "black.png")
    with pytest.raises(ValueError, match=r"black\.png marks no pixel"):
        read_roi(tmp_path / "black.png")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(ValueError, match=r"bad\.json is no JSON"):
        read_roi(tmp_path / "bad.json")
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(ImageError, match=r"text\.png"):
        read_roi(tmp_path / "text.png")
    with pytest.raises(FileNotFoundError, match=r"none\.png"):
        read_roi(tmp_path / "none.png")


def test_a_region_of_few_pixels_is_named():
    mask = np.zeros((40, 60), bool)
    mask[:8, :8] = True
    assert read_roi(mask).at((40, 60), None).sum() == 64
    mask[0, 0] = False
    with pytest.warns(UserWarning, match="only 63 of the 2400 pixels .* Are its polygons in pix"):
        read_roi(mask).at((40, 60), None)


def test_json_of_an_editor_that_marks_its_encoding(tmp_path):
    path = tmp_path / "roi.json"
    found = {"image_size": [60, 40], "polygons": [[[0, 0], [30, 0], [30, 40], [0, 40]]]}
    path.write_text(json.dumps(found), encoding="utf-8-sig")
    assert read_roi(path).at((40, 60), None).float().mean() == 0.5


def test_a_mask_that_leaves_nothing_out_warns(tmp_path):
    Image.new("RGB", (60, 40), (90, 80, 70)).save(tmp_path / "photo.png")
    with pytest.warns(UserWarning, match=r"photo\.png leaves nothing out"):
        read_roi(tmp_path / "photo.png").at((40, 60), (40, 60))
