"""Pixel scores of a test set: exact while the maps fit a budget, from histograms beyond it."""

import math
import tracemalloc

import numpy as np
import pytest

from fastad.evaluation import pixel_metrics
from fastad.evaluation.pixels import PixelScores

BOUNDED = ("pixel_auroc", "pixel_ap", "pixel_f1_max", "aupro")


@pytest.fixture
def images():
    """(group, mask, map) of ten images, none of them normal pixels alone but the group None."""
    rng = np.random.default_rng(0)
    groups = [None, "scratch", None, "hole", "hole", None, "scratch", None, "hole", None]
    result = []
    for group in groups:
        mask = np.zeros((12, 10), bool)
        if group is not None:
            mask[2 : rng.integers(4, 9), 3:7] = True
        result.append((group, mask, np.float32(rng.gamma(2, size=mask.shape) + mask)))
    return result


def collected(images, exact_bytes):
    scores = PixelScores(exact_bytes)
    for image in images:
        scores.update(*image)
    return scores


def expected(images, groups):
    masks, maps = zip(*((m, a) for group, m, a in images if group in groups), strict=True)
    return pixel_metrics(np.stack(masks), np.stack(maps))


@pytest.mark.parametrize("groups", [[None, "hole"], [None, "scratch"], [None, "hole", "scratch"]])
@pytest.mark.parametrize("exact_bytes", [0, 480 * 4, 480 * 10 - 1])
def test_beyond_the_budget_within_the_bound(images, groups, exact_bytes):
    pixels = collected(images, exact_bytes)
    assert not pixels.exact
    scores, bounds = pixels.compute(groups)
    truth = expected(images, groups)
    for name in BOUNDED:
        assert abs(scores[name] - truth[name]) <= bounds[name] < 0.01
    assert (scores, bounds) == collected(images, 0).compute(groups)  # when it changed is no matter


def test_within_the_budget_exact(images):
    pixels = collected(images, 480 * 10)
    assert pixels.exact
    for groups in ([None, "hole"], [None, "scratch", "hole"]):
        scores, bounds = pixels.compute(groups)
        truth = expected(images, groups)
        assert scores == pytest.approx(truth, abs=1e-12)
        assert bounds == dict.fromkeys(BOUNDED, 0.0)


@pytest.mark.parametrize("exact_bytes", [0, 10**6])
def test_undefined_without_defects_or_images(images, exact_bytes):
    pixels = collected(images, exact_bytes)
    for groups in ([None], ["no such group"]):
        scores, bounds = pixels.compute(groups)
        assert set(scores) == {*BOUNDED, "pixel_f1_threshold"}
        assert all(math.isnan(value) for value in [*scores.values(), *bounds.values()])


def test_a_buffer_may_be_used_again(images):
    pixels = PixelScores()
    buffer = np.empty((12, 10), np.float32)
    for group, mask, anomaly_map in images:
        buffer[:] = anomaly_map
        pixels.update(group, mask, buffer)
    assert pixels.compute([None, "hole"]) == collected(images, 10**6).compute([None, "hole"])


def test_maps_are_given_up_once_they_are_counted():
    mask, anomaly_map = np.zeros((512, 512), bool), np.ones((512, 512), np.float32)

    def held(exact_bytes):
        tracemalloc.start()
        try:
            pixels = collected([(None, mask, anomaly_map)] * 5, exact_bytes)
            assert not pixels.exact
            return tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()

    assert held(4 * 2**20) - held(0) < 10**5
