"""Pixel scores of a region of interest: exactly those of the pixels inside."""

import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from sklearn.metrics import average_precision_score, roc_auc_score

from fastad.data import Sample
from fastad.evaluation import Evaluation, aupimo, aupro, evaluate, pixel_metrics
from fastad.evaluation.metrics import pixel_auroc, pixel_average_precision, pixel_f1_max
from fastad.evaluation.report.histogram import PixelHistogram


def arrays(seed=0, dtype=np.float32, ties=True):
    rng = np.random.default_rng(seed)
    masks = np.zeros((4, 21, 17), dtype=bool)
    masks[1, 2:9, 3:12] = masks[2, 12:20, 1:5] = masks[2, 3:6, 10:16] = True
    maps = rng.normal(size=masks.shape) + masks
    maps = (np.round(maps, 1) if ties else maps).astype(dtype)
    inside = np.zeros((21, 17), dtype=bool)
    inside[4:18, 2:14] = True
    inside[8, 5:9] = False  # which cuts a part out
    return masks, maps, inside


def aupro_by_hand(masks, maps, inside, limit=0.3):
    """Bergmann et al., section 5.1, threshold by threshold, over pixels inside."""
    kept = masks & inside
    regions = []
    for i, mask in enumerate(kept):
        labels, number = ndimage.label(mask, np.ones((3, 3)))
        regions += [(i, labels == n) for n in range(1, number + 1)]
    normal = ~kept & inside
    rates, overlaps = [0.0], [0.0]
    for level in np.unique(maps[np.broadcast_to(inside, maps.shape)])[::-1]:
        called = maps >= level
        rates.append((called & normal).sum() / normal.sum())
        overlaps.append(np.mean([called[i][region].mean() for i, region in regions]))
    rates, overlaps = np.array(rates), np.array(overlaps)
    end = np.interp(limit, rates, overlaps)
    below = rates < limit
    x, y = np.append(rates[below], limit), np.append(overlaps[below], end)
    return float(np.sum(np.diff(x) * (y[1:] + y[:-1]) / 2) / limit)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("each", [False, True])
def test_scores_are_those_of_the_pixels_inside(seed, dtype, each):
    masks, maps, inside = arrays(seed, dtype, ties=False)
    given = inside
    if each:
        given = np.stack([inside, inside, inside[::-1], np.ones_like(inside)])
    wide = np.broadcast_to(given, masks.shape)
    found = pixel_metrics(masks, maps, inside=given)
    assert found["pixel_auroc"] == pytest.approx(roc_auc_score(masks[wide], maps[wide]), rel=1e-12)
    expected = average_precision_score(masks[wide], maps[wide])
    assert found["pixel_ap"] == pytest.approx(expected, rel=1e-12)
    assert found["aupro"] == pytest.approx(aupro_by_hand(masks, maps, given), rel=1e-9)
    assert pixel_auroc(masks, maps, inside=given) == found["pixel_auroc"]
    assert pixel_average_precision(masks, maps, inside=given) == found["pixel_ap"]
    assert aupro(masks, maps, inside=given) == found["aupro"]
    f1, threshold = pixel_f1_max(masks, maps, inside=given)
    assert (f1, threshold) == (found["pixel_f1_max"], found["pixel_f1_threshold"])
    # Whatever lies outside.
    other = np.where(wide, maps, np.where(masks, np.nan, np.inf)).astype(dtype)
    assert pixel_metrics(masks, other, inside=given) == found
    assert pixel_metrics(masks & wide, maps, inside=given) == found


def test_ties_between_inside_pixels_count_half():
    masks, maps, inside = arrays()
    wide = np.broadcast_to(inside, masks.shape)
    expected = roc_auc_score(masks[wide], maps[wide])
    assert pixel_auroc(masks, maps, inside=inside) == pytest.approx(expected, rel=1e-12)


def test_a_cropped_stack_has_the_same_scores():
    masks, maps, _ = arrays()
    inside = np.zeros((21, 17), dtype=bool)
    inside[4:18, 2:14] = True
    expected = pixel_metrics(masks[:, 4:18, 2:14], maps[:, 4:18, 2:14])
    assert pixel_metrics(masks, maps, inside=inside) == expected
    found = aupimo(masks, maps, fpr_range=(0.01, 0.1), inside=inside)
    expected = aupimo(masks[:, 4:18, 2:14], maps[:, 4:18, 2:14], fpr_range=(0.01, 0.1))
    assert found == pytest.approx(expected, nan_ok=True, rel=1e-12)


