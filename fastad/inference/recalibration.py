"""Thresholds for today's parts: from fresh good images, without another training.

The rule is that of the first calibration (`fastad.inference.threshold`). It asks for images that
nothing in the detector was made from. So images that the training read are refused, and where the
model divides its maps by position means, these come from other images than the thresholds: half of
the fresh images give means, but never so many that the others are too few for the rate. A
permutation drawn from a seed splits them. How many go where follows from their number alone, so a
new good image and those of the thresholds stay exchangeable.
"""

import copy
import dataclasses
import datetime
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastad.data.images import image_shape
from fastad.data.inputs import are_paths, image_batches, is_path
from fastad.evaluation.shares import ExactShare
from fastad.inference.artifact import BY_RATE, Artifact
from fastad.inference.known_images import calibrated, digests_of, given_to_training, listed
from fastad.inference.measuring import Measured, Skip, chosen, countable, measured
from fastad.inference.min_area import LevelRecorder
from fastad.inference.predictor import Predictor
from fastad.inference.threshold import alarm_p_value, conformal_threshold, raised
from fastad.inference.tile_scaling import take_means
from fastad.models.map_model import MapModel

LEAST_FOR_MEANS = 20  # images: the mean at one place is too uncertain from fewer
BROKEN = 0.05  # more alarms than this is likely to bring break the old promise


@dataclass(frozen=True)
class Recalibration:
    """What fresh good images say of a detector, and what they made of its thresholds.

    Attributes:
        date: of the calibration, UTC, as ISO 8601 writes it.
        source: name of the folder of the images. None where they were given otherwise.
        images: how many set the thresholds.
        images_for_means: how many others gave position means. 0 where these stay as they were.
        false_positive_rate: the rate asked for.
        kept_rate: the rate that the new threshold keeps, at most that.
        threshold, pixel_threshold: the new ones.
        old_threshold, old_rate: the one before, and the rate that it promised. None without.
        old_alarms: how many of all fresh images are above the old threshold, with the exact 95 %
            interval of their share. None without an old threshold.
        expected_alarms: so many at most the old promise lets expect. None without a promise.
        p_value: probability of so many alarms or more, were the fresh images like those of the old
            calibration. Beta-binomial, which is exact for thresholds that a rate set. None for
            others.
        notes: what to mind.
    """

    date: str
    source: str | None
    images: int
    images_for_means: int
    false_positive_rate: float
    kept_rate: float
    threshold: float
    pixel_threshold: float
    old_threshold: float | None = None
    old_rate: float | None = None
    old_alarms: ExactShare | None = None
    expected_alarms: float | None = None
    p_value: float | None = None
    notes: tuple[str, ...] = ()

    @property
    def promise_broken(self) -> bool:
        """Whether the old threshold has more alarms than chance explains, at the 5 % level."""
        return self.p_value is not None and self.p_value <= BROKEN

    @property
    def summary(self) -> str:
        """How the old promise did, in one sentence."""
        if self.old_threshold is None:
            return "there was no threshold before"
        if self.old_alarms is None:
            return "the old promise was not tried"
        alarms = self.old_alarms
        low, high = alarms.interval or (0.0, 1.0)
        observed = (
            f"of {alarms.total} fresh good images the old threshold stops {alarms.hits}: "
            f"{alarms.hits / alarms.total:.1%}, 95% interval {low:.1%} to {high:.1%}"
        )
        if self.expected_alarms is None or self.old_rate is None:
            return f"{observed}; it promised no rate"
        promise = f"promised: at most {self.old_rate:.1%}, or {self.expected_alarms:.3g} of them"
        if self.p_value is None:
            return f"{observed}; {promise}"
        verdict = "broken" if self.promise_broken else "not broken"
        return f"{observed}; {promise}; the promise is {verdict} (p = {self.p_value:.2g})"

    def to_dict(self) -> dict[str, Any]:
        """What JSON gets."""
        alarms = None if self.old_alarms is None else self.old_alarms.to_dict()
        said = {"promise_broken": self.promise_broken, "summary": self.summary}
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return fields | {"old_alarms": alarms, "notes": list(self.notes)} | said


