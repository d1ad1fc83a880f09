"""Whether the images that come are still like those that a detector was calibrated on.

Five things are watched: the score, and brightness, contrast, sharpness and colour. Each has a
sequential test of its own (`fastad.inference.exchangeability`). The limit of each is a fifth of the
rate of false alarms, so that all together keep it. The verdict goes by these tests alone: it may be
asked for after every image.

Two tests of the scores stand beside it, the share of alarms and a Kolmogorov-Smirnov test. They
find less, and their p-values hold for one look. Both compare two samples, because p-values by one
calibration sample depend on each other.
"""

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fastad._values import is_number, plain
from fastad.data.appearance import STATISTICS
from fastad.evaluation.shares import ExactShare, promised
from fastad.inference.exchangeability import Capital, RanksSoFar, change_point
from fastad.inference.history import History
from fastad.inference.result import PredictionResult
from fastad.inference.threshold import alarm_p_value, conformal_threshold, scores_digest

# What is watched, and the words for less and more of it.
WATCHED = {
    "score": ("scores lower", "scores higher"),
    "brightness": ("darker", "brighter"),
    "contrast": ("contrast lower", "contrast higher"),
    "sharpness": ("less sharp", "sharper"),
    "colour": ("less colour", "more colour"),
}
ENOUGH = 1000  # images that show a drift if each is further off than all before it
LEAST_COLOUR = 0.005  # of white: below it a change in percent says nothing


@dataclass(frozen=True)
class Watched:
    """One thing that is watched, and what became of it.

    Attributes:
        name: one of `WATCHED`.
        p_value: at most this share of undrifted lines ever looks so unlike its calibration. One
            over the highest capital, times the number of things watched.
        alarm_at: index of the image after which it was known. None without drift.
        since: index of the image with which it most likely began. None without drift.
        change: of the mean since then, as a share of the calibration's mean. None without drift,
            and where that mean is too small to divide by.
        words: what changed, such as "darker by 12 %". None without drift.
        values: (n,) of the images, for a plot.
        log10_capital: (n,) after each image, for a plot.
        step: `values` and `log10_capital` are of every so manyth image: 1 up to 16,384 images,
            then 2, 4 and so on, so that memory does not grow. ``since`` is as exact.
    """

    name: str
    p_value: float
    alarm_at: int | None
    since: int | None
    change: float | None
    words: str | None
    values: np.ndarray = field(repr=False)
    log10_capital: np.ndarray = field(repr=False)
    step: int = 1

    @property
    def numbers(self) -> np.ndarray:
        """Which images `values` and `log10_capital` are of, (n,), counted from 1."""
        return 1 + self.step * np.arange(len(self.values))


@dataclass(frozen=True)
class DriftReport:
    """Whether images have drifted from the calibration, in which way, and since when.

    Images are counted from 0 here, and from 1 in ``message``.

    Attributes:
        is_drift: whether any p-value of ``watched`` is at most ``false_alarm_rate``.
        p_value: the smallest of them.
        false_alarm_rate: at most this share of undrifted lines ever has an alarm.
        alarm_at, since: the earliest of ``watched``.
        message: the verdict in one sentence.
        images, calibration_images: how many of each.
        watched: the score first, then what the images look like, where the detector knows it.
        alarms: how many images are above the threshold that the calibration gives for the rate of
            the detector, with the exact 95 % interval of their share.
        alarms_promised: their promised share.
        alarms_p_value: probability of so many or more without drift (beta-binomial), for one look.
        ks_p_value: of the two-sample Kolmogorov-Smirnov test of the scores, for one look. Of more
            than 16,384 images it takes those that ``watched`` keeps.
    """

    is_drift: bool
    p_value: float
    false_alarm_rate: float
    alarm_at: int | None
    since: int | None
    message: str
    images: int
    calibration_images: int
    watched: tuple[Watched, ...]
    alarms: ExactShare
    alarms_promised: float
    alarms_p_value: float
    ks_p_value: float

    def to_dict(self) -> dict[str, Any]:
        """What JSON gets: everything but the values and the capital of every image."""
        found = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        found["alarms"] = self.alarms.to_dict()
        drawn = ("values", "log10_capital", "step")
        found["watched"] = [
            {f.name: getattr(one, f.name) for f in dataclasses.fields(one) if f.name not in drawn}
            for one in self.watched
        ]
        return found


