"""Image and pixel scores of anomaly detection, exact: every distinct score is a threshold.

A score that the given labels leave undefined (only normal or only defective samples) is NaN.
"F1 max" is an oracle: it picks its threshold on the test labels, so it bounds from above what a
threshold chosen without labels can reach.
"""

import math

import numpy as np
from scipy import ndimage
from sklearn.metrics import auc, roc_curve

EIGHT_NEIGHBOURS = np.array([np.zeros((3, 3)), np.ones((3, 3)), np.zeros((3, 3))], dtype=bool)


def image_metrics(labels: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    """Scores of a detector over whole images.

    labels: (N,), 0 normal, 1 defect; scores: (N,) finite floats, higher is more anomalous.
    Returns ``image_auroc``, ``image_ap`` (average precision) and ``image_f1_max``; all NaN when
    one of the classes is missing. Raises ValueError for empty, mismatched or non-finite input.
    """
    labels, scores = np.asarray(labels), np.asarray(scores)
    if labels.ndim != 1 or labels.shape != scores.shape or labels.size == 0:
        raise ValueError(
            "labels and scores must be (N,) with N >= 1, "
            f"got shapes {labels.shape} and {scores.shape}"
        )
    if not np.isin(labels, (0, 1)).all():
        raise ValueError("labels must be 0 (normal) or 1 (defect)")
    _require_finite("scores", scores)
    auroc, ap, f1, _ = _curves(labels.astype(bool), scores)
    return {"image_auroc": auroc, "image_ap": ap, "image_f1_max": f1}


def pixel_metrics(
    masks: np.ndarray, maps: np.ndarray, *, fpr_limit: float = 0.3
) -> dict[str, float]:
    """Scores of anomaly maps against ground-truth masks.

    masks: (N, H, W) bool; maps: (N, H, W) finite floats. Returns ``pixel_auroc``, ``pixel_ap``,
    ``pixel_f1_max``, the threshold ``pixel_f1_threshold`` that reaches it, and ``aupro``; all NaN
    when no pixel, or every pixel, is a defect. Raises ValueError for empty, mismatched or
    non-finite input.
    """
    masks, maps = checked_pixels(masks, maps)
    auroc, ap, f1, threshold = _curves(masks.ravel(), maps.ravel())
    return {
        "pixel_auroc": auroc,
        "pixel_ap": ap,
        "pixel_f1_max": f1,
        "pixel_f1_threshold": threshold,
        "aupro": aupro(masks, maps, fpr_limit=fpr_limit),
    }


def aupro(masks: np.ndarray, maps: np.ndarray, *, fpr_limit: float = 0.3) -> float:
    """Area under the per-region-overlap curve (Bergmann et al., CVPR 2020, section 5.1).

    A region is a connected component (8 neighbours) of a mask. At a threshold, the overlap is the
    share of a region's pixels at or above it, averaged over all regions; the false positive rate
    is that share of all normal pixels. The curve starts at (0, 0), has a point for every distinct
    value in the maps, is integrated by trapezoids up to ``fpr_limit``, with linear interpolation
    there, and divided by ``fpr_limit``: 0 to 1.

    masks: (N, H, W) bool; maps: (N, H, W) finite floats. NaN when no pixel, or every pixel, is a
    defect. Raises ValueError as ``pixel_metrics``, and for a limit outside (0, 1].
    """
    masks, maps = checked_pixels(masks, maps)
    checked_limit(fpr_limit)
    regions, count = ndimage.label(masks, structure=EIGHT_NEIGHBOURS)
    normal = masks.size - int(masks.sum())
    if count == 0 or normal == 0:
        return math.nan

    # One sort orders all pixels; what a pixel adds to the mean overlap is known beforehand.
    order = np.argsort(-maps, axis=None)
    values, region = maps.ravel()[order], regions.ravel()[order]
    ends = np.append(np.flatnonzero(values[1:] != values[:-1]), values.size - 1)
    share = 1.0 / (count * np.maximum(np.bincount(regions.ravel()), 1))
    share[0] = 0.0
    fpr = np.concatenate([[0.0], np.cumsum(region == 0)[ends] / normal])
    overlap = np.concatenate([[0.0], np.cumsum(share[region])[ends]])
    overlap /= overlap[-1]  # the shares sum to one but for rounding

    inside = int(np.searchsorted(fpr, fpr_limit, side="right"))  # points with fpr <= limit
    x, y = fpr[:inside], overlap[:inside]
    if x[-1] < fpr_limit:
        slope = (overlap[inside] - y[-1]) / (fpr[inside] - x[-1])
        x, y = np.append(x, fpr_limit), np.append(y, y[-1] + slope * (fpr_limit - x[-1]))
    area = float(np.sum(np.diff(x) * (y[1:] + y[:-1]) / 2))
    return min(area / fpr_limit, 1.0)


def _curves(labels: np.ndarray, scores: np.ndarray) -> tuple[float, float, float, float]:
    """AUROC, average precision, largest F1 and the threshold that reaches it."""
    if labels.all() or not labels.any():
        return math.nan, math.nan, math.nan, math.nan
    # One sort for all four: every distinct score is a point of this curve, but for the first.
    fpr, tpr, thresholds = roc_curve(labels, scores, drop_intermediate=False)
    positive = int(labels.sum())
    true = tpr * positive
    false = fpr * (labels.size - positive)
    precision = true[1:] / (true + false)[1:]
    f1 = 2 * true / (true + false + positive)
    best = int(np.argmax(f1))
    return (
        float(auc(fpr, tpr)),
        float(np.sum(np.diff(tpr) * precision)),
        float(f1[best]),
        float(thresholds[best]),
    )


def checked_pixels(
    masks: np.ndarray, maps: np.ndarray, dtype: type[np.floating] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Masks and maps (N, H, W) as arrays, the maps in ``dtype``; ValueError says what is wrong."""
    masks, maps = np.asarray(masks), np.asarray(maps)
    if masks.ndim != 3 or masks.shape != maps.shape or masks.size == 0:
        raise ValueError(
            "masks and maps must both be (N, H, W) and not empty, "
            f"got shapes {masks.shape} and {maps.shape}"
        )
    if masks.dtype != bool:
        raise ValueError(f"masks must be bool, got {masks.dtype}")
    if not np.issubdtype(maps.dtype, np.floating):
        raise ValueError(f"maps must be floating point, got {maps.dtype}")
    maps = maps.astype(dtype or maps.dtype, copy=False)
    _require_finite("maps", maps)
    return masks, maps


def checked_limit(fpr_limit: float) -> None:
    """ValueError for a limit on the false positive rate outside (0, 1]."""
    if not 0 < fpr_limit <= 1:
        raise ValueError(f"fpr_limit must be in (0, 1], got {fpr_limit}")


def _require_finite(name: str, values: np.ndarray) -> None:
    if not np.issubdtype(values.dtype, np.floating):
        raise ValueError(f"{name} must be floating point, got {values.dtype}")
    bad = values.size - int(np.isfinite(values).sum())
    if bad:
        raise ValueError(f"{name} must be finite, but {bad} of {values.size} values are NaN or inf")
