"""Image and pixel scores against an independent, slow definition."""

import itertools
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from fastad import evaluation
from fastad.evaluation import aupro, image_metrics, pixel_metrics


def slow_aupro(masks, maps, fpr_limit):
    """Straight from the definition: loops, flood fill, one comparison a threshold."""
    regions = []
    for image, mask in enumerate(masks):
        left = {(int(r), int(c)) for r, c in zip(*np.nonzero(mask), strict=True)}
        while left:
            todo, region = [left.pop()], []
            while todo:
                r, c = todo.pop()
                region.append((image, r, c))
                for dr in (-1, 0, 1):
                    for dc in (-1, 0, 1):
                        if (r + dr, c + dc) in left:
                            left.remove((r + dr, c + dc))
                            todo.append((r + dr, c + dc))
            regions.append(region)
    normal = maps[~masks]
    points = [(0.0, 0.0)]
    for threshold in sorted(set(maps.ravel().tolist()), reverse=True):
        overlaps = [np.mean([maps[pixel] >= threshold for pixel in region]) for region in regions]
        points.append((float(np.mean(normal >= threshold)), float(np.mean(overlaps))))
    area = 0.0
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if x0 >= fpr_limit or x1 == x0:
            continue
        if x1 > fpr_limit:
            y1 = y0 + (y1 - y0) * (fpr_limit - x0) / (x1 - x0)
            x1 = fpr_limit
        area += (x1 - x0) * (y0 + y1) / 2
    return area / fpr_limit


@settings(deadline=None, max_examples=150)
@given(
    seed=st.integers(0, 2**31),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9)),
    levels=st.sampled_from([1, 2, 5, 1000]),
    density=st.sampled_from([0.05, 0.3, 0.8]),
    limit=st.sampled_from([0.01, 0.05, 0.3, 0.5, 1.0]),
)
def test_aupro_is_the_definition(seed, shape, levels, density, limit):
    rng = np.random.default_rng(seed)
    masks = rng.random(shape) < density
    maps = rng.integers(0, levels, shape).astype(np.float32)  # few levels: many ties
    if masks.all() or not masks.any():
        assert math.isnan(aupro(masks, maps, fpr_limit=limit))
        return
    assert aupro(masks, maps, fpr_limit=limit) == pytest.approx(
        slow_aupro(masks, maps, limit), abs=1e-9
    )


def test_aupro_of_a_perfect_a_constant_and_an_inverted_map():
    masks = np.zeros((2, 8, 8), bool)
    masks[0, 1:3, 1:3] = masks[0, 5:, 5:] = masks[1, 4, 4] = True
    maps = masks.astype(float)
    assert aupro(masks, maps) == 1.0
    assert aupro(masks, np.ones_like(maps)) == pytest.approx(0.15)  # the diagonal: limit / 2
    assert aupro(masks, -maps) == 0.0


def test_aupro_counts_regions_not_pixels_and_joins_diagonal_neighbours():
    masks = np.zeros((1, 10, 10), bool)
    masks[0, 0, :9] = True  # a large region that is found
    masks[0, 5, 5] = masks[0, 6, 6] = True  # one diagonal region of two pixels, half found
    maps = np.zeros((1, 10, 10))
    maps[masks] = 1.0
    maps[0, 6, 6] = -1.0
    start = (1 + 0.5) / 2  # one region whole, the other by half; all normal pixels are tied next
    assert aupro(masks, maps) == pytest.approx(start)


def test_aupro_never_exceeds_one():
    rng = np.random.default_rng(0)
    masks = rng.random((3, 40, 40)) < 0.02  # hundreds of shares whose sum may round above one
    maps = masks + 0.0
    assert aupro(masks, maps) <= 1.0


@pytest.mark.parametrize("limit", [0, -0.1, 1.5, math.nan])
def test_aupro_limit(limit):
    masks = np.eye(3, dtype=bool)[None]
    with pytest.raises(ValueError, match="fpr_limit must be in"):
        aupro(masks, masks.astype(float), fpr_limit=limit)


