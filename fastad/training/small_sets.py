"""Epochs and batches where there are few images: what counts is the number of steps."""

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fastad.models import AnomalyModel
from fastad.training.batches import steps_an_epoch
from fastad.training.config import TrainingConfig, usual_options

if TYPE_CHECKING:  # which imports this file
    from fastad.training.stages import StagePlan

LEAST_BATCH = 4  # images from which batch norm still learns something


def fitted(config: TrainingConfig, items: int) -> TrainingConfig:
    """The options of a stage with epochs and batches as ``min_steps`` and ``min_batches`` say.

    ``items``: images of an epoch.
    """
    batch, epochs = config.batch_size, config.epochs
    if config.min_batches > 0:
        batch = min(batch, max(LEAST_BATCH, math.ceil(items / config.min_batches)))
    epochs = max(epochs, math.ceil(config.min_steps / steps_an_epoch(items, batch)))
    return dataclasses.replace(config, batch_size=batch, epochs=epochs)


def step_notes(
    model: AnomalyModel, config: TrainingConfig, plans: Sequence["StagePlan"]
) -> list[str]:
    """Which stages got other batches or epochs, and which have fewer steps than by default."""
    notes = []
    for plan in plans:
        if not plan.stage.trains:
            continue
        of_stage = f"stage {plan.stage.name}: " if len(model.stages) > 1 else ""
        batch, epochs = plan.config.batch_size, plan.config.epochs
        steps = steps_an_epoch(plan.train_items.shape[-1], batch)
        asked = config.for_stage(model, plan.stage)
        if (batch, epochs) != (asked.batch_size, asked.epochs):
            notes.append(
                f"{of_stage}{plan.train_items.shape[-1]} images: batches of {batch}, "
                f"{_count(epochs, 'epoch')} of {_count(steps, 'step')}"
            )
        defaults = {**usual_options(model), **plan.stage.training_defaults}
        least = defaults.get("min_steps", 0)
        if epochs * steps < least:
            notes.append(
                f"{of_stage}{_count(epochs, 'epoch')} of {_count(steps, 'step')} are few: where "
                f"epochs are not given {model.name} takes at least {_count(least, 'step')}"
            )
    return notes


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"