class DriftMonitor:
    """Watches images as they come; see `fastad.Detector.watch`.

    It takes a few megabytes at most, however many images come.

    Args:
        calibration: (n,) scores of the calibration images.
        appearance: (n, 5) what they look like, as `fastad.data.appearance`. Empty where unknown.
        rate: the detector's false-positive rate.
        false_alarm_rate: at most this share of undrifted lines ever has an alarm, in (0, 1).
        seed: of what breaks ties.

    Raises:
        ValueError: there are no calibration scores, or a rate outside (0, 1).
    """

    def __init__(
        self,
        calibration: np.ndarray,
        appearance: np.ndarray,
        rate: float,
        *,
        false_alarm_rate: float = 0.01,
        seed: int = 0,
    ) -> None:
        false_alarm_rate = plain(false_alarm_rate)
        if not is_number(false_alarm_rate) or not 0 < false_alarm_rate < 1:
            raise ValueError(f"false_alarm_rate must be between 0 and 1; got {false_alarm_rate!r}")
        if len(calibration) == 0:
            raise ValueError("drift: the detector has no calibration scores: use calibrate first")
        self._rate, self._false_alarm_rate = rate, false_alarm_rate
        self._calibration = scores_digest(calibration)
        samples = {"score": np.asarray(calibration, dtype=np.float64)}
        if len(appearance):
            columns = dict(zip(STATISTICS, np.asarray(appearance, np.float64).T, strict=True))
            samples |= {name: columns[name] for name in WATCHED if name != "score"}
        seeds = np.random.SeedSequence(seed).spawn(len(samples))
        self._limit = math.log(len(samples) / false_alarm_rate)
        self._series = {
            name: _Series(sample, np.random.default_rng(own), self._limit)
            for (name, sample), own in zip(samples.items(), seeds, strict=True)
        }
        self._threshold = conformal_threshold(samples["score"], rate, warn=False)
        self._alarms = 0

    @property
    def limit(self) -> float:
        """The natural logarithm of the capital at which there is an alarm."""
        return self._limit

    def add(self, result: PredictionResult) -> bool:
        """Take in the next images. Whether there has been drift, in these or before.

        Raises:
            ValueError: the result is of another detector, or of this one before or after its
                calibration or smallest area was changed. Or it does not know what its images look
                like.
        """
        if result.calibration not in (None, self._calibration):
            raise ValueError(
                "results: they are judged by another calibration than this monitor's. They are of "
                "another detector, or calibrate or set_min_area changed this one: begin anew with "
                "watch"
            )
        columns = {"score": np.asarray(result.score, np.float64)}
        if len(self._series) > 1:
            if result.appearance is None:
                raise ValueError(
                    "results: they lack `appearance`; take them from predict or stream"
                )
            columns |= dict(zip(STATISTICS, result.appearance.astype(np.float64).T, strict=True))
        self._alarms += int((columns["score"] > self._threshold).sum())
        for name, series in self._series.items():
            for value in columns[name].tolist():
                series.add(value)
        return any(series.alarm_at is not None for series in self._series.values())

    def report(self) -> DriftReport:
        """What is known so far.

        Raises:
            ValueError: there was no image.
        """
        scores = self._series["score"]
        images, known, threshold = scores.history.count, scores.sample, self._threshold
        if images == 0:
            raise ValueError("results: there are no images")
        watched = tuple(self._watched(name, series) for name, series in self._series.items())
        found = [one for one in watched if one.words is not None]
        p_value = min(one.p_value for one in watched)
        alarms = ExactShare(self._alarms, images)
        above = int((known > threshold).sum())
        return DriftReport(
            is_drift=bool(found),
            p_value=p_value,
            false_alarm_rate=self._false_alarm_rate,
            alarm_at=min((one.alarm_at for one in found if one.alarm_at is not None), default=None),
            since=min((one.since for one in found if one.since is not None), default=None),
            message=_message(found, images, p_value)
            + ("" if self._can_show(images) else ": so few cannot show any"),
            images=images,
            calibration_images=len(known),
            watched=watched,
            alarms=alarms,
            alarms_promised=promised(known, threshold),
            alarms_p_value=alarm_p_value(alarms.hits, alarms.total, above, len(known)),
            ks_p_value=_ks_p_value(known, scores.history.values()),
        )

    def _can_show(self, images: int) -> bool:
        """Whether there would be an alarm if each image were further off than all before it."""
        known, capital = len(self._series["score"].sample), Capital()
        return any(
            capital.add(0.5 / (known + number)) >= self._limit
            for number in range(1, min(images, ENOUGH) + 1)
        )

    def _watched(self, name: str, series: "_Series") -> Watched:
        p_value = min(1.0, len(self._series) * math.exp(-max(series.highest, 0.0)))
        since = change = words = None
        values, step = series.history.values(), series.history.step
        if series.alarm_at is not None:
            # Up to where it was clearest: a lamp may have been changed back.
            seen = values[: series.highest_at // step + 1]
            start = change_point(series.sample, seen)
            change, words = _change(name, series.sample, seen[start:])
            since = start * step
        capital = series.capitals.values() / math.log(10)
        return Watched(name, p_value, series.alarm_at, since, change, words, values, capital, step)


class _Series:
    """One of the things that are watched: its sample, its values, the capital after each."""

    def __init__(self, sample: np.ndarray, rng: np.random.Generator, limit: float) -> None:
        self.sample, self.history, self.capitals = sample, History(), History()
        self.highest, self.highest_at = 0.0, 0
        self.alarm_at: int | None = None
        self._limit = limit  # above 0: a rate is below 1
        self._ranks, self._capital = RanksSoFar(sample, rng), Capital()

    def add(self, value: float) -> None:
        number, capital = self.history.count, self._capital.add(self._ranks.add(value))
        self.history.add(value)
        self.capitals.add(capital)
        if capital > self.highest:
            self.highest, self.highest_at = capital, number
        if self.alarm_at is None and capital >= self._limit:
            self.alarm_at = number


def drift(
    monitor: DriftMonitor, results: PredictionResult | Iterable[PredictionResult]
) -> DriftReport:
    """The report of all results, or of one."""
    for result in [results] if isinstance(results, PredictionResult) else results:
        if not isinstance(result, PredictionResult):
            raise TypeError(
                f"results must be what predict or stream gave; got {type(result).__name__}"
            )
        monitor.add(result)
    return monitor.report()


def _change(name: str, before: np.ndarray, after: np.ndarray) -> tuple[float | None, str]:
    """How much the mean has changed, as a share, and in words. Sharpness is a logarithm."""
    old, new = float(before.mean()), float(after.mean())
    words = WATCHED[name][new > old]
    if name == "sharpness":
        change = math.expm1(new - old)
    elif old < (LEAST_COLOUR if name == "colour" else 1e-12):
        return None, words
    else:
        change = new / old - 1
    return change, f"{words} by {100 * abs(change):.{0 if abs(change) >= 0.1 else 1}f} %"


def _message(found: list[Watched], images: int, p_value: float) -> str:
    if not found:
        return f"no drift in {images:,} image{'s' * (images != 1)} (p = {p_value:.2g})"
    said = [f"{one.words} since image {one.since + 1:,}" for one in found if one.since is not None]
    return f"drift: {', '.join(said)} (p = {p_value:.2g})"


def _ks_p_value(known: np.ndarray, new: np.ndarray) -> float:
    from scipy.stats import ks_2samp  # takes longer to import than a detector to load

    nearly = float(ks_2samp(known, new, method="asymp").pvalue)
    # scipy's exact method fails, with a warning, where both samples nearly coincide.
    return nearly if nearly > 0.99 else float(ks_2samp(known, new).pvalue)
