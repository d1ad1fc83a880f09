"""The one loop over epochs and steps, for every stage of every model."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor

from fastad.models import AnomalyModel, Step
from fastad.training.agenda import Agenda
from fastad.training.batch_norm import chosen_batches, taken_anew, trained_norms
from fastad.training.batches import one_variant_each, shuffled_batches
from fastad.training.divergence import require_finite
from fastad.training.graphs import StepGraphs, recorder
from fastad.training.judging import FastCopy, Judge, Sources
from fastad.training.progress import Clock, EpochProgress
from fastad.training.schedule import rate_factor
from fastad.training.shares import Shares
from fastad.training.source import Placement
from fastad.training.stages import StagePlan
from fastad.training.state import RunningStep, TrainingState


class StageLoop:
    """The epochs of a stage, from the one after those that ``state`` has done to the last.

    Args:
        model: in that stage.
        sources: where batches of the plan's items come from.
        progress: called after every step and every epoch.
        agenda: of the whole training; this stage is its phase.
        shares: of the batches, where several processes train together.
        fast_copy: as of `Judge`.
    """

    def __init__(
        self,
        model: AnomalyModel,
        plan: StagePlan,
        placement: Placement,
        sources: Sources,
        progress: Callable[[EpochProgress], None] | None,
        agenda: Agenda,
        shares: Shares,
        fast_copy: FastCopy | None = None,
    ):
        self.shares = shares
        self.agenda = agenda
        self.model, self.plan, self.placement = model, plan, placement
        self.sources = sources
        self.progress = progress
        self.judge = Judge(model, plan, placement, sources, fast_copy)
        self._on_cuda = placement.device.type == "cuda"
        records = plan.stage.is_static and shares.count == 1  # no message is recorded
        self._graphs = StepGraphs(recorder(placement.device) if records else None)
        # What is recorded must not be on the stream that waits for all others.
        self._stream = torch.cuda.Stream(placement.device) if self._on_cuda else None

    def run(self, state: TrainingState, begin: float, save: Callable[[], None]) -> None:
        """Run the epochs left; ``save`` is called after each, ``begin`` is when the stage began."""
        first, last = state.stage.epochs + 1, self.plan.config.epochs
        before = state.stage.seconds
        self.agenda.enter(self.plan.stage.name, done=(first - 1) / last)
        for epoch in range(first, last + 1):
            clock = Clock(epoch, last)
            items = one_variant_each(self.plan.train_items, state.shuffle)
            batches = shuffled_batches(items, self.plan.config.batch_size, state.shuffle)
            losses = self._train_epoch(batches, state, clock)
            self._renew_statistics()
            found, score = self.shares.agreed(self._look(epoch))
            seconds = before + time.monotonic() - begin
            is_best = state.end_epoch(losses, score, found, seconds)
            if self.shares.is_first:
                save()
            self._report(clock, len(batches), len(batches), losses, score, is_best, found)

    def _train_epoch(
        self, batches: list[Tensor], state: TrainingState, clock: Clock
    ) -> dict[str, float]:
        """Mean of each loss over the images; on CUDA nothing waits for the device before that."""
        self.model.train()
        config = self.plan.config
        sums: dict[str, Tensor] = {}
        totals: list[list[Tensor]] = []  # of each batch, of each step
        draws = self.shares.own_draws(self.plan.seed, clock.epoch)
        with self._own_stream(), self.shares.synced_norms(self.model), draws:
            own = [self.shares.of(batch) for batch in batches]
            loaded = zip(batches, self.sources.train.batches(own, clock.epoch), strict=True)
            for number, (whole, (_, batch)) in enumerate(loaded, start=1):
                weight = self.shares.weight(whole)
                done = (clock.epoch - 1) * len(batches) + number - 1
                factor = rate_factor(config.schedule, done, config.epochs * len(batches))
                totals.append([])
                for step in state.steps:
                    losses = self._compute(batch, step, state.steps, weight)
                    self.shares.add_gradients(step.parameters)
                    _update(step, factor)
                    totals[-1].append(_total(losses))
                    for name, value in losses.items():
                        sums[name] = sums.get(name, 0.0) + value.double() * (weight * len(whole))
                if not self._on_cuda:
                    self._require_finite_totals(totals[-1:], state, clock.epoch, number)
                clock.images += len(whole)
                self._report(clock, number, len(batches))
        if self._on_cuda:
            self._require_finite_totals(totals, state, clock.epoch, 1)
        sums = self.shares.added(sums)
        return {name: float(value) / clock.images for name, value in sums.items()}

    @contextmanager
    def _own_stream(self) -> Iterator[None]:
        """On CUDA on a stream of its own, before and after which comes what is outside."""
        if self._stream is None:
            yield
            return
        outside = torch.cuda.current_stream(self.placement.device)
        self._stream.wait_stream(outside)
        try:
            with torch.cuda.stream(self._stream):
                yield
        finally:
            outside.wait_stream(self._stream)

    def _compute(
        self,
        batch: dict[str, Any],
        step: RunningStep,
        steps: Sequence[RunningStep],
        weight: float,
    ) -> Mapping[str, Tensor]:
        """The losses of one step, detached, and their gradients times ``weight`` in its
        parameters."""

        def compute(batch: dict[str, Any]) -> Mapping[str, Tensor]:
            losses = self._losses(batch, step.step)
            total = _total(losses)
            step.scaler.scale(total if weight == 1 else weight * total).backward()
            return losses

        with _others_frozen(step, steps):
            return self._graphs.run(step.step.name, batch, step.parameters, compute)

    def _losses(self, batch: dict[str, Any], step: Step) -> Mapping[str, Tensor]:
        try:
            with self.placement.autocast():
                return _checked(self.model.step_loss(batch, step))
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            size = (
                "x".join(map(str, batch["image"].shape[-2:])) if "image" in batch else "that size"
            )
            raise ValueError(
                f"one image of {size} leaves a single value a channel, from which batch norm "
                "cannot learn: take a batch_size of at least 2, more images, or an image_size of "
                "at least 64"
            ) from None

    @torch.no_grad()
    def _renew_statistics(self) -> None:
        """Take batch norm's statistics anew, from the same training images in every epoch."""
        self.model.train()
        norms = trained_norms(self.model)
        if not norms:
            return
        device = self.placement.device
        items = self.plan.train_items
        if items.dim() == 2:  # of each image another variant in turn
            items = items.gather(0, (torch.arange(items.shape[1]) % len(items))[None])[0]
        chosen = chosen_batches(items, self.plan.config.batch_size)
        # What random layers draw here must change nothing of what they draw in training.
        with torch.random.fork_rng([device] if self._on_cuda else []), taken_anew(norms):
            torch.manual_seed(self.plan.seed)
            for _, batch in self.sources.train.batches(chosen, epoch=0):
                for other in ("corrupted", "foreign"):  # they are of good images
                    batch.pop(other, None)
                for step in self.plan.stage.steps:
                    self._losses(batch, step)

    def _look(self, epoch: int) -> tuple[float | None, float]:
        """How well the model tells held-out images from defects on them, None without such; and the
        mean of its validation score over the validation items."""
        looking = self.judge.ready()
        found = looking.quality()
        if found is not None:
            self._require_finite(found, "anomaly score", f"epoch {epoch}")
        total = torch.zeros((), dtype=torch.float64)
        for scores in looking.errors(slice(self.shares.number, None, self.shares.count)):
            total += scores.double().sum().cpu()
        total = self.shares.added({"score": total})["score"]
        self._require_finite(total, "error on held-out good images", f"epoch {epoch}")
        mean = float(total) / len(self.plan.validation_items)
        return None if found is None else float(found), mean

    def _require_finite_totals(
        self, totals: Sequence[list[Tensor]], state: TrainingState, epoch: int, first: int
    ) -> None:
        """Of the batches from number ``first`` on."""
        found = torch.tensor([]) if not totals else torch.stack([torch.stack(x) for x in totals])
        for number, values in enumerate(found.cpu(), start=first):
            for step, total in zip(state.steps, values, strict=True):
                of_step = f" ({step.step.name})" if len(state.steps) > 1 else ""
                self._require_finite(total, "loss", f"epoch {epoch}, step {number}{of_step}")

    def _require_finite(self, value: Tensor, what: str, where: str) -> None:
        stage = self.plan.stage.name if len(self.model.stages) > 1 else None
        rate = self.plan.config.learning_rate
        require_finite(value, what, where, rate, self.placement.dtype, stage)

    def _report(
        self,
        clock: Clock,
        step: int,
        steps: int,
        losses: dict[str, float] | None = None,
        score: float | None = None,
        is_best: bool = False,
        quality: float | None = None,
    ) -> None:
        left = self.agenda.reach((clock.epoch - 1 + step / steps) / clock.epochs)
        if self.progress is None:
            return
        event = EpochProgress(
            clock.epoch,
            clock.epochs,
            step,
            steps,
            clock.rate(),
            left,
            losses,
            score,
            is_best,
            self.plan.stage.name,
            len(self.model.stages),
            quality,
        )
        self.progress(event)