def recalibrate(
    artifact: Artifact,
    predictor: Predictor,
    images: Any,
    *,
    false_positive_rate: float | None = None,
    skip: Skip | None = None,
    seed: int = 0,
    tries_old: bool = True,
) -> tuple[Artifact, Recalibration]:
    """Choose thresholds anew by fresh good images. ``artifact`` itself stays as it is.

    The position means of its model are replaced in place where the model divides by them and
    enough images are there. An error leaves them as they were.

    Args:
        artifact: the detector.
        predictor: its own.
        images: a folder of good images, or images in any form of `fastad.data.inputs`.
        false_positive_rate: None keeps the rate that was asked for last.
        skip: as of `Predictor.predict`.
        seed: of the split into images for means and for thresholds.
        tries_old: whether the old promise was one on the scores of this very detector.

    Returns:
        The detector with its new calibration, and what is to be said of it.

    Raises:
        ValueError: the training read some of the images, or they are too few for the rate.
    """
    rate = artifact.false_positive_rate if false_positive_rate is None else false_positive_rate
    source = _name(images)
    items, digests, repeated = _fresh(artifact, images)
    if len(items) < _needed(rate) and skip is None and are_paths(items):
        for path in items:
            image_shape(path)  # what is no image is said first
    _require_enough(len(items), rate)
    recorder = LevelRecorder(predictor.image_size)
    before = measured(predictor, items, skip, recorder.add)
    fresh = [index for index in range(len(items)) if index not in before.failed]
    items, digests = chosen(items, fresh), [digests[i] for i in fresh] if digests else []
    _require_enough(len(items), rate)
    unlike = before.unlike(items)
    for_means = _for_means(predictor, len(items), rate)
    order = np.random.default_rng(seed).permutation(len(items))
    first, rest = np.sort(order[:for_means]), np.sort(order[for_means:])
    if for_means:
        with _new_means(predictor, chosen(items, first)):
            after, levels = _own_scores(predictor, chosen(items, rest))
    elif predictor.min_area is not None:  # the scores are those of regions
        after, levels = _own_scores(predictor, items)
    else:
        after, levels = before, recorder
    known = artifact.region_levels
    known_before = len(calibrated(artifact) & set(digests))
    tries_old = tries_old and not known_before
    date = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    new = dataclasses.replace(
        artifact,
        calibration=raised(after.scores),
        pixel_calibration=raised(after.maxima),
        region_levels=levels.result(None if known is None else known.image_shape),
        false_positive_rate=rate,
        threshold_set_by=BY_RATE,
        inputs=before.inputs(items)[rest],
    )
    new.threshold = threshold = conformal_threshold(new.judging, rate)
    new.pixel_threshold = pixel_threshold = conformal_threshold(new.judging_pixels, rate)
    history = artifact.calibrations
    if not history and artifact.calibration.size:
        history = [kept(artifact, artifact.training.get("data"))]
    new.calibrations = [*history, kept(new, source, date, digests, for_means)]
    assert new.kept_rate is not None  # there are scores and a threshold
    result = Recalibration(
        date=date,
        source=source,
        images=len(rest),
        images_for_means=for_means,
        false_positive_rate=rate,
        kept_rate=new.kept_rate,
        threshold=threshold,
        pixel_threshold=pixel_threshold,
        notes=(
            *([unlike] if unlike else []),
            *_notes(predictor, rate, len(items), for_means, repeated, bool(digests), known_before),
        ),
        **_of_the_old_promise(artifact, predictor, before.scores if tries_old else None),
    )
    return new, result


def kept(
    artifact: Artifact,
    source: str | None,
    date: str | None = None,
    digests: Sequence[str] = (),
    images_for_means: int = 0,
) -> dict[str, Any]:
    """What a file keeps of one calibration, as JSON's values.

    Its "date" and "source", the "scores" and "pixel_scores" of its images, the rate asked for, the
    thresholds, how many other images gave position means, and the "digests" of all its files. The
    training's own has no date, and its files are in the training record.
    """
    return {
        "date": date,
        "source": source,
        "false_positive_rate": artifact.false_positive_rate,
        "threshold": artifact.threshold,
        "pixel_threshold": artifact.pixel_threshold,
        "scores": np.asarray(artifact.judging, dtype=np.float64).tolist(),
        "pixel_scores": np.asarray(artifact.judging_pixels, dtype=np.float64).tolist(),
        "images_for_means": images_for_means,
        "digests": list(digests),
    }


def _own_scores(predictor: Predictor, items: Any) -> tuple[Measured, LevelRecorder]:
    """The model's own scores of images, whatever area the detector judges by, and their levels."""
    own, levels = copy.copy(predictor), LevelRecorder(predictor.image_size)
    own.min_area = None
    return measured(own, items, observe=levels.add), levels


