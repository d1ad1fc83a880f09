"""A region of interest for a detector, before its training or after it."""

import copy
import dataclasses
import logging
from collections.abc import Sequence
from typing import Any

import torch

from fastad.data.roi import Roi, read_roi, roi_of
from fastad.data.training_set import TrainingSet
from fastad.inference.artifact import Artifact
from fastad.models import AnomalyModel
from fastad.models.map_model import MapModel

log = logging.getLogger("fastad")


def set_for_training(
    roi: Roi, source: TrainingSet, models: Sequence[AnomalyModel]
) -> dict[str, str]:
    """Let a region alone count in untrained models; gives what their records say of it.

    Raises ValueError as `roi_of`.
    """
    mask = roi_of(roi, source)
    log.info(f"region of interest: {float(mask.float().mean()):.2%} of an image counts")
    for model in models:
        model.set_roi(mask)
    return {"roi": roi.name}


def narrowed(artifact: Artifact, roi: Any) -> Artifact:
    """A detector with a copy of its model, of which a region alone counts; thresholds as they were.

    Args:
        artifact: the detector. Where it has a region already, what is in both counts.
        roi: as of `fastad.data.roi.read_roi`.

    Raises:
        ValueError: as `Roi.at`, the two regions have no pixel in common, or a model that must know
            its region from the training on.
    """
    given, model = read_roi(roi), artifact.model
    composes = isinstance(model, MapModel) and model.composition is not None
    if composes or (model.learns_roi and model.roi is None):
        what = f"{model.name} with composition=true" if composes else model.name
        raise ValueError(
            f"roi: {what} has to know its region of interest in the training: train it with the "
            "region"
        )
    levels = artifact.region_levels
    mask = given.at(artifact.image_size, None if levels is None else levels.image_shape)
    if model.roi is not None:
        mask &= model.roi.mask.cpu()
        if not mask.any():
            raise ValueError(
                f"roi: {given.name} has no pixel in common with the detector's own region"
            )
    model = copy.deepcopy(model)
    with torch.no_grad():
        model.set_roi(mask)
    return dataclasses.replace(artifact, model=model)


def what_it_promises(artifact: Artifact) -> str:
    """What thresholds promise that were chosen before a detector was `narrowed`."""
    if artifact.threshold is None:
        return "roi: there is no threshold"
    if artifact.model.falls_with_roi():
        held = "no score rises, so there are at most as many false alarms as it promises"
    else:
        held = "its promise does not hold for the scores of this region"
    return (
        f"roi: the threshold was chosen without this region: {held}. fastad calibrate --roi "
        "chooses another one from fresh good images"
    )
