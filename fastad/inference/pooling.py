"""A score that is the mean of an area: the pooling of a model whose images are known."""

import dataclasses
from collections.abc import Iterable

from fastad.inference.min_area import share_of
from fastad.models import AnomalyModel
from fastad.models.map_options import AREA


def settle_pooling(models: Iterable[AnomalyModel], shape: tuple[int, int] | None) -> None:
    """Turn a pooling that is given as an area into a share of the pixels that count.

    Args:
        models: untrained, with their region of interest.
        shape: (height, width) of the original images, None where they differ.

    Raises:
        ValueError: the area cannot be one of these images.
    """
    for model in models:
        area = getattr(model.config, "pooling", None)
        if not isinstance(area, str) or AREA.fullmatch(area) is None:
            continue
        counts = 1.0 if model.roi is None else float(model.roi.mask.float().mean())
        share = share_of(area, shape, counts=counts, name="pooling")
        pooling = "maximum" if share is None else share / counts
        model.config = dataclasses.replace(model.config, pooling=pooling)
