"""Curves to draw, from counts by score: every point lies on the exact curve.

Counts are arrays over the distinct scores, the highest first: of normal and of defective images,
or of pixels in narrow bins (`PixelHistogram.totals`). Between the points a drawing
interpolates; the areas in the report are those of `fastad.evaluation.metrics`.
"""

import numpy as np

Curve = tuple[np.ndarray, np.ndarray]


def image_counts(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Normal and defective images for every distinct score, highest first.

    labels: (N,), 0 or 1; scores: (N,).
    """
    values, position = np.unique(-scores, return_inverse=True)
    position = position.reshape(-1)
    defective = np.bincount(position, labels, len(values))
    return np.bincount(position, minlength=len(values)) - defective, defective


def roc(negatives: np.ndarray, positives: np.ndarray) -> Curve | None:
    """False and true positive rate from (0, 0) to (1, 1); None without both classes.

    With the overlap of regions for the positives it is the per-region-overlap curve.
    """
    if negatives.sum() == 0 or positives.sum() == 0:
        return None
    x, y = (np.append(0.0, np.cumsum(counts)) for counts in (negatives, positives))
    return x / x[-1], y / y[-1]


def precision_recall(negatives: np.ndarray, positives: np.ndarray) -> Curve | None:
    """Recall and precision; the precision holds from the recall before to its own.

    The area under these steps is the average precision. None without both classes.
    """
    if negatives.sum() == 0 or positives.sum() == 0:
        return None
    false, true = np.cumsum(negatives), np.cumsum(positives)
    precision = true / (true + false)
    return np.append(0.0, true / true[-1]), np.append(precision[0], precision)
