"""All curves of a detector in one table, and the scores that follow from it.

Normal samples alone between two values of the defect samples change no score, however they are
ordered there: so one row for every distinct value of the defect samples holds everything. Ties
between both classes are one step of a curve, its diagonal.
"""

import math
from dataclasses import dataclass

import numpy as np

BLOCK = 1 << 14  # rows


@dataclass(frozen=True)
class Rows:
    """What every distinct value of the defect samples (images or pixels) adds; highest first.

    Attributes:
        values: (M,) float64, the distinct values: "at or above it" is the threshold of a row.
        defects: (M,) int64, defect samples of this value.
        overlap: (M,) float64, the same, each as 1 / size of its region.
        normal_above: (M,) int64, normal samples of higher values.
        normal_equal: (M,) int64, normal samples of this value.
    """

    values: np.ndarray
    defects: np.ndarray
    overlap: np.ndarray
    normal_above: np.ndarray
    normal_equal: np.ndarray


@dataclass(frozen=True)
class Curve(Rows):
    """All rows of a curve.

    Attributes:
        normal: number of all normal samples.
        regions: number of regions, which ``overlap`` sums to.
    """

    normal: int
    regions: int

    def scores(self, fpr_limit: float = 0.3) -> "Scores":
        """The scores of the curve; ``fpr_limit`` as of `Scores`."""
        scores = Scores(self.normal, int(self.defects.sum()), self.regions, fpr_limit)
        scores.add(self)
        return scores

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


class Scores:
    """The scores of a curve whose rows come in parts, highest values first.

    The parts change nothing, not the last bit: terms are added in blocks of `BLOCK` rows.

    Args:
        normal, defect: numbers of all samples of the curve.
        regions: as of `Curve`.
        fpr_limit: upper limit of the false positive rate of `aupro`.
    """

    def __init__(self, normal: int, defect: int, regions: int, fpr_limit: float = 0.3) -> None:
        self._normal, self._defect, self._regions = normal, defect, regions
        self._limit = fpr_limit
        self._true = 0  # defect samples of the rows so far
        self._wrong = 0  # twice the pairs in the wrong order
        self._precision, self._area = _Sum(), _Sum()
        self._best = (-math.inf, math.nan)

    def add(self, rows: Rows) -> None:
        """The next rows, after those that were added before."""
        if not self.defined or not len(rows.values):
            return
        above, equal = rows.normal_above, rows.normal_equal
        # In two parts, whose sums of products stay below 2^63.
        high, low = np.divmod(2 * above + equal, 1 << 24)
        self._wrong += (int(rows.defects @ high) << 24) + int(rows.defects @ low)

        true = self._true + np.cumsum(rows.defects)
        called = true + above + equal
        self._true = int(true[-1])
        self._precision.add(rows.defects * (true / called))
        f1 = 2 * true / (called + self._defect)
        best = int(np.argmax(f1))
        if f1[best] > self._best[0]:
            self._best = float(f1[best]), float(rows.values[best])

        before, after = above / self._normal, (above + equal) / self._normal
        width = after - before
        inside = np.clip(self._limit - before, 0, width)  # the part of a step before the limit
        rise = np.divide(inside * inside, 2 * width, out=np.zeros_like(width), where=width > 0)
        self._area.add(rows.overlap * (np.maximum(self._limit - after, 0) + rise))

    @property
    def defined(self) -> bool:
        """Whether there are samples of both classes; scores are NaN otherwise."""
        return self._normal > 0 and self._defect > 0

    def auroc(self) -> float:
        """Area under the ROC curve: the share of (normal, defect) pairs in order, ties half."""
        if not self.defined:
            return math.nan
        pairs = self._normal * self._defect  # integers: nothing is rounded before the end
        return (2 * pairs - self._wrong) / (2 * pairs)

    def average_precision(self) -> float:
        """Precision at every threshold, weighted with the recall that the threshold adds."""
        return self._precision.total() / self._defect if self.defined else math.nan

    def f1_max(self) -> tuple[float, float]:
        """The largest F1 over all thresholds, and the highest threshold that reaches it."""
        return self._best if self.defined else (math.nan, math.nan)

    def aupro(self) -> float:
        """Area under the per-region-overlap curve up to ``fpr_limit``, divided by it.

        The area is a mean over the regions' pixels: each raises the curve along its own step, from
        the false positive rate above its value to the rate at it, and holds it up to the limit.
        """
        if not self.defined:
            return math.nan
        return min(self._area.total() / (self._regions * self._limit), 1.0)


class _Sum:
    """The sum of terms that come in parts: whatever the parts, the same blocks are added."""

    def __init__(self) -> None:
        self._rest = np.empty(0)
        self._blocks = 0.0

    def add(self, terms: np.ndarray) -> None:
        terms = np.concatenate([self._rest, terms])
        full = len(terms) // BLOCK * BLOCK
        for block in terms[:full].reshape(-1, BLOCK):
            self._blocks += float(block.sum())
        self._rest = terms[full:]

    def total(self) -> float:
        return self._blocks + float(self._rest.sum())


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