def test_image_metrics_by_hand():
    labels, scores = np.array([0, 0, 1, 1]), np.array([0.1, 0.4, 0.35, 0.8])
    metrics = image_metrics(labels, scores)
    assert metrics["image_auroc"] == pytest.approx(3 / 4)  # three of four pairs in order
    assert metrics["image_ap"] == pytest.approx((1 + 2 / 3) / 2)
    assert metrics["image_f1_max"] == pytest.approx(4 / 5)  # two found, one false alarm


def test_pixel_metrics_by_hand():
    masks = np.array([[[False, False], [True, True]]])
    maps = np.array([[[0.1, 0.4], [0.35, 0.8]]])
    metrics = pixel_metrics(masks, maps, fpr_limit=1.0)
    assert metrics["pixel_auroc"] == pytest.approx(3 / 4)
    assert metrics["pixel_ap"] == pytest.approx((1 + 2 / 3) / 2)
    assert metrics["pixel_f1_max"] == pytest.approx(4 / 5)
    assert metrics["pixel_f1_threshold"] == 0.35
    assert metrics["aupro"] == pytest.approx(3 / 4)  # one region: the same as the AUROC


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 6)), min_size=1, max_size=30))
def test_f1_max_is_the_best_over_all_thresholds(pairs):
    labels = np.array([label for label, _ in pairs])
    scores = np.array([float(score) for _, score in pairs])
    found = image_metrics(labels.astype(int), scores)["image_f1_max"]
    if labels.all() or not labels.any():
        assert math.isnan(found)
        return
    best = 0.0
    for threshold in scores:
        called = scores >= threshold
        true = (called & labels).sum()
        best = max(best, 2 * true / (called.sum() + labels.sum()))
    assert found == pytest.approx(best)


@pytest.mark.parametrize("levels", [3, 50, 10**6])
def test_curves_are_those_of_scikit_learn(levels):
    rng = np.random.default_rng(levels)
    masks = rng.random((3, 20, 30)) < 0.1
    maps = rng.integers(0, levels, masks.shape) + masks * levels / 3
    metrics = pixel_metrics(masks, maps)
    labels, scores = masks.ravel(), maps.ravel()
    assert metrics["pixel_auroc"] == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert metrics["pixel_ap"] == pytest.approx(average_precision_score(labels, scores), abs=1e-12)
    called = scores >= metrics["pixel_f1_threshold"]
    assert metrics["pixel_f1_max"] == pytest.approx(f1_score(labels, called), abs=1e-12)


# How values spread decides which places the counting looks into.
SPREADS = {
    "ties": lambda rng, shape: rng.integers(-3, 4, shape) / 7,
    "normal": lambda rng, shape: rng.normal(size=shape),
    "all magnitudes": lambda rng, shape: (
        np.exp(rng.uniform(-80, 80, shape)) * rng.normal(size=shape)
    ),
    "neighbouring floats": lambda rng, shape: 1 + rng.integers(0, 50, shape) * 2.0**-23,
    "zeros of both signs": lambda rng, shape: rng.choice([-0.0, 0.0, 1e-30], shape),
    "neighbours and one far away": lambda rng, shape: (
        1 + rng.integers(0, 50, shape) * 2.0**-23 + 1e30 * (rng.random(shape) < 0.05)
    ),
    "one far away": lambda rng, shape: rng.normal(size=shape) + 1e30 * (rng.random(shape) < 0.01),
}


