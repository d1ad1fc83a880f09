"""AUPIMO against two slow definitions: every distinct threshold, and equally spaced ones."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastad.evaluation import aupimo


def slow_aupimo(mask, values, normal, low, high):
    """One image: a comparison for every distinct value, trapezoids over log FPR."""
    defect = values[mask]
    points = [(0.0, 0.0)]
    for threshold in sorted({*normal.ravel().tolist(), *defect.tolist()}, reverse=True):
        points.append((float(np.mean(normal >= threshold)), float(np.mean(defect >= threshold))))
    free = max(overlap for rate, overlap in points if rate == 0)  # without any false alarm
    first = min(rate for rate, _ in points if rate > 0)
    points = [(rate, overlap) for rate, overlap in points if rate > 0]
    area = free * (min(math.log(first), math.log(high)) - math.log(low)) if first > low else 0.0
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        x0, x1 = math.log(x0), math.log(x1)
        if x0 == x1:
            continue
        slope = (y1 - y0) / (x1 - x0)
        start, end = max(x0, math.log(low)), min(x1, math.log(high))
        if start < end:
            area += (end - start) * (y0 + slope * ((start + end) / 2 - x0))
    return area / math.log(high / low)


@settings(deadline=None, max_examples=100)
@given(
    seed=st.integers(0, 2**31),
    levels=st.sampled_from([1, 3, 20, 10**6]),
    fpr_range=st.sampled_from([(0.02, 0.1), (0.05, 1.0), (0.3, 0.31)]),
    dtype=st.sampled_from([np.float32, np.float64]),
)
def test_aupimo_is_the_definition(seed, levels, fpr_range, dtype):
    rng = np.random.default_rng(seed)
    masks = rng.random((5, 6, 9)) < 0.2
    masks[[1, 3]] = False
    maps = (rng.integers(0, levels, masks.shape) + levels / 2 * masks).astype(dtype)
    found = aupimo(masks, maps, fpr_range=fpr_range)
    for i in range(5):
        if not masks[i].any():
            assert math.isnan(found[i])
            continue
        expected = slow_aupimo(masks[i], maps[i], maps[~masks.any(axis=(1, 2))], *fpr_range)
        assert found[i] == pytest.approx(expected, abs=1e-9)


def test_equally_spaced_thresholds_approach_it():
    """As the paper and anomalib compute it: 300,000 thresholds, the nearest to the limits."""
    rng = np.random.default_rng(0)
    masks = np.zeros((14, 256, 256), bool)
    masks[10:, 60:90, 100:150] = True
    maps = np.float32(rng.gamma(3, size=masks.shape))
    maps[masks] += 12
    normal = np.sort(maps[:10].ravel())
    thresholds = np.linspace(normal[0], normal[-1], 300_000)
    rates = 1 - np.searchsorted(normal, thresholds) / normal.size
    first, last = (int(np.argmin(np.abs(rates - limit))) for limit in (1e-4, 1e-5))
    log = np.log(rates[first : last + 1])[::-1]
    found = aupimo(masks, maps)
    assert np.isnan(found[:10]).all()
    for i in range(10, 14):
        defect = maps[i][masks[i]]
        overlap = np.mean(defect >= thresholds[first : last + 1, None], axis=1)[::-1]
        area = np.sum(np.diff(log) * (overlap[1:] + overlap[:-1]) / 2) / math.log(10)
        assert 0.1 < area < 0.9
        assert found[i] == pytest.approx(area, abs=0.01)


def test_only_normal_images_count_as_normal():
    masks = np.zeros((2, 20, 20), bool)
    masks[1, 5:9, 5:9] = True
    maps = masks.astype(np.float32)
    maps[1, 0] = 2.0  # false alarms, but in the image with the defect
    assert aupimo(masks, maps, fpr_range=(0.01, 0.1))[1] == 1.0
    maps[0, 0, :5] = 2.0  # 5 of 400: found from a rate of 0.0125 on
    found = aupimo(masks, maps, fpr_range=(0.01, 0.1))[1]
    assert found == pytest.approx(math.log(0.1 / 0.0125) / math.log(10))


def test_a_perfect_a_constant_and_an_inverted_map():
    masks = np.zeros((3, 20, 20), bool)
    masks[2, :4] = True
    limits = {"fpr_range": (0.01, 0.1)}
    assert aupimo(masks, masks + 0.0, **limits)[2] == 1.0
    assert aupimo(masks, np.ones(masks.shape), **limits)[2] == 0.0
    assert aupimo(masks, 1.0 - masks, **limits)[2] == 0.0


def test_nothing_is_to_be_found_without_defects():
    found = aupimo(np.zeros((2, 9, 9), bool), np.ones((2, 9, 9)), fpr_range=(0.1, 0.2))
    assert found.shape == (2,)
    assert np.isnan(found).all()


@pytest.mark.parametrize("limits", [(0, 0.1), (0.1, 0.1), (0.2, 0.1), (0.1, 1.1), (math.nan, 0.1)])
def test_limits(limits):
    masks = np.zeros((2, 9, 9), bool)
    with pytest.raises(ValueError, match="fpr_range must be"):
        aupimo(masks, np.ones(masks.shape), fpr_range=limits)


def test_too_few_normal_pixels_for_the_rate():
    masks = np.zeros((2, 9, 9), bool)
    masks[1, 0] = True
    with pytest.raises(ValueError, match=r"1e-05 needs .* 100000 pixels at least, got 81"):
        aupimo(masks, np.ones(masks.shape))
    with pytest.raises(ValueError, match="got 0"):
        aupimo(masks[1:], np.ones((1, 9, 9)))
