"""What images are composed of (`fastad.models.composition`), beside the score of the maps."""

from collections.abc import Callable

import torch

from fastad.data.folder import Images
from fastad.models.map_model import MapModel
from fastad.training.record import TrainingRecord
from fastad.training.source import Source
from fastad.training.stages import StagePlan


def settle_composition(
    model: MapModel, plan: StagePlan, dataset: Images, open_source: Callable[[Images], Source]
) -> None:
    """Compare the composition, where the model has one, with the score of the maps on the images
    that ``plan`` holds out."""
    if model.composition is None or len(plan.held_out) == 0:
        return
    source = open_source(dataset)
    try:
        with torch.no_grad(), source.autocast():
            model.settle_composition(source.passes(plan.held_out, plan.config.batch_size))
    finally:
        source.close()


def note_composition(model: MapModel, record: TrainingRecord) -> None:
    """Say in the record why the composition does not count, where it is asked for and does not."""
    if model.composition is not None and model.composition.factor == 0:
        why = "the training was stopped" if record.interrupted else "no image is held out"
        record.notes.append(f"composition does not count: {why}")
