"""The points of drawn curves lie on the exact curves."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import auc, precision_recall_curve, roc_curve

from fastad.evaluation import aupro
from fastad.evaluation.report.curves import image_counts, precision_recall, roc
from fastad.evaluation.report.histogram import PixelHistogram


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.booleans(), st.integers(-3, 3)), min_size=2, max_size=40))
def test_image_curves_are_scikit_learns(rows):
    labels, scores = np.array(rows).T.astype(float)
    counts = image_counts(labels, scores)
    if labels.all() or not labels.any():
        assert roc(*counts) is None
        assert precision_recall(*counts) is None
        return
    fpr, tpr, _ = roc_curve(labels, scores, drop_intermediate=False)
    np.testing.assert_allclose(roc(*counts), (fpr, tpr), atol=1e-12)
    precision, recall, _ = precision_recall_curve(labels, scores)
    found = precision_recall(*counts)
    np.testing.assert_allclose(found[0], recall[::-1], atol=1e-12)
    np.testing.assert_allclose(found[1][1:], precision[-2::-1], atol=1e-12)


def pixels(seed=0, shape=(6, 40, 31), low=-1.0):
    rng = np.random.default_rng(seed)
    masks = np.zeros(shape, dtype=bool)
    masks[0, 3:9, 5:20] = masks[0, 20:, 28:] = masks[1, :2] = masks[3, 10:30, 10] = True
    maps = (rng.uniform(low, 1, shape) + 0.7 * masks).astype(np.float32)
    return masks, maps


def counted(masks, maps):
    counts = PixelHistogram()
    for mask, values in zip(masks, maps, strict=True):
        counts.update(mask[None], values[None])
    return counts.totals()


def test_every_point_of_a_pixel_curve_is_on_the_exact_one():
    masks, maps = pixels()
    normal, defect, _ = counted(masks, maps)
    assert (normal.sum(), defect.sum()) == ((~masks).sum(), masks.sum())
    found = np.stack(roc(normal, defect), axis=1)
    fpr, tpr, _ = roc_curve(masks.ravel(), maps.ravel(), drop_intermediate=False)
    exact = np.stack([fpr, tpr], axis=1)
    distance = np.abs(found[:, None] - exact[None]).max(axis=2).min(axis=1)
    assert distance.max() < 1e-12
    assert len(found) > 1000


def test_areas_of_pixel_curves_are_those_of_the_metrics():
    masks, maps = pixels(1)
    normal, defect, overlap = counted(masks, maps)
    fpr, tpr, _ = roc_curve(masks.ravel(), maps.ravel())
    assert auc(*roc(normal, defect)) == pytest.approx(auc(fpr, tpr), abs=1e-5)
    assert overlap.sum() == pytest.approx(4)  # one a region
    x, y = roc(normal, overlap)
    grid = np.linspace(0, 0.3, 20001)
    area = np.trapezoid if hasattr(np, "trapezoid") else np.trapz
    found = area(np.interp(grid, x, y), grid) / 0.3
    assert found == pytest.approx(aupro(masks, maps), abs=1e-4)


def bins_of(values):
    found = []
    for value in values:
        histogram = PixelHistogram()
        histogram.update(np.zeros((1, 1, 1), dtype=bool), np.full((1, 1, 1), value, np.float32))
        found.append(int(np.flatnonzero(histogram.normal)[0]))
    return found


@settings(deadline=None, max_examples=60)
@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=2, max_size=8))
def test_bins_are_in_the_order_of_the_values(values):
    values = np.sort(np.array(values, dtype=np.float32))
    bins = bins_of(values)
    assert (np.diff(bins) >= 0).all()
    assert 0 <= bins[0] <= bins[-1] < len(PixelHistogram().normal)


def test_zero_has_one_bin_whatever_its_sign():
    assert len(set(bins_of(np.array([0.0, -0.0])))) == 1


def test_without_a_class_there_is_no_pixel_curve():
    masks, maps = pixels()
    for chosen in (np.zeros_like(masks), np.ones_like(masks)):
        normal, defect, overlap = counted(chosen, maps)
        assert roc(normal, defect) is None
        assert roc(normal, overlap) is None
        assert precision_recall(normal, defect) is None
