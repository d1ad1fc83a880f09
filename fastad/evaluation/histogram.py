"""Pixel scores in bounded memory: histograms instead of maps, with a bound on every error.

A bin holds the float32 values that agree in sign, exponent and the upper 11 bits of the fraction:
2^20 bins, each 2^-11 wide relative to its values (0.05 %). The upper 20 bits of a float, with the
sign turned the right way round, number the bins in the order of the values (csrc/metrics/order.h).

The scores are exactly those of maps rounded down to the lower edges of their bins. What rounding
can change depends only on normal and defect pixels that share a bin: their order is forgotten,
the order across bins is not. For one bin, let t defect and f normal pixels lie above it, p and n
in it, and P and N be all. Over every order inside the bins, ties included:

- AUROC: p n pairs are undecided and count one half; the error is at most sum(p n) / (2 P N).
- Average precision: the p pixels add most when they come first and are tied, p / P times
  (t + p) / (t + p + f), and least one by one after the n normal ones. The k-th of them then has
  the precision (t + k) / (t + k + f + n), concave in k, so that their mean is at least that of
  the first and the last.
- F1: the threshold at the lower edge of a bin is real, and no threshold inside the bin does better
  than p without n: 2 (t + p) / (t + p + f + P). The score is never too high.
- AUPRO: the curve is monotone inside the rectangle between the ends of a bin, and the score takes
  the diagonal: at most half of the rectangle is wrong, where the limit on the false positive rate
  cuts it off, all above the diagonal.
"""

import math

import numpy as np

from fastad._extension import _C
from fastad.evaluation.metrics import checked_limit, checked_pixels, counted

BITS = 20  # of 32; one set of histograms takes 3 * 8 * 2^BITS bytes
BINS = 1 << BITS
SHIFT = 32 - BITS
SIGN = np.uint32(1 << 31)
LOWEST = (1 << (31 - 8)) >> SHIFT  # the bin of the lowest finite value


