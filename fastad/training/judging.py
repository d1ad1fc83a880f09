"""What a model in training is worth on the images held out: its epoch is chosen by that."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastad.models import AnomalyModel, Prediction
from fastad.models.map_model import Evidence, MapModel
from fastad.training.batches import read_batch
from fastad.training.source import Placement, Source
from fastad.training.stages import StagePlan
from fastad.training.trial import MOST_CLEAN, quality, spread

# Pixels that an epoch looks at from which a fast copy of a model saves more time than it takes.
WORTH_A_COPY = 48 * 256 * 256
FastCopy = Callable[[AnomalyModel], AnomalyModel | None]


@dataclass(frozen=True)
class Sources:
    """Of the images that a stage trains on, of those it is validated on (may be the same), and of
    the defects that it is judged by, if any."""

    train: Source
    validation: Source
    trial: Source | None


class Judge:
    """Looks at a stage's held-out images after each of its epochs.

    Args:
        model: in that stage.
        sources: where batches of the plan's items come from.
        fast_copy: gives a copy in eval mode that computes the same faster, or None. It looks at the
            images in the model's place, where they are many enough.
    """

    def __init__(
        self,
        model: AnomalyModel,
        plan: StagePlan,
        placement: Placement,
        sources: Sources,
        fast_copy: FastCopy | None,
    ):
        self.model, self.plan, self.placement, self.sources = model, plan, placement, sources
        self._fast_copy = fast_copy if self._is_worth_a_copy() else None

    def _is_worth_a_copy(self) -> bool:
        plan = self.plan
        if self.placement.device.type == "cuda" or not len(plan.validation_items):
            return False
        shape = read_batch(plan.validation_set, [int(plan.validation_items[0])])["image"].shape
        images = len(plan.validation_items)
        if plan.trial is not None:
            images += len(plan.held_out) + len(plan.trial)
        return images * shape[-2] * shape[-1] >= WORTH_A_COPY

    def ready(self) -> "Looking":
        """The model as it is now, in eval mode, or its fast copy."""
        self.model.eval()
        copy = None if self._fast_copy is None else self._fast_copy(self.model)
        return Looking(self, self.model if copy is None else copy, copy is not None)


@dataclass(frozen=True)
class Looking:
    """One look at the held-out images.

    Attributes:
        model: what looks.
        is_copy: whether it is a fast copy, which knows by itself what it computes in.
    """

    judge: Judge
    model: AnomalyModel
    is_copy: bool

    @torch.no_grad()
    def quality(self) -> Tensor | None:
        """How well the model tells held-out images from defects on them, float64; None without."""
        plan, sources = self.judge.plan, self.judge.sources
        if sources.trial is None or plan.trial is None:
            return None
        model, held_out = self.model, plan.held_out
        defects = torch.arange(len(plan.trial))
        with self._autocast():
            good = self._batches(sources.validation, held_out)
            clean: Iterable[dict[str, Any]]
            # One pass over them serves both.
            if isinstance(model, MapModel) and len(held_out) <= MOST_CLEAN:
                clean = seen = [{"found": _evidence(model, batch)} for batch in good]
                found = (each["found"][0] for each in seen)
                model.calibrate_from([*each.maps, *each.score_maps] for each in found)
            else:
                model.calibrate_maps(lambda: good)
                clean = self._batches(sources.validation, spread(held_out, MOST_CLEAN))
            return quality(self._answer, clean, self._batches(sources.trial, defects), model.roi)

    @torch.inference_mode()
    def errors(self, part: slice) -> Iterator[Tensor]:
        """The model's validation score (n,) of each batch in ``part`` of the validation items.

        Raises:
            TypeError: it is not one number an image.
        """
        plan = self.judge.plan
        pieces = plan.validation_items.split(plan.config.batch_size)[part]
        for indices, batch in self.judge.sources.validation.batches(pieces, epoch=0):
            with self._autocast():
                scores = self.model.validation_score(self._prepared(batch))
            if scores.shape != (len(indices),):
                raise TypeError(
                    f"validation_score of {self.model.name} must return shape ({len(indices)},); "
                    f"got {tuple(scores.shape)}"
                )
            yield scores

    def _autocast(self) -> Any:
        return nullcontext() if self.is_copy else self.judge.placement.autocast()

    def _batches(self, source: Source, items: Tensor) -> Iterator[dict[str, Any]]:
        """With the same draws in every epoch, so that what is made of them can be compared."""
        pieces = items.split(self.judge.plan.config.batch_size)
        return (self._prepared(batch) for _, batch in source.batches(pieces, epoch=0))

    def _prepared(self, batch: dict[str, Any]) -> dict[str, Any]:
        """For a fast copy features in half precision become what it computes with."""
        if not self.is_copy:
            return batch
        return {
            name: [x.float() for x in value] if isinstance(value, list) else value
            for name, value in batch.items()
        }

    def _answer(self, batch: Mapping[str, Any]) -> Prediction:
        if "found" not in batch:
            return self.model.answer(batch)
        assert isinstance(self.model, MapModel)
        return self.model.judge(*batch["found"])


def _evidence(model: MapModel, batch: Mapping[str, Any]) -> tuple[Evidence, tuple[int, int]]:
    return model.evidence(batch), (batch["image"].shape[-2], batch["image"].shape[-1])