def test_tensors_as_on_a_device(monkeypatch):
    from fastad.evaluation import metrics

    masks, maps, inside = arrays()
    expected = pixel_metrics(masks, maps, inside=inside)
    monkeypatch.setattr(metrics, "_on_device", lambda *arrays: True)
    found = pixel_metrics(torch.from_numpy(masks), torch.from_numpy(maps), inside=inside)
    assert found == pytest.approx(expected, rel=1e-12)
    pimo = aupimo(
        torch.from_numpy(masks), torch.from_numpy(maps), fpr_range=(0.01, 0.1), inside=inside
    )
    monkeypatch.undo()
    assert pimo == pytest.approx(
        aupimo(masks, maps, fpr_range=(0.01, 0.1), inside=inside), nan_ok=True, rel=1e-12
    )


def test_histograms_count_the_pixels_inside():
    masks, maps, inside = arrays()
    histogram, whole = PixelHistogram(inside), PixelHistogram()
    for i in range(4):
        histogram.update(masks[i : i + 1], maps[i : i + 1])
    top, left = slice(4, 18), slice(2, 14)
    wide = np.broadcast_to(inside, masks.shape)
    assert histogram.normal.sum() == (~masks[wide]).sum()
    assert histogram.defect.sum() == masks[wide].sum()
    assert histogram.normal.min() >= 0
    inside = np.zeros_like(inside)
    inside[top, left] = True
    cropped = PixelHistogram(inside)
    cropped.update(masks, maps)
    whole.update(masks[:, top, left], maps[:, top, left])
    for found, truth in zip(cropped.totals(), whole.totals(), strict=True):
        np.testing.assert_array_equal(found, truth)


@pytest.mark.parametrize("memory_bytes", [2**20, 2000, 0])
def test_an_evaluation_counts_the_pixels_inside(memory_bytes):
    masks, maps, inside = arrays()
    evaluation = Evaluation(memory_bytes=memory_bytes, inside=inside)
    labels = masks.any(axis=(1, 2)).astype(int)
    for i in range(4):
        kind = [f"kind {i}" if labels[i] else None]
        evaluation.update(masks[i : i + 1], maps[i : i + 1], labels[i : i + 1], [i], kind)
    result = evaluation.compute()
    expected = pixel_metrics(masks, maps, inside=inside)
    assert {name: result[name] for name in expected} == expected
    expected = pixel_metrics(masks[[0, 1, 3]], maps[[0, 1, 3]], inside=inside)
    assert {name: result["per_defect"]["kind 1"][name] for name in expected} == expected
    with pytest.raises(ValueError, match=r"of the size of inside, \(21, 17\); got \(1, 8, 8\)"):
        evaluation.update(np.zeros((1, 8, 8), bool), np.zeros((1, 8, 8)), [0], [0.0])


@pytest.mark.parametrize("wrong", [np.ones((3, 3), bool), np.ones((21, 17), np.uint8)])
def test_another_shape_or_type_is_refused(wrong):
    masks, maps, _ = arrays()
    with pytest.raises(ValueError, match=r"inside must be bool, \(H, W\) or \(N, H, W\)"):
        pixel_metrics(masks, maps, inside=wrong)


@pytest.fixture
def samples(tmp_path):
    """A good image, a defect inside and one outside of the upper half; maps are brightness."""
    found = []
    for name, label, rows in (("good", 0, None), ("in", 1, (2, 6)), ("out", 1, (22, 28))):
        pixels, mask = np.full((32, 32, 3), 90, np.uint8), np.zeros((32, 32), np.uint8)
        pixels[::2, ::3] += 3
        if rows:
            mask[slice(*rows), 5:9] = 255
            pixels[mask > 0] = 200
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
        Image.fromarray(mask).save(tmp_path / f"{name}_mask.png")
        masks = (tmp_path / f"{name}_mask.png",) if label else ()
        found.append(Sample(tmp_path / f"{name}.png", label, "spot" if label else "", masks))
    return found


def test_defects_outside_do_not_count_in_pixel_scores(samples):
    inside = np.zeros((32, 32), dtype=bool)
    inside[:16] = True

    def predict(images):
        maps = images.float().mean(dim=1).numpy() * inside
        return maps.max(axis=(1, 2)), maps

    seen = []
    with pytest.warns(UserWarning, match=r"defects of 1 images lie wholly outside .*out\.png"):
        result = evaluate(
            predict, samples, (32, 32), inside=inside, observe=lambda *one: seen.append(one[3])
        )
    assert (result["pixel_auroc"], result["aupro"]) == (1.0, 1.0)
    assert result["counts"]["defect"] == 2
    assert result["image_auroc"] == 0.75  # it counts as it is labelled, and cannot be found
    assert [int(mask.sum()) for mask in seen] == [0, 16, 0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        whole = evaluate(predict, samples, (32, 32))
    assert whole["pixel_auroc"] < 1
