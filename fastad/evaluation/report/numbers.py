"""The numbers of a report: shares with their intervals, what the threshold promises, every type."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastad.evaluation.shares import promised


def number(value: float | None) -> str:
    """Three digits; what is not quite perfect never looks perfect."""
    if value is None or math.isnan(value):
        return "-"
    return ">0.999" if 0.9995 <= value < 1 - 1e-9 else f"{value:.3f}"


def percent(rate: float) -> str:
    """A share in per cent, with a digit after the point where it is small."""
    return f"{rate:.1%}" if 0 < rate < 0.0995 else f"{rate:.0%}"


def wilson(hits: int, total: int) -> tuple[float, float]:
    """95% interval of a share (Wilson, JASA 22, 1927): it holds for few images too, and for none
    or all of them."""
    z2 = 1.959964**2
    centre = (hits + z2 / 2) / (total + z2)
    half = math.sqrt(z2 * (hits * (total - hits) / total + z2 / 4)) / (total + z2)
    return max(0.0, centre - half), min(1.0, centre + half)


@dataclass(frozen=True)
class Share:
    """``hits`` of ``total`` images, with the 95% interval; without images there is no rate."""

    hits: int
    total: int

    @property
    def rate(self) -> float:
        return self.hits / self.total

    @property
    def interval(self) -> tuple[float, float]:
        return wilson(self.hits, self.total)


@dataclass(frozen=True)
class Decisions:
    """What a threshold did on the test images, and what it promises.

    Attributes:
        found, alarms: the defective and the good test images above it.
        held_out: number of good images that it was chosen by.
        asked: share of good images that it was asked to exceed at most; None where nobody asked.
        promised: share of good images above it at most, see `promised`; None without held-out ones.
        needed: held-out images that ``asked`` takes; None where it is kept.
    """

    threshold: float
    found: Share
    alarms: Share
    held_out: int
    asked: float | None
    promised: float | None
    needed: int | None


def decisions(
    labels: np.ndarray,
    scores: np.ndarray,
    calibration: np.ndarray,
    threshold: float | None,
    asked: float | None,
) -> Decisions | None:
    """labels, scores: (N,) of the test images; calibration: (n,) scores of the held-out ones."""
    if threshold is None:
        return None
    good, defective = (scores[labels == label] > threshold for label in (0, 1))
    kept = promised(calibration, threshold) if len(calibration) else None
    needed = None  # of held-out images, where there are too few for the rate
    if kept is not None and asked is not None and kept > asked + 1e-9:
        needed = math.ceil(1 / asked - 1e-9) - 1
    return Decisions(
        threshold=threshold,
        found=Share(int(defective.sum()), len(defective)),
        alarms=Share(int(good.sum()), len(good)),
        held_out=len(calibration),
        asked=asked,
        promised=kept,
        needed=needed,
    )


@dataclass(frozen=True)
class Row:
    """A defect type: its metrics, its images, those above the threshold, their median score.

    ``found`` and ``median`` are None without a threshold and without images.
    """

    name: str
    metrics: Mapping[str, Any]
    images: int
    found: int | None
    median: float | None


def defect_rows(
    metrics: Mapping[str, Any],
    labels: np.ndarray,
    scores: np.ndarray,
    types: Sequence[str],
    threshold: float | None,
) -> list[Row]:
    """All defects, then every type."""
    names = np.array(types, dtype=object)
    rows = [("all defects", metrics, labels == 1)]
    rows += [
        (name, row, (labels == 1) & (names == name)) for name, row in metrics["per_defect"].items()
    ]
    return [
        Row(
            name,
            row,
            images=int(chosen.sum()),
            found=None if threshold is None else int((scores[chosen] > threshold).sum()),
            median=float(np.median(scores[chosen])) if chosen.any() else None,
        )
        for name, row, chosen in rows
    ]


def image_auroc_interval(metrics: Mapping[str, Any]) -> Sequence[float] | None:
    """95% interval of the image AUROC; None where there is none."""
    interval = metrics.get("image_auroc_interval")
    if interval is None or any(value is None or math.isnan(value) for value in interval):
        return None
    return interval
