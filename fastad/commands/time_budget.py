"""A training that fits into a given time: two epochs are measured, then as many run as fit."""

import logging
import time
from collections.abc import Callable
from typing import Any

import torch

from fastad import models
from fastad.backbones import WeightsNotFoundError
from fastad.commands.output import log, note
from fastad.detector import Detector
from fastad.training import ConsoleProgress, EpochProgress, TrainingConfig

PROBE = 2  # epochs: in the first one of a stage is what is done once


def default_epochs(model: str, **options: Any) -> int | None:
    """Of the first stage of a model with these options; None for a model that trains nothing.

    They may follow the teacher that "auto" comes to. Without weights for it they are the usual.
    """
    kind = models.model_class(model)
    if not kind.trains():
        return None
    try:
        with torch.random.fork_rng(devices=[]):
            return TrainingConfig.for_model(models.build(model, **options)).epochs
    except WeightsNotFoundError:
        return TrainingConfig.for_model(kind).epochs


def fit_within(
    make: Callable[[], Detector], images: Any, epochs: int | None, seconds: float | None
) -> Detector:
    """Train a detector, with fewer epochs where ``seconds`` do not suffice for all.

    Args:
        make: gives a new detector.
        epochs: of the first stage; None for a model that trains nothing.
        seconds: None for no limit. `PROBE` epochs are run whatever they take.
    """
    if epochs is None or seconds is None or epochs <= PROBE:
        return _fit(make(), images, epochs)
    times, start = EpochTimes(), time.monotonic()
    detector = _fit(make(), images, PROBE, times)
    took = time.monotonic() - start
    if detector.training_record_["interrupted"]:
        return detector
    affordable = epochs_that_fit(detector.model, epochs, took, times.seconds, seconds - took)
    if affordable <= PROBE:
        note(f"{detector.model}: {PROBE} of {epochs} epochs, more do not fit into {seconds:.0f} s")
        return detector
    if affordable < epochs:
        note(f"{detector.model}: {affordable} of {epochs} epochs fit into {seconds:.0f} s")
    return _fit(make(), images, affordable)


def _fit(
    detector: Detector, images: Any, epochs: int | None, times: "EpochTimes | None" = None
) -> Detector:
    options: dict[str, Any] = {} if epochs is None else {"epochs": epochs}
    with ConsoleProgress() as bar:
        shown = bar if log.isEnabledFor(logging.INFO) else None

        def listen(event: EpochProgress) -> None:
            for listener in (times, shown):
                if listener is not None:
                    listener(event)

        return detector.fit(images, progress=listen, **options)


class EpochTimes:
    """The ``progress`` of a training that keeps how long an epoch takes.

    Attributes:
        seconds: of the last epoch of each stage, by name.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._stage: str | None = None
        self._start = 0.0

    def __call__(self, event: EpochProgress) -> None:
        now = time.monotonic()
        if event.phase:  # what is done once
            return
        if event.stage != self._stage:  # its first step is over
            self._stage, self._start = event.stage, now
        if event.validation_score is None:
            return
        steps = event.steps if event.epoch == 1 else 0
        missing = steps / (steps - 1) if steps > 1 else 1.0
        self.seconds[event.stage] = (now - self._start) * missing
        self._start = now


def epochs_that_fit(
    model: str, most: int, probe: float, times: dict[str, float], seconds: float
) -> int:
    """How many epochs of the first stage end within ``seconds``, from 0 to ``most``.

    Args:
        probe: seconds that a whole training of `PROBE` epochs took.
        times: seconds of one epoch of each stage.
    """
    kind = models.model_class(model)

    def of_epochs(epochs: int) -> float:
        config = TrainingConfig.for_model(kind, epochs=epochs)
        return sum(times.get(s.name, 0.0) * config.for_stage(kind, s).epochs for s in kind.stages)

    once = max(0.0, probe - of_epochs(PROBE))
    return next((n for n in range(most, 0, -1) if once + of_epochs(n) <= seconds), 0)
