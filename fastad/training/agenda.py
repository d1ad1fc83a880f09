"""What a training does one after the other, and the time that all of it still takes."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from fastad.models import AnomalyModel
from fastad.models.map_model import MapModel
from fastad.training.map_choice import images_to_judge
from fastad.training.progress import EpochProgress
from fastad.training.source import Watch
from fastad.training.stages import StagePlan

# Passes of an image through the networks that one training step on it is worth: there and back.
A_STEP = 3.0
CHOICE, EXAMINATION, SELF_CHECK = "choice of maps", "final examination", "self-check"
TRIED = 150  # synthesised defects of the self-check


class Agenda:
    """The phases of a training in order; the time left is estimated over all of them.

    A later phase is priced by the time that a pass of an image took so far, on average over what is
    done. That is rough where phases differ, and gets better as they come.

    Args:
        phases: passes of images of each phase, by its name, in order.
        model: whose stages are trained.
        progress: hears of what is no stage.
    """

    def __init__(
        self,
        phases: Mapping[str, float],
        model: AnomalyModel | None = None,
        progress: Callable[[EpochProgress], None] | None = None,
    ):
        self._work = dict(phases)
        self._model, self._progress = model, progress
        self._now, self._first, self._share = "", 0.0, 0.0
        self._begin = time.monotonic()
        self._passes = self._seconds = 0.0  # of phases that are over

    def enter(self, name: str, done: float = 0.0) -> float:
        """A phase begins, of which a share is ``done`` already. The seconds left, as of `reach`."""
        self._passes, self._seconds = self._spent()
        self._now, self._first, self._share = name, done, done
        self._begin = time.monotonic()
        return self.reach(done)

    def reach(self, share: float) -> float:
        """Seconds left where ``share`` of the phase is done; NaN before anything is measured."""
        self._share = share
        passes, seconds = self._spent()
        price = seconds / passes if passes > 0 else math.nan
        names = list(self._work)
        later = names[names.index(self._now) + 1 :] if self._now in self._work else names
        to_do = 1 - share
        if share > self._first:
            own = (time.monotonic() - self._begin) / (share - self._first) * to_do
        else:
            own = price * to_do * self._work.get(self._now, 0.0)
        return own + (price * sum(self._work[name] for name in later) if later else 0.0)

    def announce(self, name: str) -> None:
        """As `enter`, of a phase that is no stage; ``progress`` hears of it, if it comes."""
        if name not in self._work:
            return
        self._report(name, 0, 0, 0.0, self.enter(name))

    def follow(self, name: str) -> Callable[[int, int], None]:
        """As `announce`; the function it gives is called with the images done and of all."""
        self.announce(name)

        def report(done: int, of_all: int) -> None:
            self._report(name, done, of_all, 0.0, self.reach(done / of_all))

        return report

    def watch(self, name: str, part: int, parts: int) -> Watch:
        """Reports batches of such a phase, which has several parts, once they are worked through.

        Returns:
            A function of the batches and their number that gives them on.
        """
        if part == 0:
            self.announce(name)

        def watch(batches: Iterator[Any], number: int) -> Iterator[Any]:
            start, images = time.monotonic(), 0
            for step, (indices, batch) in enumerate(batches, start=1):
                yield indices, batch
                images += len(indices)
                rate = images / max(time.monotonic() - start, 1e-9)
                self._report(name, step, number, rate, self.reach((part + step / number) / parts))

        return watch

    def _report(self, name: str, step: int, steps: int, rate: float, left: float) -> None:
        if self._progress is None or self._model is None:
            return
        stages = self._model.stages
        stage = (self._model.stage or stages[-1]).name
        event = EpochProgress(
            0, 0, step, steps, rate, left, stage=stage, stages=len(stages), phase=name
        )
        self._progress(event)

    def _spent(self) -> tuple[float, float]:
        """Passes of images that are done, and the seconds that they took."""
        passes = self._work.get(self._now, 0.0) * (self._share - self._first)
        if passes <= 0:
            return self._passes, self._seconds
        return self._passes + passes, self._seconds + time.monotonic() - self._begin


def features_of(stage: str) -> str:
    """The phase before a stage in which its teachers' features are computed."""
    return f"teachers' features for {stage}"


def phases_of(
    model: AnomalyModel, plans: Sequence[StagePlan], followed_by: Sequence[str] = ()
) -> dict[str, float]:
    """The phases of a training, and the passes of images that each takes.

    ``followed_by`` what works on the held-out images afterwards: `EXAMINATION`, `SELF_CHECK`.
    """
    phases: dict[str, float] = {}
    for plan in plans:
        name = plan.stage.name
        if not plan.stage.trains:
            phases[name] = len(plan.looked_at)
            continue
        judged = len(plan.validation_items) + (0 if plan.trial is None else len(plan.trial))
        images = plan.train_items.shape[-1]  # of an epoch
        phases[features_of(name)] = plan.train_items.numel() + judged
        phases[name] = plan.config.epochs * (A_STEP * images + judged)
    held_out = len(plans[-1].held_out)
    if isinstance(model, MapModel) and (images := images_to_judge(model, held_out)):
        phases[CHOICE] = images
    after = {EXAMINATION: 4 * held_out, SELF_CHECK: held_out + TRIED if held_out else 0}
    return phases | {name: after[name] for name in followed_by}


def in_words(phases: Mapping[str, float], plans: Sequence[StagePlan]) -> str:
    """Like "pairs 20 epochs, discriminator 6 epochs, choice of maps, final examination"."""
    stages = [
        f"{plan.stage.name} {plan.config.epochs} epoch{'s' * (plan.config.epochs != 1)}"
        if plan.stage.trains
        else f"{plan.stage.name} of {len(plan.looked_at)} images"
        for plan in plans
    ]
    return ", ".join(
        [*stages, *(name for name in (CHOICE, EXAMINATION, SELF_CHECK) if name in phases)]
    )
