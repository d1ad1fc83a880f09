"""Pictures of a model that show why images got their scores."""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from fastad.engine.precision import autocast
from fastad.models import AnomalyModel


def explained(
    model: AnomalyModel, batches: Iterable[Tensor], device: torch.device, dtype: torch.dtype
) -> dict[str, np.ndarray]:
    """What `AnomalyModel.explain` draws of batches (N, 3, H, W), uint8 or floating in [0, 1].

    Pictures by name, each (N, H, W, 3) uint8; empty without images. ``dtype`` is of convolutions.
    """
    found: dict[str, list[np.ndarray]] = {}
    for images in batches:
        batch = images.to(device)
        batch = batch.to(torch.float32, memory_format=torch.channels_last) / (
            255 if batch.dtype == torch.uint8 else 1
        )
        with torch.autocast(device.type, *autocast(dtype)):
            pictures = model.explain(batch)
        for name, picture in pictures.items():
            levels = (picture.float().clamp(0, 1) * 255).round().to(torch.uint8)
            found.setdefault(name, []).append(levels.permute(0, 2, 3, 1).cpu().numpy())
    return {name: np.concatenate(parts) for name, parts in found.items()}
