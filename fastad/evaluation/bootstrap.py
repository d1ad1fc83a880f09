"""How far a score can be trusted: bootstrap intervals."""

import math

import numpy as np

from fastad.evaluation.metrics import checked_images

CHUNK = 1 << 22  # drawn samples held at a time


def image_auroc_interval(
    labels: np.ndarray,
    scores: np.ndarray,
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap interval of the image AUROC (Efron and Tibshirani, 1993, chapter 13).

    Normal and defect images are drawn with replacement, each class by itself. Each resample then
    has as many of both as the test set. The interval speaks of the images that might have been
    drawn, not of other trainings. Where the classes are fully separated it is (1, 1), however few
    images there are.

    Args:
        labels: (N,), 0 normal, 1 defect.
        scores: (N,) finite floats, higher is more anomalous.
        confidence: in (0, 1).
        resamples: number of resamples, at least 1.
        seed: of the draws. The same seed gives the same interval.

    Returns:
        The lower and the upper limit, (NaN, NaN) when one of the classes is missing.

    Raises:
        ValueError: as `image_metrics`, or an option outside its range.

    Examples:
        >>> import numpy as np
        >>> from fastad.evaluation import image_auroc_interval
        >>> labels, scores = np.arange(40) % 2, np.arange(40) / 40
        >>> low, high = image_auroc_interval(labels, scores)
        >>> low < 0.525 < high  # the AUROC itself
        True
    """
    labels, scores = checked_images(labels, scores)
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be in (0, 1), got {confidence}")
    if resamples < 1:
        raise ValueError(f"resamples must be 1 at least, got {resamples}")
    if labels.all() or not labels.any():
        return math.nan, math.nan
    # Only the order of the scores matters: a resample is how often it holds each distinct score.
    values, ranks = np.unique(scores, return_inverse=True)
    normal, defect = ranks[~labels], ranks[labels]
    rng = np.random.default_rng(seed)
    rows = max(1, CHUNK // (len(scores) + len(values)))
    aurocs = []
    for start in range(0, resamples, rows):
        count = min(rows, resamples - start)
        normals, defects = (_drawn(rng, r, count, len(values)) for r in (normal, defect))
        below = np.cumsum(normals, axis=1) - normals
        in_order = np.sum(defects * (2 * below + normals), axis=1)  # twice the pairs, exactly
        aurocs.append(in_order / (2 * normal.size * defect.size))
    tail = 50 * (1 - confidence)
    low, high = np.percentile(np.concatenate(aurocs), [tail, 100 - tail])
    return float(low), float(high)


def _drawn(rng: np.random.Generator, ranks: np.ndarray, count: int, distinct: int) -> np.ndarray:
    """(count, distinct) how often each rank is drawn in ``count`` resamples of ``ranks``."""
    drawn = ranks[rng.integers(0, ranks.size, (count, ranks.size))]
    drawn += distinct * np.arange(count)[:, None]
    return np.bincount(drawn.ravel(), minlength=count * distinct).reshape(count, distinct)
