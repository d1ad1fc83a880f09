"""Which threshold suits a line, by the few real defects that it has had.

Good images are those of the calibration. Their scores are in the detector file. Defects are
predicted. Neither is trained on. Each threshold lies halfway between two neighbours among all these
scores, so that rounding decides nothing.

The same images choose a threshold and are counted at it. The intervals take it as given, and are a
little too good. Two bounds hold for all that: a threshold below all d known defects misses a new
one like them with a probability of at most 1 / (d + 1), and one above all n good images stops a new
good one with a probability of at most 1 / (n + 1) (both by exchangeability, as
`fastad.inference.threshold`).
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fastad._values import is_number, plain
from fastad.data.finding import given_path
from fastad.data.inputs import gathered, is_path
from fastad.data.layouts import defect_images
from fastad.evaluation.shares import ExactShare
from fastad.inference.artifact import Artifact
from fastad.inference.known_images import calibrated, digests_of, given_to_training
from fastad.inference.measuring import Skip, countable, measured
from fastad.inference.predictor import Predictor
from fastad.inference.threshold import ROUNDING

ZERO_MISSED, LEAST_COST, ZERO_ALARMS = NAMES = ("zero-missed", "least-cost", "zero-alarms")
FEW = 5  # defects: with fewer the intervals say nearly nothing


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold, and what it makes of the images that are known.

    Attributes:
        name: one of `NAMES`.
        threshold: an image with a higher score stops the line.
        alarms: how many of the good images stop it, with the exact 95 % interval of their share.
        missed: how many of the defects pass, likewise.
        cost: mean cost of an image of the line. None without costs.
    """

    name: str
    threshold: float
    alarms: ExactShare
    missed: ExactShare
    cost: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """What JSON gets."""
        found = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return found | {"alarms": self.alarms.to_dict(), "missed": self.missed.to_dict()}


@dataclass(frozen=True)
class OperatingPoints:
    """Thresholds to choose from. Iteration gives them, the lowest first.

    Attributes:
        zero_missed: no known defect passes, and as few good images as possible stop the line.
        zero_alarms: no known good image stops it, and as few defects as possible pass.
        least_cost: missed defects and false alarms cost least together. None without costs.
        current: the detector's own threshold. None without.
        good, defects: (n,), (d,) scores of the images.
        notes: what to mind.
    """

    zero_missed: OperatingPoint
    zero_alarms: OperatingPoint
    least_cost: OperatingPoint | None
    current: OperatingPoint | None
    good: np.ndarray = field(repr=False)
    defects: np.ndarray = field(repr=False)
    notes: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[OperatingPoint]:
        points = (self.zero_missed, self.least_cost, self.zero_alarms)
        found = [point for point in points if point is not None]
        return iter(sorted(found, key=lambda point: point.threshold))

    def __getitem__(self, name: str) -> OperatingPoint:
        for point in self:
            if point.name == name:
                return point
        raise KeyError(f"there is no operating point {name!r}: least-cost needs cost_miss")

    def to_dict(self) -> dict[str, Any]:
        """What JSON gets."""
        current = None if self.current is None else self.current.to_dict()
        points = [point.to_dict() for point in self]
        counts = {"good_images": len(self.good), "defect_images": len(self.defects)}
        return counts | {"points": points, "current": current, "notes": list(self.notes)}


@dataclass(frozen=True)
class Costs:
    """What errors cost, in any unit.

    Attributes:
        miss: of a defect that passes.
        alarm: of a good image that stops the line.
        defect_share: share of the line's images that are defects.

    Raises:
        ValueError: a cost below 0, none above 0, or a share outside of (0, 1).
    """

    miss: float
    alarm: float
    defect_share: float

    def __post_init__(self) -> None:
        for name in ("miss", "alarm"):
            if not is_number(getattr(self, name), 0):
                raise ValueError(
                    f"cost_{name} must be a number of at least 0; got {getattr(self, name)!r}"
                )
        if self.miss == self.alarm == 0:
            raise ValueError("cost_miss and cost_alarm are both 0: any threshold costs least")
        if not is_number(self.defect_share) or not 0 < self.defect_share < 1:
            raise ValueError(f"defect_share must be between 0 and 1; got {self.defect_share!r}")

    def of(self, alarms: ExactShare, missed: ExactShare) -> float:
        """Mean cost of an image of the line."""
        of_defects = self.defect_share * self.miss * missed.hits / missed.total
        return of_defects + (1 - self.defect_share) * self.alarm * alarms.hits / alarms.total


