"""Pixel scores from histograms: their definition, and that no error exceeds its bound."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastad.evaluation import PixelHistogram, pixel_metrics
from fastad.evaluation.histogram import BINS, lower_edge

BOUNDED = ("pixel_auroc", "pixel_ap", "pixel_f1_max", "aupro")


def one_bin(rng, masks):
    return 1 + rng.integers(0, 4096, masks.shape) * 2.0**-23


# How values fall into bins decides everything, so there is a case for every way.
KINDS = {
    "shifted": lambda rng, masks: rng.normal(size=masks.shape) + 2 * masks,
    "ties": lambda rng, masks: rng.integers(-2, 3, masks.shape) / 7,
    "constant": lambda rng, masks: np.full(masks.shape, rng.normal()),
    "zeros of both signs": lambda rng, masks: rng.choice([-0.0, 0.0, 1e-20], masks.shape),
    "denormal": lambda rng, masks: rng.integers(-9000, 9000, masks.shape) * 2.0**-149,
    "one bin": one_bin,
    "few bins": lambda rng, masks: 1 + rng.random(masks.shape) * 2.0**-8,
    "one bin, defects on top": lambda rng, masks: one_bin(rng, masks) / 1.001 + masks * 2.0**-12,
    "one bin, defects below": lambda rng, masks: 1 + (1 - masks) * rng.random(masks.shape) * 2e-4,
    "all magnitudes": lambda rng, masks: (
        np.exp(rng.uniform(-95, 88, masks.shape)) * rng.choice([-1, 1], masks.shape)
    ),
    "largest": lambda rng, masks: rng.choice([-1, 1], masks.shape) * float(np.finfo("f").max),
}


def random_case(kind, seed, shape, density):
    rng = np.random.default_rng(seed)
    masks = rng.random(shape) < density
    masks.flat[0], masks.flat[-1] = True, False
    return masks, KINDS[kind](rng, masks).astype(np.float32)


def computed(masks, maps, **options):
    histogram = PixelHistogram()
    histogram.update(masks, maps)
    return histogram.compute(**options)


def exact(masks, maps, limit):
    return pixel_metrics(masks, maps.astype(np.float64), fpr_limit=limit)


def middles(maps):
    """Values at the middles of bins, by arithmetic instead of bits."""
    wide = np.abs(maps.astype(np.float64))
    exponent = np.where(wide < 2.0**-126, -126, np.frexp(wide)[1] - 1)  # denormals: the least
    step = 2.0 ** (exponent - 11)
    return np.where(maps < 0, -1, 1) * (np.floor(wide / step) + 0.5) * step


cases = given(
    kind=st.sampled_from(sorted(KINDS)),
    seed=st.integers(0, 2**31),
    shape=st.sampled_from([(1, 1, 2), (1, 3, 5), (2, 7, 1), (3, 12, 17)]),
    density=st.sampled_from([0.03, 0.3, 0.9]),
    limit=st.sampled_from([0.01, 0.3, 1.0]),
)


@settings(deadline=None, max_examples=80)
@cases
def test_scores_are_those_of_maps_rounded_to_bins(kind, seed, shape, density, limit):
    masks, maps = random_case(kind, seed, shape, density)
    scores, _ = computed(masks, maps, fpr_limit=limit)
    expected = exact(masks, middles(maps), limit)
    assert list(scores) == list(expected)
    for name in BOUNDED:
        assert scores[name] == pytest.approx(expected[name], abs=1e-12), name
    called = maps >= scores["pixel_f1_threshold"]
    f1 = 2 * (called & masks).sum() / (called.sum() + masks.sum())
    assert scores["pixel_f1_max"] == pytest.approx(f1, abs=1e-12)


@settings(deadline=None, max_examples=150)
@cases
def test_no_error_exceeds_its_bound(kind, seed, shape, density, limit):
    masks, maps = random_case(kind, seed, shape, density)
    scores, bounds = computed(masks, maps, fpr_limit=limit)
    expected = exact(masks, maps, limit)
    assert set(bounds) == set(BOUNDED)
    for name in BOUNDED:
        assert abs(scores[name] - expected[name]) <= bounds[name] + 1e-12, name
    assert scores["pixel_f1_max"] <= expected["pixel_f1_max"] + 1e-12


def test_bounds_are_reached_when_all_values_share_a_bin():
    masks = np.zeros((1, 4, 5), bool)
    masks[0, 0, :2] = True
    for sign, order in ((1, "defects above"), (-1, "defects below")):
        maps = np.float32(1 + sign * masks * 2.0**-20 + 2.0**-13)
        scores, bounds = computed(masks, maps, fpr_limit=1.0)
        expected = exact(masks, maps, 1.0)
        reached = {name: abs(scores[name] - expected[name]) for name in BOUNDED}
        assert reached["pixel_auroc"] == pytest.approx(bounds["pixel_auroc"]) == 0.5, order
        assert reached["aupro"] == pytest.approx(bounds["aupro"]) == 0.5, order
        if sign > 0:
            assert reached["pixel_ap"] == pytest.approx(bounds["pixel_ap"]) == 0.9
            assert reached["pixel_f1_max"] == pytest.approx(bounds["pixel_f1_max"])


def test_bounds_are_small_for_maps_like_a_detectors():
    rng = np.random.default_rng(0)
    masks = np.zeros((20, 64, 64), bool)
    masks[10:, 20:30, 20:40] = True
    maps = np.float32(np.exp(rng.normal(-6, 1, masks.shape) + 2 * masks))
    scores, bounds = computed(masks, maps)
    expected = exact(masks, maps, 0.3)
    for name in BOUNDED:
        assert 0 < bounds[name] < 2e-3
        assert abs(scores[name] - expected[name]) <= bounds[name]


def test_bins_keep_the_order_of_all_floats():
    rng = np.random.default_rng(0)
    values = rng.integers(0, 2**32, 200_000, dtype=np.uint32).view(np.float32)
    largest = np.finfo("f").max
    values = np.append(values[np.isfinite(values)], [-largest, -1e-45, -0.0, 0, 1e-45, largest])
    values = np.sort(np.float32(values))
    for masks in (np.zeros_like(values, bool), np.ones_like(values, bool)):
        histogram = PixelHistogram()
        histogram.update(masks[None, None], values[None, None])
        counts = histogram.defect if masks.any() else histogram.normal
        assert len(counts) == BINS
        assert counts.sum() == values.size
        filled = np.flatnonzero(counts)
        ends = np.cumsum(counts[filled])
        edges = np.array([lower_edge(int(number)) for number in filled])
        # in order, the values fill the bins one after the other
        assert (edges <= values[ends - counts[filled]]).all()
        assert (values[ends[:-1] - 1] < edges[1:]).all()


def test_parts_merge_to_the_whole():
    masks, maps = random_case("shifted", 1, (6, 9, 11), 0.2)
    whole, first, second = PixelHistogram(), PixelHistogram(), PixelHistogram()
    whole.update(masks, maps)
    first.update(masks[:1], maps[:1])
    first.update(masks[1:4], maps[1:4])
    second.update(masks[4:], maps[4:])
    first.merge(second)
    np.testing.assert_array_equal(first.normal, whole.normal)
    np.testing.assert_array_equal(first.defect, whole.defect)
    assert first.compute() == whole.compute()
    assert whole.normal.sum() + whole.defect.sum() == maps.size


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_float_types_are_taken_as_float32(dtype):
    masks, maps = random_case("shifted", 2, (2, 9, 11), 0.2)
    maps = maps.astype(dtype)
    assert computed(masks, maps) == computed(masks, maps.astype(np.float32))


def test_strided_maps_are_read_as_they_are():
    masks, maps = random_case("shifted", 3, (2, 9, 11), 0.2)
    assert computed(masks, np.repeat(maps, 2, axis=2)[:, :, ::2]) == computed(masks, maps)
    assert computed(masks.transpose(0, 2, 1), maps.transpose(0, 2, 1)) == computed(masks, maps)


@pytest.mark.parametrize("defect", [False, True])
def test_one_class_alone_is_undefined(defect):
    scores, bounds = computed(np.full((2, 3, 3), defect), np.ones((2, 3, 3), np.float32))
    assert set(scores) == {*BOUNDED, "pixel_f1_threshold"}
    assert set(bounds) == set(BOUNDED)
    assert all(math.isnan(value) for value in [*scores.values(), *bounds.values()])
    assert all(math.isnan(value) for value in PixelHistogram().compute()[0].values())


def test_errors_name_what_is_wrong_and_add_nothing():
    masks, maps = np.eye(4, dtype=bool)[None], np.zeros((1, 4, 4), np.float32)
    histogram = PixelHistogram()
    for bad in (np.nan, np.inf, -np.inf):
        with pytest.raises(ValueError, match="maps must be finite, but 1 of 16"):
            histogram.update(masks, np.where(np.arange(16).reshape(1, 4, 4) == 5, bad, maps))
    with pytest.raises(ValueError, match="maps must be finite, but 16 of 16"):
        histogram.update(masks, maps.astype(np.float64) + 1e39)  # infinite as float32
    with pytest.raises(ValueError, match=r"\(1, 4, 4\) and \(1, 4, 5\)"):
        histogram.update(masks, np.zeros((1, 4, 5), np.float32))
    with pytest.raises(ValueError, match="masks must be bool, got uint8"):
        histogram.update(masks.astype(np.uint8), maps)
    with pytest.raises(ValueError, match="maps must be floating point, got int32"):
        histogram.update(masks, maps.astype(np.int32))
    with pytest.raises(ValueError, match="fpr_limit must be in"):
        histogram.compute(fpr_limit=0)
    assert not histogram.normal.any()
    assert not histogram.defect.any()