@settings(deadline=None, max_examples=120)
@given(
    spread=st.sampled_from(sorted(SPREADS)),
    seed=st.integers(0, 2**31),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 25), st.integers(1, 25)),
    density=st.sampled_from([0.02, 0.5, 0.95]),
    dtype=st.sampled_from([np.float16, np.float32, np.float64]),
)
def test_all_pixel_scores_are_those_of_scikit_learn(spread, seed, shape, density, dtype):
    rng = np.random.default_rng(seed)
    masks = rng.random(shape) < density
    values = SPREADS[spread](rng, shape) + 0.3 * masks
    maps = np.clip(values, -6e4, 6e4).astype(dtype) if dtype == np.float16 else values.astype(dtype)
    metrics = pixel_metrics(masks, maps)
    if masks.all() or not masks.any():
        assert all(math.isnan(value) for value in metrics.values())
        return
    labels, scores = masks.ravel(), maps.ravel().astype(np.float64)
    assert metrics["pixel_auroc"] == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert metrics["pixel_ap"] == pytest.approx(average_precision_score(labels, scores), abs=1e-12)
    called = scores >= np.append(metrics["pixel_f1_threshold"], np.unique(scores))[:, None]
    f1 = 2 * (called & labels).sum(1) / (called.sum(1) + labels.sum())
    assert metrics["pixel_f1_max"] == pytest.approx(f1[0], abs=1e-12)
    assert metrics["pixel_f1_max"] == pytest.approx(f1.max(), abs=1e-12)
    images = image_metrics(labels.astype(int), scores)
    assert images["image_auroc"] == metrics["pixel_auroc"]
    assert images["image_ap"] == metrics["pixel_ap"]
    assert images["image_f1_max"] == metrics["pixel_f1_max"]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_many_defect_pixels_and_few(dtype):
    rng = np.random.default_rng(0)
    for density in (0.001, 0.4):
        masks = rng.random((3, 300, 401)) < density
        maps = (rng.normal(size=masks.shape) + masks).astype(dtype)
        metrics = pixel_metrics(masks, maps)
        labels, scores = masks.ravel(), maps.ravel()
        assert metrics["pixel_auroc"] == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
        ap = average_precision_score(labels, scores)
        assert metrics["pixel_ap"] == pytest.approx(ap, abs=1e-12)


def test_float64_is_not_rounded():
    masks = np.array([[[False, True]]])
    maps = np.array([[[1.0, 1.0 + 1e-12]]])
    assert pixel_metrics(masks, maps)["pixel_auroc"] == 1.0
    assert pixel_metrics(masks, maps)["pixel_f1_threshold"] == 1.0 + 1e-12
    assert pixel_metrics(masks, maps.astype(np.float32))["pixel_auroc"] == 0.5


def test_constant_maps_are_a_coin():
    masks = np.zeros((2, 10, 10), bool)
    masks[0, 2:4, 2:7] = True
    metrics = pixel_metrics(masks, np.full(masks.shape, 0.25, np.float32))
    assert metrics["pixel_auroc"] == 0.5
    assert metrics["pixel_ap"] == masks.mean()
    assert metrics["pixel_f1_threshold"] == 0.25
    assert metrics["aupro"] == pytest.approx(0.15)


def test_single_functions_are_the_entries_of_the_dictionaries():
    rng = np.random.default_rng(1)
    masks = rng.random((2, 9, 8)) < 0.2
    maps = rng.normal(size=masks.shape).astype(np.float32)
    f1, threshold = evaluation.pixel_f1_max(masks, maps)
    assert pixel_metrics(masks, maps, fpr_limit=0.05) == {
        "pixel_auroc": evaluation.pixel_auroc(masks, maps),
        "pixel_ap": evaluation.pixel_average_precision(masks, maps),
        "pixel_f1_max": f1,
        "pixel_f1_threshold": threshold,
        "aupro": aupro(masks, maps, fpr_limit=0.05),
    }
    labels, scores = masks.ravel().astype(int), maps.ravel()
    f1, threshold = evaluation.image_f1_max(labels, scores)
    assert f1_score(labels, scores >= threshold) == pytest.approx(f1)
    assert image_metrics(labels, scores) == {
        "image_auroc": evaluation.image_auroc(labels, scores),
        "image_ap": evaluation.image_average_precision(labels, scores),
        "image_f1_max": f1,
    }


def test_strides_and_tensors_are_read_as_they_are():
    rng = np.random.default_rng(2)
    masks = rng.random((3, 12, 10)) < 0.2
    maps = rng.normal(size=masks.shape).astype(np.float32)
    expected = pixel_metrics(masks, maps)
    for part in (np.s_[:, ::-1], np.s_[:, :, ::-1], np.s_[::-1]):
        assert pixel_metrics(masks[part], maps[part]) == pytest.approx(expected, abs=1e-12)
    swapped = pixel_metrics(masks.transpose(0, 2, 1), maps.transpose(0, 2, 1))
    assert swapped == pytest.approx(expected, abs=1e-12)
    assert pixel_metrics(masks, maps.astype(">f4")) == expected
    assert pixel_metrics(torch.from_numpy(masks), torch.from_numpy(maps)) == expected


