"""Curves to draw, from counts by score: every point lies on the exact curve.

Counts are arrays over the distinct scores, the highest first: of normal and of defective images,
or of pixels, which are counted in narrow bins as they come. Between the points a drawing
interpolates; the areas in the report are those of `fastad.evaluation.metrics`.
"""

import numpy as np
from scipy import ndimage

BITS = 20  # of a float32; a bin is 0.05 % wide
BINS = 1 << BITS
SIGN = np.uint32(1 << 31)

Curve = tuple[np.ndarray, np.ndarray]


class PixelCounts:
    """Normal pixels, defect pixels, and the share of every region by map value.

    Memory does not grow with the number of maps.
    """

    def __init__(self) -> None:
        self._counts = np.zeros((3, BINS))

    def update(self, mask: np.ndarray, anomaly_map: np.ndarray) -> None:
        """Add an image: ground truth (h, w) bool, map (h, w) finite floats."""
        bins = _bins(anomaly_map)
        normal, defect, overlap = self._counts
        _add(normal, bins[~mask])
        if mask.any():
            regions = ndimage.label(mask, structure=np.ones((3, 3)))[0][mask]
            _add(defect, bins[mask])
            _add(overlap, bins[mask], 1.0 / np.bincount(regions)[regions])

    def totals(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Normal and defect pixels, and the overlap that they add, highest values first."""
        filled = np.flatnonzero(self._counts[:2].sum(axis=0))[::-1]
        normal, defect, overlap = self._counts[:, filled]
        return normal, defect, overlap


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


def _bins(values: np.ndarray) -> np.ndarray:
    # The bits of a float32, its sign turned the right way round, are in the order of the values;
    # adding zero makes -0 and 0 the same.
    bits = (np.asarray(values, dtype=np.float32) + np.float32(0)).view(np.uint32)
    negative = (bits.view(np.int32) >> 31).view(np.uint32)  # all ones or zero
    return ((bits ^ (negative | SIGN)) >> (32 - BITS)).astype(np.intp)


def _add(counts: np.ndarray, bins: np.ndarray, weights: np.ndarray | None = None) -> None:
    if bins.size:
        low = int(bins.min())  # maps fill a small part of the bins
        added = np.bincount(bins - low, weights)
        counts[low : low + added.size] += added