@contextmanager
def _others_frozen(step: RunningStep, steps: Sequence[RunningStep]) -> Iterator[None]:
    """While one of several steps is computed, no parameter of another takes a gradient."""
    own = set(map(id, step.parameters)) if len(steps) > 1 else set()
    others = [p for other in steps for p in other.parameters if id(p) not in own]
    others = [p for p in others if p.requires_grad] if own else []
    try:
        for parameter in others:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in others:
            parameter.requires_grad_(True)


def _update(step: RunningStep, factor: float) -> None:
    """One step of an optimizer down its gradients, at its learning rate times ``factor``."""
    for group in step.optimizer.param_groups:
        group["lr"] = factor * group["initial_lr"]
    step.scaler.step(step.optimizer)
    step.scaler.update()


def _second(pairs: Iterable[tuple[Any, dict[str, Any]]]) -> Iterator[dict[str, Any]]:
    return (batch for _, batch in pairs)


def _total(losses: Mapping[str, Tensor]) -> Tensor:
    return cast(Tensor, sum(losses.values()))


def _checked(losses: object) -> Mapping[str, Tensor]:
    if (
        isinstance(losses, Mapping)
        and len(losses) > 0
        and all(isinstance(v, Tensor) and v.dim() == 0 for v in losses.values())
    ):
        return losses
    raise TypeError(f"a model's loss must be a dict of scalar tensors; got {losses!r:.200}")
