"""What a training says while it runs, and a listener that shows it on a terminal or in a log."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO

from torch import Tensor

if TYPE_CHECKING:  # imported where a bar is shown
    from rich.progress import Progress, TaskID


@dataclass(frozen=True)
class EpochProgress:
    """One step done, or, with ``validation_score`` set, one epoch.

    Attributes:
        epoch, epochs: of this stage, counted from 1. Both 0 for a stage that trains nothing.
        step, steps: steps done in this epoch, or batches read, and their number.
        images_per_second: trained on in this epoch, or read, so far.
        seconds_left: estimate to the end of this stage; of later ones nothing is known yet.
        losses: means over the epoch by name, at its end only.
        validation_score: of the held-out images, at the end of an epoch only; lower is better.
        is_best: whether this epoch is kept so far.
        stage: name of the part of the training.
        stages: number of the parts.
        quality: AUROC on synthesised defects, at the end of an epoch of a stage judged by them.
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


class Clock:
    """Rate of an epoch, and the time left of a stage whose epochs began at ``start``.

    Args:
        start: `time.monotonic` when the first epoch began.
        epoch: this one, counted from 1; ``first`` to ``epochs`` are run.
    """

    def __init__(self, start: float, epoch: int, first: int, epochs: int):
        self.epoch, self.epochs = epoch, epochs
        self.images = 0  # trained on in this epoch
        self._start, self._first = start, first
        self._epoch_start = time.monotonic()
        self._rate, self._counted = 0.0, 0

    def read(self, epoch_done: float) -> tuple[float, float]:
        """(images a second, seconds left) where ``epoch_done`` of the epoch, in (0, 1], is done."""
        now = time.monotonic()
        if self.images != self._counted:  # validation does not count
            self._counted = self.images
            self._rate = self.images / max(now - self._epoch_start, 1e-9)
        done = self.epoch - self._first + epoch_done
        to_do = self.epochs - self._first + 1 - done
        return self._rate, (now - self._start) * to_do / done


def reported(
    batches: Iterable[tuple[Tensor, dict[str, Any]]],
    steps: int,
    progress: Callable[[EpochProgress], None] | None,
    stage: str,
    stages: int,
) -> Iterator[dict[str, Any]]:
    """Batches of a stage that trains nothing; ``progress`` hears of each that is worked through.

    Args:
        batches: of each its indices and itself; ``steps`` of them.
        stage, stages: as of `EpochProgress`.
    """
    start, images = time.monotonic(), 0
    for step, (indices, batch) in enumerate(batches, start=1):
        yield batch
        images += len(indices)
        if progress is not None:
            seconds = time.monotonic() - start
            rate, left = images / max(seconds, 1e-9), seconds * (steps - step) / step
            progress(EpochProgress(0, 0, step, steps, rate, left, stage=stage, stages=stages))


class ConsoleProgress:
    """Shows a training: a bar on a terminal, one plain line an epoch elsewhere.

    Pass it as ``progress`` to `Detector.fit` or `Trainer`. As a context manager it removes the bar
    after an error as well.

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
        epoch 1/2  distillation ...  validation ... (best)  ... images/s  ... left
        epoch 2/2  distillation ...  validation ... images/s  ... left
    """

    _task: "TaskID"  # of the bar, while there is one

    def __init__(self, stream: TextIO | None = None):
        self.stream = stream or sys.stderr
        self._bar: Progress | None = None

    def __enter__(self) -> "ConsoleProgress":
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop()

    def __call__(self, event: EpochProgress) -> None:
        if self.stream.isatty():
            self._show_bar(event)
        elif event.validation_score is not None or _is_read(event):
            print(_line(event), file=self.stream, flush=True)

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
            total = max(event.epochs, 1) * event.steps
            self._task = self._bar.add_task("", total=total, epoch="", text="")
            self._bar.start()
        if event.validation_score is not None or _is_read(event):
            self._bar.console.print(_line(event), highlight=False)
        self._bar.update(
            self._task,
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
    return event.epochs == 0 and event.step == event.steps


def _where(event: EpochProgress) -> str:
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
        f"validation {event.validation_score:.5g}{defects}{best}  {_speed(event)}"
    )


def _stage(event: EpochProgress) -> str:
    return f"{event.stage} " if event.stages > 1 else ""


def _speed(event: EpochProgress) -> str:
    minutes, seconds = divmod(round(event.seconds_left), 60)
    hours, minutes = divmod(minutes, 60)
    left = f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
    return f"{event.images_per_second:.1f} images/s  {left} left"
