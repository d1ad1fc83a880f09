"""Shares of images, how far they can be trusted, and what a threshold promises of them."""

from dataclasses import dataclass
from typing import Any

import numpy as np


def exact_interval(hits: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """Interval of a share by Clopper and Pearson (Biometrika 26, 1934).

    It holds the true share with at least this confidence, for few images too, and for none or all
    of them. It is wider than Wilson's, which holds so on average only.

    Args:
        hits: how many of the images, from 0 to ``total``.
        total: number of images, at least 1.
        confidence: in (0, 1).

    Returns:
        The lower and the upper limit.

    Raises:
        ValueError: an argument outside its range.

    Examples:
        >>> from fastad.evaluation import exact_interval
        >>> low, high = exact_interval(0, 30)
        >>> low, round(high, 3)  # 0 false alarms in 30 images: the rate may still be 12 %
        (0.0, 0.116)
    """
    from scipy.special import betaincinv  # takes longer to import than a detector to load

    if not 0 <= hits <= total or total < 1:
        raise ValueError(f"hits must be from 0 to total, and total 1 at least; got {hits}, {total}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be in (0, 1); got {confidence}")
    tail = (1 - confidence) / 2
    low = 0.0 if hits == 0 else float(betaincinv(hits, total - hits + 1, tail))
    high = 1.0 if hits == total else float(betaincinv(hits + 1, total - hits, 1 - tail))
    return low, high


@dataclass(frozen=True)
class ExactShare:
    """``hits`` of ``total`` images; without images there is neither a rate nor an interval."""

    hits: int
    total: int

    @property
    def rate(self) -> float | None:
        """From 0 to 1."""
        return self.hits / self.total if self.total else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % interval of the rate, see `exact_interval`."""
        return exact_interval(self.hits, self.total) if self.total else None

    def __add__(self, other: "ExactShare") -> "ExactShare":
        return ExactShare(self.hits + other.hits, self.total + other.total)

    def to_dict(self) -> dict[str, Any]:
        """What JSON gets."""
        interval = None if self.interval is None else list(self.interval)
        return {"hits": self.hits, "total": self.total, "rate": self.rate, "interval": interval}


def promised(calibration: np.ndarray, threshold: float) -> float:
    """Share of good images that exceed a threshold at most, on average over calibration sets.

    A new score exceeds it only where it is among the (1 + #{c > threshold}) largest of n + 1
    exchangeable ones.
    """
    return (1 + int((calibration > threshold).sum())) / (len(calibration) + 1)