@contextmanager
def _new_means(predictor: Predictor, for_means: Any) -> Iterator[None]:
    """Take position means from some images; they are as before where an error leaves the block."""
    model = predictor.model
    assert isinstance(model, MapModel)  # others have none
    old = model.distance_means.clone()

    def batches() -> Iterator[dict[str, Tensor]]:
        size, number = predictor.image_size, predictor.batch_size
        for batch in image_batches(for_means, size, number, None, predictor.pixel_range):
            white = 255 if batch.images.dtype == torch.uint8 else 1
            yield {"image": batch.images.to(predictor.device, torch.float32) / white}

    tiling = predictor.tiling()
    try:
        with torch.no_grad():
            if tiling is None:
                model.calibrate_maps(batches)
            else:
                take_means(model, tiling, (batch["image"] for batch in batches()))
        yield
    except BaseException:
        with torch.no_grad():
            model.distance_means.copy_(old)
        raise


def _for_means(predictor: Predictor, count: int, rate: float) -> int:
    """How many of the images give position means; the others are enough for the rate."""
    model = predictor.model
    if not isinstance(model, MapModel) or not model.can_renew_means():
        return 0
    most = min(count // 2, count - _needed(rate))
    return most if most >= LEAST_FOR_MEANS else 0


def _fresh(artifact: Artifact, images: Any) -> tuple[Any, list[str], int]:
    """Images that can be counted, the digests of their files, how many repeated ones are left out.

    Raises ValueError where the training read one of them.
    """
    items = countable(listed(images))
    digests, known = digests_of(items, given_to_training(artifact))
    if known:
        raise ValueError(
            f"images: the training of the detector read {len(known)} of the {len(items)} images, "
            f"such as {known[0]}: a threshold from them would be too low, leave them out"
        )
    if not digests:
        return items, [], 0
    first = sorted({digest: i for i, digest in reversed([*enumerate(digests)])}.values())
    return [items[i] for i in first], [digests[i] for i in first], len(items) - len(first)


def _needed(rate: float) -> int:
    """How many calibration images the rate needs; see `conformal_threshold`."""
    return math.ceil(1 / rate - 1e-9) - 1


def _require_enough(count: int, rate: float) -> None:
    if (missing := _needed(rate) - count) > 0:
        raise ValueError(
            f"images: {_are(count, 'good image')} too few for a "
            f"false-positive rate of {100 * rate:g} %, which needs {_needed(rate)}: "
            f"{_are(missing)} missing, or ask for a rate of "
            f"{100 / (count + 1):.3g} % or more"
        )


def _of_the_old_promise(
    artifact: Artifact, predictor: Predictor, scores: np.ndarray | None
) -> dict[str, Any]:
    """How the old threshold did on fresh images: fields of `Recalibration`. None if none are."""
    threshold, promise, calibration = artifact.threshold, artifact.kept_rate, predictor.calibration
    if threshold is None:
        return {}
    if scores is None:
        return {"old_threshold": threshold, "old_rate": promise}
    alarms = ExactShare(int((scores > threshold).sum()), len(scores))
    found = {"old_threshold": threshold, "old_rate": promise, "old_alarms": alarms}
    if promise is None:
        return found
    p_value = None
    if artifact.threshold_set_by == BY_RATE:
        above = int((calibration > threshold).sum())
        p_value = alarm_p_value(alarms.hits, alarms.total, above, len(calibration))
    return found | {"expected_alarms": promise * len(scores), "p_value": p_value}


def _notes(
    predictor: Predictor,
    rate: float,
    count: int,
    for_means: int,
    repeated: int,
    are_files: bool,
    known_before: int,
) -> Iterator[str]:
    model = predictor.model
    if known_before:
        yield (
            f"{known_before} of the images made a calibration before: they say nothing of the old "
            "promise"
        )
    if for_means:
        yield (
            f"{for_means} images gave position means, the other {count - for_means} the "
            "thresholds: no image did both"
        )
    elif isinstance(model, MapModel) and model.can_renew_means():
        more = max(2 * LEAST_FOR_MEANS, _needed(rate) + LEAST_FOR_MEANS) - count
        yield f"the position means stay as they were: {more} more images would give new ones"
    if repeated:
        yield f"{_are(repeated, 'repeated image')} left out"
    if not are_files:
        yield (
            "whether the detector was trained on these images is not known: if it was, the "
            "thresholds are too low"
        )


def _are(count: int, what: str = "") -> str:
    """Like "1 image is", or "2 images are"."""
    words = f"{count} {what}{'s' * (count != 1 and what != '')}".strip()
    return f"{words} {'is' if count == 1 else 'are'}"


def _name(images: Any) -> str | None:
    return Path(images).resolve().name if is_path(images) else None