def find_points(
    artifact: Artifact,
    predictor: Predictor,
    defects: Any,
    *,
    cost_miss: float | None = None,
    cost_alarm: float = 1.0,
    defect_share: float | None = None,
    skip: Skip | None = None,
) -> OperatingPoints:
    """Thresholds by images of real defects; see `fastad.Detector.operating_points`."""
    good = predictor.calibration
    if len(good) == 0:
        raise ValueError("there are no scores of good images to choose by: use calibrate first")
    items = _defects(artifact, defects)
    if len(items) == 0:
        raise ValueError("defects: there are no images of defects")
    if cost_miss is None and defect_share is not None:
        raise ValueError("defect_share is for the least cost: give cost_miss, too")
    share = len(items) / (len(items) + len(good)) if defect_share is None else plain(defect_share)
    costs = None if cost_miss is None else Costs(plain(cost_miss), plain(cost_alarm), share)
    scores = measured(predictor, items, skip).scores
    notes = _notes(scores, costs is not None and defect_share is None)
    return points_of(good, scores, costs, predictor.threshold, tuple(notes))


def points_of(
    good: np.ndarray,
    defects: np.ndarray,
    costs: Costs | None = None,
    current: float | None = None,
    notes: tuple[str, ...] = (),
) -> OperatingPoints:
    """The thresholds for scores of good images (n,) and of defects (d,), n and d at least 1."""

    def point(name: str, threshold: float) -> OperatingPoint:
        alarms = ExactShare(int((good > threshold).sum()), len(good))
        missed = ExactShare(int((defects <= threshold).sum()), len(defects))
        cost = None if costs is None else costs.of(alarms, missed)
        return OperatingPoint(name, threshold, alarms, missed, cost)

    every = np.unique(np.concatenate([good, defects]))
    between = [float(every[0] - ROUNDING * abs(every[0])), *((every[:-1] + every[1:]) / 2).tolist()]
    thresholds = [*between, float(every[-1])]  # the i-th lies below the i-th score
    first_missed = int(np.searchsorted(every, defects.min()))
    last_alarm = int(np.searchsorted(every, good.max())) + 1
    least = None
    if costs is not None:
        tried = [point(LEAST_COST, threshold) for threshold in thresholds]
        least = min(tried, key=lambda one: (one.cost, one.missed.hits, one.threshold))
    return OperatingPoints(
        zero_missed=point(ZERO_MISSED, thresholds[first_missed]),
        zero_alarms=point(ZERO_ALARMS, thresholds[last_alarm]),
        least_cost=least,
        current=None if current is None else point("current", current),
        good=good,
        defects=defects,
        notes=notes,
    )


def _defects(artifact: Artifact, defects: Any) -> Any:
    """Images of defects that can be counted. ValueError where the detector was made from one."""
    defects = gathered(defects)
    if is_path(defects):
        path = given_path(defects)
        defects = [path] if path.is_file() else [s.path for s in defect_images(path)]
    items = countable(defects)
    _, known = digests_of(items, given_to_training(artifact) | calibrated(artifact))
    if known:
        raise ValueError(
            f"defects: the training or a calibration of the detector read {len(known)} of the "
            f"{len(items)} images, such as {known[0]}: they prove nothing, leave them out"
        )
    return items


def _notes(scores: np.ndarray, are_costs_of_known: bool) -> Iterator[str]:
    if len(scores) < FEW:
        yield f"{len(scores)} defects are few: the intervals of missed ones are wide"
    yield (
        f"a threshold with zero missed passes a new defect like these {len(scores)} with a "
        f"probability of at most {1 / (len(scores) + 1):.1%}, and defects of other kinds with any"
    )
    if are_costs_of_known:
        yield (
            "the least cost takes the share of defects among the known images for that of the "
            "line: give the line's own, as it is usually far smaller"
        )
