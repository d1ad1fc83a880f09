"""Pixels counted in narrow bins of their values, to draw curves of any number of images.

A bin holds the float32 values that agree in sign, exponent and the upper 11 bits of the fraction:
2^20 bins, each 2^-11 wide relative to its values (0.05 %). The upper 20 bits of a float, with the
sign turned the right way round, number the bins in the order of the values (csrc/metrics/order.h).
"""

import numpy as np

from fastad._extension import _C
from fastad.evaluation.metrics import checked_pixels, counted

BITS = 20  # of 32; one set of histograms takes 3 * 8 * 2^BITS bytes
BINS = 1 << BITS
SHIFT = 32 - BITS
LOWEST = (1 << (31 - 8)) >> SHIFT  # the bin of the lowest finite value


class PixelHistogram:
    """Histograms of the values of normal and defect pixels.

    Args:
        inside: (H, W) bool, the pixels that count, of maps that all have this size. None for all.

    Attributes:
        normal: (BINS,) int64, normal pixels by the bin of their value.
        defect: (BINS,) int64, defect pixels.
        overlap: (BINS,) float64, defect pixels, each as 1 / size of its region.
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

    def totals(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Normal and defect pixels, and the overlap that they add, of the bins that hold any, the
        highest values first: three arrays (M,)."""
        filled = np.flatnonzero(self.normal + self.defect)[::-1]
        return self.normal[filled], self.defect[filled], self.overlap[filled]
