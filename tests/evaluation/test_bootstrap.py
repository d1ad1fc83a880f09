"""Bootstrap intervals against resampling one by one."""

import math
import time

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from fastad.evaluation import bootstrap, image_auroc_interval


def labelled(rng, normal, defect, levels=10**6):
    labels = np.r_[np.zeros(normal, int), np.ones(defect, int)]
    scores = np.floor((rng.normal(size=labels.size) + labels) * levels) / levels
    order = rng.permutation(labels.size)
    return labels[order], scores[order]


@pytest.mark.parametrize("levels", [2, 10**6])
def test_it_is_the_bootstrap(levels):
    """The same draws, each resample measured by scikit-learn."""
    labels, scores = labelled(np.random.default_rng(0), 23, 14, levels)
    rng, resamples = np.random.default_rng(5), 200
    normal, defect = scores[labels == 0], scores[labels == 1]
    draws = [rng.integers(0, x.size, (resamples, x.size)) for x in (normal, defect)]
    truth = np.r_[np.zeros(23), np.ones(14)]
    aurocs = [
        roc_auc_score(truth, np.r_[normal[i], defect[j]]) for i, j in zip(*draws, strict=True)
    ]
    for confidence in (0.5, 0.95):
        tail = 50 * (1 - confidence)
        found = image_auroc_interval(
            labels, scores, confidence=confidence, resamples=resamples, seed=5
        )
        assert found == pytest.approx(np.percentile(aurocs, [tail, 100 - tail]), abs=1e-12)


def test_parts_cover_all_resamples(monkeypatch):
    labels, scores = labelled(np.random.default_rng(1), 40, 30)
    whole = image_auroc_interval(labels, scores, resamples=2000)
    monkeypatch.setattr(bootstrap, "CHUNK", 140 * 300)
    parts = image_auroc_interval(labels, scores, resamples=2000)
    assert parts == pytest.approx(whole, abs=0.02)
    assert parts != whole  # other draws


def test_coverage_is_near_the_confidence():
    rng, hits = np.random.default_rng(2), 0
    true = 0.5 * (1 + math.erf(1 / 2))  # of two normal distributions one apart
    for seed in range(200):
        low, high = image_auroc_interval(*labelled(rng, 40, 40), resamples=500, seed=seed)
        hits += low <= true <= high
    assert 0.88 < hits / 200 < 0.99


def test_the_interval_holds_the_score_and_shrinks_with_the_images():
    rng = np.random.default_rng(3)
    widths = []
    for images in (20, 200, 2000):
        labels, scores = labelled(rng, images, images)
        low, high = image_auroc_interval(labels, scores)
        assert low < roc_auc_score(labels, scores) < high
        widths.append(high - low)
    assert widths[0] > 2 * widths[1] > 4 * widths[2]


def test_seeded():
    labels, scores = labelled(np.random.default_rng(4), 30, 30)
    assert image_auroc_interval(labels, scores) == image_auroc_interval(labels, scores)
    assert image_auroc_interval(labels, scores) != image_auroc_interval(labels, scores, seed=1)


def test_separated_classes_and_one_class_alone():
    labels, scores = np.array([0, 0, 1, 1]), np.array([1.0, 2.0, 3.0, 4.0])
    assert image_auroc_interval(labels, scores) == (1.0, 1.0)
    assert image_auroc_interval(labels, -scores) == (0.0, 0.0)
    for one in (0, 1):
        found = image_auroc_interval(np.full(4, one), scores)
        assert all(math.isnan(value) for value in found)


def test_many_images_are_measured_at_once():
    labels, scores = labelled(np.random.default_rng(5), 1000, 1000)
    start = time.perf_counter()
    image_auroc_interval(labels, scores)
    assert time.perf_counter() - start < 5  # 2000 calls of roc_auc_score take some 3 s or more


def test_errors():
    labels, scores = np.array([0, 1]), np.array([0.0, 1.0])
    for confidence in (0, 1, math.nan):
        with pytest.raises(ValueError, match="confidence must be in"):
            image_auroc_interval(labels, scores, confidence=confidence)
    with pytest.raises(ValueError, match="resamples must be 1 at least, got 0"):
        image_auroc_interval(labels, scores, resamples=0)
    with pytest.raises(ValueError, match="scores must be finite"):
        image_auroc_interval(labels, scores * np.nan)