class PixelHistogram:
    """Histograms of the values of normal and defect pixels, for pixel scores in bounded memory.

    Args:
        inside: (H, W) bool, the pixels that count, of maps that all have this size. None for all.

    Attributes:
        normal: (BINS,) int64, normal pixels by the bin of their value.
        defect: (BINS,) int64, defect pixels.
        overlap: (BINS,) float64, defect pixels, each as 1 / size of its region.

    Examples:
        >>> import numpy as np
        >>> from fastad.evaluation import PixelHistogram
        >>> masks = np.zeros((4, 32, 32), dtype=bool)
        >>> masks[:, 8:16, 8:16] = True
        >>> histogram = PixelHistogram()
        >>> for seed in range(3):  # as many batches as you like
        ...     noise = np.random.default_rng(seed).random((4, 32, 32))
        ...     histogram.update(masks, (masks + noise).astype(np.float32))
        >>> scores, bounds = histogram.compute()
        >>> round(scores["pixel_auroc"], 3), bounds["pixel_auroc"] < 0.001
        (1.0, True)
    """

    def __init__(self, inside: np.ndarray | None = None) -> None:
        self._inside = inside
        self.normal = np.zeros(BINS, dtype=np.int64)
        self.defect = np.zeros(BINS, dtype=np.int64)
        self.overlap = np.zeros(BINS)

    def update(self, masks: np.ndarray, maps: np.ndarray) -> None:
        """Add the pixels of whole images, whose regions are labelled here (8 neighbours).

        masks: (N, H, W) bool; maps: (N, H, W) floats, finite as float32. Raises ValueError as
        ``pixel_metrics``; nothing is added then.
        """
        masks, maps = checked_pixels(masks, maps)
        with np.errstate(over="ignore"):  # what becomes infinite is refused by name
            maps = maps.astype(np.float32, copy=False)
        bad = maps.size - sum(int(np.isfinite(values).sum()) for values in maps)
        if bad:
            raise ValueError(f"maps must be finite, but {bad} of {maps.size} values are NaN or inf")
        outside = 0
        if self._inside is not None:
            masks, maps, of_each = counted(masks, maps, self._inside)
            outside = int(of_each.sum())
        _C.add_to_histograms(masks, maps, self.normal, self.defect, self.overlap)
        self.normal[LOWEST] -= outside

    def merge(self, other: "PixelHistogram") -> None:
        """Add the pixels of another histogram."""
        self.normal += other.normal
        self.defect += other.defect
        self.overlap += other.overlap

    def totals(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Normal and defect pixels, and the overlap that they add, of the bins that hold any, the
        highest values first: three arrays (M,)."""
        filled = self._filled()
        return self.normal[filled], self.defect[filled], self.overlap[filled]

    def _filled(self) -> np.ndarray:
        return np.flatnonzero(self.normal + self.defect)[::-1]

    def compute(self, *, fpr_limit: float = 0.3) -> tuple[dict[str, float], dict[str, float]]:
        """The scores of ``pixel_metrics``, and how far each can be from the exact one.

        The bounds have the keys of the scores without ``pixel_f1_threshold``, at and above which
        (as float32) lie exactly the pixels that give ``pixel_f1_max``. All are NaN without a
        normal or without a defect pixel. Raises ValueError for a limit outside (0, 1].
        """
        checked_limit(fpr_limit)
        filled = self._filled()
        normal, defect, overlap = self.totals()
        negatives, positives = int(normal.sum()), int(defect.sum())
        if negatives == 0 or positives == 0:
            bounded = ("pixel_auroc", "pixel_ap", "pixel_f1_max", "aupro")
            names = ("pixel_auroc", "pixel_ap", "pixel_f1_max", "pixel_f1_threshold", "aupro")
            return dict.fromkeys(names, math.nan), dict.fromkeys(bounded, math.nan)

        false, true = np.cumsum(normal), np.cumsum(defect)
        false_before, true_before = false - normal, true - defect

        share = defect / positives
        wrong = float(np.sum(share * ((false_before + normal / 2) / negatives)))
        undecided = float(np.sum(share * (normal / negatives)))

        ap = float(np.sum(share * true / (true + false)))
        highest = float(np.sum(share * true / np.maximum(true + false_before, 1)))
        first = (true_before + 1) / (true_before + 1 + false)
        lowest = float(np.sum(share * (first + true / (true + false)) / 2))

        f1 = 2 * true / (true + false + positives)
        best = int(np.argmax(f1))
        f1_limit = float(np.max(2 * true / (true + false_before + positives)))

        area, area_bound = _pro_area(normal / negatives, overlap, fpr_limit)
        scores = {
            "pixel_auroc": 1 - wrong,
            "pixel_ap": ap,
            "pixel_f1_max": float(f1[best]),
            "pixel_f1_threshold": lower_edge(int(filled[best])),
            "aupro": min(area, 1.0),
        }
        bounds = {
            "pixel_auroc": undecided / 2,
            "pixel_ap": max(highest - ap, ap - lowest),
            "pixel_f1_max": f1_limit - scores["pixel_f1_max"],
            "aupro": area_bound,
        }
        return scores, bounds


def _pro_area(width: np.ndarray, height: np.ndarray, limit: float) -> tuple[float, float]:
    """Area under the per-region-overlap curve up to ``limit``, divided by it, and its error.

    width, height: what every bin adds to the false positive rate and, but for a factor, to the
    mean overlap.
    """
    height = height / height.sum()
    top, right = np.cumsum(height), np.cumsum(width)
    inside = np.clip(limit - (right - width), 0, width)  # the part of a bin before the limit
    climb = np.divide(height * inside, width, out=np.zeros_like(width), where=width > 0)
    area = inside * (top - height + climb / 2)
    bound = inside * np.maximum(climb, 2 * height - climb) / 2
    return float(area.sum()) / limit, float(bound.sum()) / limit


def lower_edge(number: int) -> float:
    """The lowest float32 value of a bin."""
    bits = np.uint32(number << SHIFT)
    return float((bits ^ SIGN if bits & SIGN else ~bits).view(np.float32))
