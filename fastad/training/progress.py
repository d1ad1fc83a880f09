"""What a training says while it runs, and a listener that shows it on a terminal or in a log."""

import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TextIO

from torch import Tensor

from fastad.training.heartbeat import Heartbeat

TELLING = 10.0  # seconds of the first epoch that tell how long all takes
WORTH_SAYING = 5.0  # seconds; a training that is nearly over needs no forecast

if TYPE_CHECKING:  # imported where a bar is shown
    from rich.progress import Progress, TaskID


@dataclass(frozen=True)
class EpochProgress:
    """One step done, or, with ``validation_score`` set, one epoch.

    Attributes:
        epoch, epochs: of this stage, counted from 1. Both 0 for a stage that trains nothing, and in
            a ``phase``.
        step, steps: steps done in this epoch, or batches read, and their number.
        images_per_second: trained on in this epoch, or read, so far.
        seconds_left: estimate to the end of the whole training, later stages and the final
            examination too. NaN before anything was measured.
        losses: means over the epoch by name, at its end only.
        validation_score: of the held-out images, at the end of an epoch only; lower is better.
        is_best: whether this epoch is kept so far.
        stage: name of the part of the training.
        stages: number of the parts.
        quality: AUROC on synthesised defects, at the end of an epoch of a stage judged by them.
        phase: what is done where it is no stage, such as "final examination"; otherwise empty. Of
            its steps 0 are known where both are 0.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    images_per_second: float
    seconds_left: float
    losses: dict[str, float] | None = None
    validation_score: float | None = None
    is_best: bool = False
    stage: str = "training"
    stages: int = 1
    quality: float | None = None
    phase: str = ""


class Clock:
    """Rate of an epoch of ``epochs``, counted from 1."""

    def __init__(self, epoch: int, epochs: int):
        self.epoch, self.epochs = epoch, epochs
        self.images = 0  # trained on in this epoch
        self._epoch_start = time.monotonic()
        self._rate, self._counted = 0.0, 0

    def rate(self) -> float:
        """Images a second."""
        if self.images != self._counted:  # validation does not count
            self._counted = self.images
            self._rate = self.images / max(time.monotonic() - self._epoch_start, 1e-9)
        return self._rate


def reported(
    batches: Iterable[tuple[Tensor, dict[str, Any]]],
    steps: int,
    progress: Callable[[EpochProgress], None] | None,
    reach: Callable[[float], float],
    stage: str,
    stages: int,
) -> Iterator[dict[str, Any]]:
    """Batches of a stage that trains nothing; ``progress`` hears of each that is worked through.

    Args:
        batches: of each its indices and itself; ``steps`` of them.
        reach: share that is done -> seconds left, see `fastad.training.agenda.Agenda`.
        stage, stages: as of `EpochProgress`.
    """
    start, images = time.monotonic(), 0
    for step, (indices, batch) in enumerate(batches, start=1):
        yield batch
        images += len(indices)
        left = reach(step / steps)
        if progress is not None:
            rate = images / max(time.monotonic() - start, 1e-9)
            progress(EpochProgress(0, 0, step, steps, rate, left, stage=stage, stages=stages))


class ConsoleProgress:
    """Shows a training: a bar on a terminal, one plain line an epoch elsewhere.

    The time left is that of the whole training. Once it is known, a line says when all is done.
    Pass it as ``progress`` to `Detector.fit` or `Trainer`. As a context manager it removes the bar
    after an error as well, and writes at least one line every 30 seconds to a log.

    Args:
        stream: where it is written to. None for stderr.

    Examples:
        >>> import sys
        >>> import numpy as np
        >>> from fastad import Detector
        >>> from fastad.training import ConsoleProgress
        >>> good = np.random.default_rng(0).integers(100, 156, (24, 32, 32, 3), dtype=np.uint8)
        >>> detector = Detector(
        ...     "stpm", image_size=32, teacher_weights="embedded", false_positive_rate=0.2
        ... )
        >>> with ConsoleProgress(sys.stdout) as progress:
        ...     detector = detector.fit(good, epochs=2, progress=progress)
        epoch 1/2  distillation ...  held-out error ... (best)  ... images/s  ... left
        epoch 2/2  distillation ...  held-out error ... images/s  ... left
    """

    _task: "TaskID"  # of the bar, while there is one

    def __init__(self, stream: TextIO | None = None):
        self.stream = stream or sys.stderr
        self._bar: Progress | None = None
        self._heartbeat: Heartbeat | None = None
        self._last: EpochProgress | None = None
        self._begin: float | None = None  # of the first epoch
        self._said_when = False

    def __enter__(self) -> "ConsoleProgress":
        if not self.stream.isatty():
            self._heartbeat = Heartbeat(self._say_where)
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop()
        if self._heartbeat is not None:
            self._heartbeat.stop()
            self._heartbeat = None

    def __call__(self, event: EpochProgress) -> None:
        self._last = event
        if self.stream.isatty():
            self._show_bar(event)
        elif event.validation_score is not None or _is_read(event):
            self._print(_line(event))
        if (line := self._when(event)) is not None:
            self._print(line)

    def _when(self, event: EpochProgress) -> str | None:
        """When all will be done, said once, as soon as the first epochs tell."""
        now = time.monotonic()
        if event.epochs and self._begin is None:
            self._begin = now
        is_known = event.validation_score is not None or (
            self._begin is not None and now - self._begin >= TELLING
        )
        if self._said_when or not (event.epochs and is_known):
            return None
        self._said_when = True
        left = event.seconds_left
        if not left >= WORTH_SAYING:
            return None
        done = datetime.now().astimezone() + timedelta(seconds=left)
        day = "" if done.date() == datetime.now().astimezone().date() else f"{done:%Y-%m-%d} "
        return f"about {spoken(left)} for all of it, done at {day}{done:%H:%M}"

    def _print(self, line: str) -> None:
        if self._bar is not None:
            self._bar.console.print(line, highlight=False)
            return
        print(line, file=self.stream, flush=True)
        if self._heartbeat is not None:
            self._heartbeat.beat()

    def _say_where(self, seconds: float) -> None:
        """In a log: where the training is, where it has said nothing for a while."""
        if (event := self._last) is not None:
            line = f"{_where(event)}  {_speed(event)}".rstrip()
            print(f"{line}  (at work for {seconds:.0f} s)", file=self.stream, flush=True)

    def _show_bar(self, event: EpochProgress) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        if self._bar is None:
            self._bar = Progress(
                TextColumn("{task.fields[epoch]}"),
                BarColumn(),
                TextColumn("{task.fields[text]}"),
                console=Console(file=self.stream),
                transient=True,
            )
            self._task = self._bar.add_task("", total=None, epoch="", text="")
            self._bar.start()
        if event.validation_score is not None or _is_read(event):
            self._bar.console.print(_line(event), highlight=False)
        self._bar.update(
            self._task,
            total=max(event.epochs, 1) * event.steps or None,
            completed=max(event.epoch - 1, 0) * event.steps + event.step,
            epoch=_where(event),
            text=_speed(event),
        )
        is_last = event.epoch == event.epochs and event.validation_score is not None
        if is_last or _is_read(event):
            self._stop()

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _is_read(event: EpochProgress) -> bool:
    """Whether a stage that trains nothing has seen its images."""
    return event.epochs == 0 and not event.phase and event.step == event.steps


def _where(event: EpochProgress) -> str:
    if event.phase:
        return event.phase + (f" {event.step}/{event.steps}" if event.steps else "")
    if event.epochs == 0:
        return f"{_stage(event)}batch {event.step}/{event.steps}"
    return f"{_stage(event)}epoch {event.epoch}/{event.epochs}"


def _line(event: EpochProgress) -> str:
    if event.epochs == 0:
        return f"{_where(event)}  {event.images_per_second:.1f} images/s"
    losses = "  ".join(f"{name} {value:.5g}" for name, value in (event.losses or {}).items())
    best = " (best)" if event.is_best else ""
    defects = "" if event.quality is None else f"  defects {event.quality:.4f}"
    width = len(str(event.epochs))
    return (
        f"{_stage(event)}epoch {event.epoch:{width}d}/{event.epochs}  {losses}  "
        f"held-out error {event.validation_score:.5g}{defects}{best}  {_speed(event)}"
    )


def _stage(event: EpochProgress) -> str:
    return f"{event.stage} " if event.stages > 1 else ""


def _speed(event: EpochProgress) -> str:
    parts = [f"{event.images_per_second:.1f} images/s"] if event.images_per_second else []
    if math.isfinite(event.seconds_left):
        minutes, seconds = divmod(round(event.seconds_left), 60)
        hours, minutes = divmod(minutes, 60)
        left = f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
        parts.append(f"{left} left")
    return "  ".join(parts)


def spoken(seconds: float) -> str:
    """A duration as one says it: "40 s", "42 min", "1.7 h"."""
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 100 else f"{minutes / 60:.1f} h"