def test_the_number_of_threads_changes_nothing():
    rng = np.random.default_rng(3)
    masks = rng.random((7, 40, 30)) < 0.1
    masks[2] = False
    maps = rng.integers(0, 99, masks.shape).astype(np.float32)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5, 16):
            torch.set_num_threads(threads)
            found.append(pixel_metrics(masks, maps))
    finally:
        torch.set_num_threads(before)
    assert all(metrics == found[0] for metrics in found)


def test_importing_needs_neither_scikit_learn_nor_scipy(tmp_path):
    code = "import sys, fastad.evaluation; print({'sklearn', 'scipy'} & set(sys.modules))"
    # Elsewhere than in the checkout, whose sources would hide the installed package.
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout == "set()\n"


def test_one_class_alone_is_undefined():
    for label in (0, 1):
        metrics = image_metrics(np.full(3, label), np.arange(3.0))
        assert all(math.isnan(value) for value in metrics.values())
        masks = np.full((2, 3, 3), bool(label))
        metrics = pixel_metrics(masks, np.random.default_rng(0).random((2, 3, 3)))
        assert all(math.isnan(value) for value in metrics.values())


def test_errors_name_what_is_wrong():
    masks, maps = np.zeros((2, 4, 4), bool), np.zeros((2, 4, 4))
    with pytest.raises(ValueError, match=r"\(2, 4, 4\) and \(2, 4, 5\)"):
        pixel_metrics(masks, np.zeros((2, 4, 5)))
    with pytest.raises(ValueError, match="not empty"):
        pixel_metrics(masks[:0], maps[:0])
    with pytest.raises(ValueError, match="masks must be bool, got uint8"):
        pixel_metrics(masks.astype(np.uint8), maps)
    with pytest.raises(ValueError, match="maps must be floating point, got int64"):
        aupro(masks, maps.astype(np.int64))
    with pytest.raises(ValueError, match="float16, float32 and float64 are taken"):
        aupro(masks, maps.astype(np.longdouble))
    for bad in (np.nan, np.inf, -np.inf):
        with pytest.raises(ValueError, match="maps must be finite, but 1 of 32"):
            pixel_metrics(masks, np.where(np.arange(32).reshape(2, 4, 4) == 5, bad, maps))
        with pytest.raises(ValueError, match="scores must be finite"):
            image_metrics(np.array([0, 1]), np.array([0.0, bad]))
    with pytest.raises(ValueError, match=r"N >= 1.*\(0,\)"):
        image_metrics(np.array([]), np.array([]))
    with pytest.raises(ValueError, match=r"\(3,\) and \(2,\)"):
        image_metrics(np.zeros(3), np.zeros(2))
    with pytest.raises(ValueError, match=r"labels must be 0 \(normal\) or 1"):
        image_metrics(np.array([0, 2]), np.zeros(2))


def test_bfloat16_tensors_and_whole_numbers_are_taken():
    rng = np.random.default_rng(0)
    masks = rng.random((2, 6, 6)) < 0.3
    maps = torch.from_numpy(rng.random((2, 6, 6))).bfloat16()
    assert pixel_metrics(masks, maps) == pixel_metrics(masks, maps.float())
    scores = torch.tensor([0.5, 1.0, 2.0]).bfloat16()
    assert image_metrics([0, 0, 1], scores) == image_metrics([0, 0, 1], [1, 2, 3])


@pytest.mark.parametrize("limit", [None, "0.3", [0.3], 0, 2, float("nan")])
def test_a_limit_that_is_none_is_named(limit):
    with pytest.raises(ValueError, match=r"fpr_limit must be in \(0, 1\], got"):
        pixel_metrics(np.eye(4, dtype=bool)[None], np.eye(4)[None], fpr_limit=limit)
