"""Regions against scipy's labels, known shapes, and boxes by brute force."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from fastad.evaluation.regions import (
    REGION_COLUMNS,
    in_words,
    pixels_of,
    regions_of,
    without_small,
)

EIGHT = np.ones((3, 3))


def blobs(seed, shape=(23, 37), density=0.35):
    rng = np.random.default_rng(seed)
    return rng.random(shape) < density, rng.random(shape).astype(np.float32)


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**31), density=st.sampled_from([0.02, 0.2, 0.4, 0.9]))
def test_numbers_are_those_of_scipy(seed, density):
    mask, values = blobs(seed, density=density)
    labels, count = ndimage.label(mask, EIGHT)
    numbers = np.arange(1, count + 1)
    size = (2 * 23, 3 * 37)  # twice as high, three times as wide
    found = regions_of(mask, values, size)
    assert len(found) == count
    assert [r.peak for r in found] == sorted((r.peak for r in found), reverse=True)
    wide = values.astype(np.float64)
    expected = sorted(
        zip(
            ndimage.maximum(wide, labels, numbers),
            ndimage.mean(wide, labels, numbers),
            ndimage.sum_labels(mask, labels, numbers),
            ndimage.center_of_mass(mask, labels, numbers),
            ndimage.find_objects(labels),
            strict=True,
        ),
        key=lambda row: -row[0],
    )
    for region, (peak, mean, pixels, (row, column), (rows, columns)) in zip(
        found, expected, strict=True
    ):
        assert region.peak == peak
        assert region.mean == pytest.approx(mean, rel=1e-12)
        assert region.area == pytest.approx(6 * pixels)
        assert region.share == pytest.approx(pixels / mask.size)
        assert region.centroid == pytest.approx((3 * (column + 0.5), 2 * (row + 0.5)))
        height, width = rows.stop - rows.start, columns.stop - columns.start
        assert region.box == (3 * columns.start, 2 * rows.start, 3 * width, 2 * height)


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**31))
def test_no_box_at_any_angle_is_smaller(seed):
    mask, values = blobs(seed, (9, 14), 0.45)
    labels, _ = ndimage.label(mask, EIGHT)
    for region in regions_of(mask, values, (9, 28)):
        inside = labels == labels[tuple(np.argwhere(region._part)[0] + region._at)]
        rows, columns = np.nonzero(inside)
        corners = np.concatenate(
            [np.stack([2 * (columns + x), rows + y], 1) for x in (0, 1) for y in (0, 1)]
        )
        areas = []
        for angle in np.radians(np.arange(0, 90, 0.5)):
            turn = np.array(
                [[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]]
            )
            areas.append(np.prod(np.ptp(corners @ turn.T, axis=0)))
        assert region.length * region.width <= min(areas) + 1e-9
        box = np.array(region.corners)
        along = (box[1] - box[0]) / np.linalg.norm(box[1] - box[0])
        across = np.array([-along[1], along[0]])
        for axis in (along, across):  # the box holds every pixel whole
            assert (corners @ axis).min() >= (box @ axis).min() - 1e-9
            assert (corners @ axis).max() <= (box @ axis).max() + 1e-9
        sides = sorted(np.linalg.norm(np.roll(box, -1, 0) - box, axis=1))
        assert sides[::2] == pytest.approx([region.width, region.length])


@pytest.mark.parametrize("angle", [0, 15, 30, 45, 60, 90, 120, 179])
def test_length_width_and_angle_of_a_scratch(angle):
    turn = math.radians(angle)
    y, x = np.mgrid[:120, :120] - 59.5
    along, across = x * math.cos(turn) + y * math.sin(turn), y * math.cos(turn) - x * math.sin(turn)
    mask = (np.abs(along) < 50) & (np.abs(across) < 4)
    [region] = regions_of(mask, mask * 1.0)
    # Pixels whose centres lie in it stick out by half a diagonal at most.
    assert 99 < region.length < 100 + math.sqrt(2)
    assert 7 < region.width < 8 + math.sqrt(2)
    off = abs(region.angle - angle)
    assert min(off, 180 - off) < 0.7
    assert 0 <= region.angle < 180


def test_a_pixel_is_a_square_and_a_diagonal_is_one_region():
    [dot] = regions_of(np.array([[False, True]]), np.array([[0.0, 2.0]]))
    assert (dot.box, dot.area, dot.length, dot.width) == ((1, 0, 1, 1), 1, 1, 1)
    [diagonal] = regions_of(np.eye(8) > 0, np.eye(8))
    assert (diagonal.length, diagonal.angle) == pytest.approx((8 * math.sqrt(2), 45))
    assert diagonal.width == pytest.approx(math.sqrt(2))
    assert regions_of(np.zeros((4, 5), bool), np.zeros((4, 5))) == []


def test_millimetres():
    mask = np.zeros((20, 20), bool)
    mask[2:4, 5:15] = True
    [known], [unknown] = (regions_of(mask, mask * 1.0, (40, 40), mm) for mm in (0.5, None))
    assert (known.area_mm2, known.length_mm, known.width_mm) == pytest.approx((20, 10, 2))
    assert (unknown.area_mm2, unknown.length_mm, unknown.width_mm) == (None, None, None)
    assert "area_mm2" not in unknown.to_dict()
    assert set(known.row("a.png", 1)) == set(REGION_COLUMNS)
    for wrong in (0, -1.0, math.nan, "0.1", True):
        with pytest.raises(ValueError, match="mm_per_pixel must be a number above 0"):
            regions_of(mask, mask * 1.0, mm_per_pixel=wrong)


@pytest.mark.parametrize("size", [(23, 37), (46, 111), (11, 18), (50, 50)])
def test_run_lengths_give_the_mask_back(size):
    mask, values = blobs(5)
    mask[0, 0] = True  # counts begin with no zeros
    together = np.zeros(size, bool)
    for region in regions_of(mask, values, size):
        code = region.rle()
        assert code["size"] == list(size)
        flat = np.repeat(np.arange(len(code["counts"])) % 2 == 1, code["counts"])
        decoded = flat.reshape(size, order="F")
        assert np.array_equal(decoded, region.mask())
        assert not (decoded & together).any()
        together |= decoded
    rows, columns = ((np.arange(n) + 0.5) / n * m for n, m in zip(size, mask.shape, strict=True))
    assert np.array_equal(together, mask[rows.astype(int)[:, None], columns.astype(int)])


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**31), least=st.integers(1, 30))
def test_small_regions_are_left_out(seed, least):
    mask, _ = blobs(seed)
    labels, count = ndimage.label(mask, EIGHT)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    expected = np.isin(labels, np.flatnonzero(sizes >= least)) & mask
    assert np.array_equal(without_small(mask, least), expected)


def test_words_and_pixels():
    mask = np.zeros((10, 10), bool)
    assert in_words([]) == ""
    mask[0, 0] = mask[5:7, 2:9] = True
    said = in_words(regions_of(mask, mask * 1.0, (1000, 1000)))
    assert said == "2 regions, the largest 14 % of the image, 700x200 pixels"
    assert [pixels_of(share, (10, 10)) for share in (0.01, 0.011, 0.07, 1e-9)] == [1, 2, 7, 1]


def test_a_region_with_nan_has_no_peak():
    [region] = regions_of(np.ones((1, 3), bool), np.array([[math.nan, 5.0, 1.0]]))
    assert math.isnan(region.peak)
    assert math.isnan(region.mean)


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match=r"size must be .* got \(0, 5\)"):
        regions_of(np.ones((4, 5), bool), np.ones((4, 5)), (0, 5))
    with pytest.raises(ValueError, match=r"alike; got \(4, 5\) and \(5, 4\)"):
        regions_of(np.zeros((4, 5), bool), np.zeros((5, 4)))
