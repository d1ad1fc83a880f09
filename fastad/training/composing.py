"""Scores of one model that are compared on held-out good images."""

from collections.abc import Callable

import torch

from fastad.data.folder import Images
from fastad.models.map_model import MapModel
from fastad.training.record import TrainingRecord
from fastad.training.source import Source
from fastad.training.stages import StagePlan


def settle(
    model: MapModel, plan: StagePlan, dataset: Images, open_source: Callable[[Images], Source]
) -> None:
    """Compare image and overview, and the maps with what an image is composed of, on the images
    that ``plan`` holds out: where the model has them."""
    if not (model.scales_apart or model.composition) or len(plan.held_out) == 0:
        return
    source = open_source(dataset)
    try:
        with torch.no_grad(), source.autocast():
            held_out = source.passes(plan.held_out, plan.config.batch_size)
            model.settle_scales(held_out)
            model.settle_composition(held_out)
    finally:
        source.close()


def note_composition(model: MapModel, record: TrainingRecord) -> None:
    """Say in the record why the composition does not count, where it is asked for and does not."""
    if model.composition is not None and model.composition.factor == 0:
        why = "the training was stopped" if record.interrupted else "no image is held out"
        record.notes.append(f"composition does not count: {why}")
