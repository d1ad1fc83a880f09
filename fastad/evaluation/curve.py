"""All curves of a detector in one table, and the scores that follow from it.

Normal samples alone between two values of the defect samples change no score, however they are
ordered there: so one row for every distinct value of the defect samples holds everything. Ties
between both classes are one step of a curve, its diagonal.
"""

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Curve:
    """What every distinct value of the defect samples (images or pixels) adds; highest first.

    Attributes:
        values: (M,) float64, the distinct values: "at or above it" is the threshold of a row.
        defects: (M,) int64, defect samples of this value.
        overlap: (M,) float64, the same, each as 1 / size of its region.
        normal_above: (M,) int64, normal samples of higher values.
        normal_equal: (M,) int64, normal samples of this value.
        normal: number of all normal samples.
        regions: number of regions, which ``overlap`` sums to.
    """

    values: np.ndarray
    defects: np.ndarray
    overlap: np.ndarray
    normal_above: np.ndarray
    normal_equal: np.ndarray
    normal: int
    regions: int

    @property
    def defined(self) -> bool:
        """Whether there are samples of both classes; scores are NaN otherwise."""
        return self.normal > 0 and len(self.values) > 0

    def auroc(self) -> float:
        """Area under the ROC curve: the share of (normal, defect) pairs in order, ties half."""
        if not self.defined:
            return math.nan
        pairs = self.normal * int(self.defects.sum())
        # Twice the pairs in the wrong order: an integer, so that nothing is rounded before the end.
        wrong = int(np.sum(self.defects * (2 * self.normal_above + self.normal_equal)))
        return (2 * pairs - wrong) / (2 * pairs)

    def average_precision(self) -> float:
        """Precision at every threshold, weighted with the recall that the threshold adds."""
        if not self.defined:
            return math.nan
        true, called = self._called()
        return float(np.sum(self.defects * (true / called)) / true[-1])

    def f1_max(self) -> tuple[float, float]:
        """The largest F1 over all thresholds, and the highest threshold that reaches it."""
        if not self.defined:
            return math.nan, math.nan
        true, called = self._called()
        f1 = 2 * true / (called + true[-1])
        best = int(np.argmax(f1))
        return float(f1[best]), float(self.values[best])

    def aupro(self, fpr_limit: float) -> float:
        """Area under the per-region-overlap curve up to ``fpr_limit``, divided by it.

        The area is a mean over the regions' pixels: each raises the curve along its own step, from
        the false positive rate above its value to the rate at it, and holds it up to the limit.
        """
        if not self.defined:
            return math.nan
        before = self.normal_above / self.normal
        after = (self.normal_above + self.normal_equal) / self.normal
        width = after - before
        inside = np.clip(fpr_limit - before, 0, width)  # the part of a step before the limit
        rise = np.divide(inside * inside, 2 * width, out=np.zeros_like(width), where=width > 0)
        area = np.maximum(fpr_limit - after, 0) + rise
        return min(float(np.sum(self.overlap * area)) / (self.regions * fpr_limit), 1.0)

    def log_shares(self, fpr_range: tuple[float, float]) -> np.ndarray:
        """(M,) what a pixel of each value adds to the area of its image over log FPR, 0 to 1.

        The same steps as in `aupro`, over the logarithm of the false positive rate and between two
        limits. The first step begins at a rate of zero, infinitely far away: it rises at its end.
        """
        low, high = np.log(fpr_range)
        # Half a pixel stands for none: its rate is below every rate there is, and its log finite.
        after = np.log(np.maximum(self.normal_above + self.normal_equal, 0.5) / self.normal)
        before = np.log(np.maximum(self.normal_above, 0.5) / self.normal)
        before = np.where(self.normal_above > 0, before, after)
        width = after - before
        start, end = np.clip(before, low, high), np.clip(after, low, high)
        area = (end - start) * ((start + end) / 2 - before)
        rise = np.divide(area, width, out=np.zeros_like(width), where=width > 0)
        return (high - end + rise) / (high - low)

    def _called(self) -> tuple[np.ndarray, np.ndarray]:
        """Defect samples, and all samples, at or above every threshold."""
        true = np.cumsum(self.defects)
        return true, true + self.normal_above + self.normal_equal


def image_curve(labels: np.ndarray, scores: np.ndarray) -> Curve:
    """The curve of single samples: labels (N,) bool, scores (N,) finite; every one its region."""
    normal = np.sort(scores[~labels])
    values, defects = np.unique(scores[labels], return_counts=True)
    values, defects = values[::-1], defects[::-1]
    not_above = np.searchsorted(normal, values, side="right")
    below = np.searchsorted(normal, values, side="left")
    return Curve(
        values.astype(np.float64),
        defects.astype(np.int64),
        defects.astype(np.float64),
        normal.size - not_above,
        not_above - below,
        normal.size,
        int(defects.sum()),
    )
