"""Simple statistics of images, by which a dark, a blurred or a foreign one is told from others."""

import numpy as np
import torch
from torch import Tensor

from fastad._threads import own_threads
from fastad.data.facts import shape_and_depth

STATISTICS = ("brightness", "contrast", "sharpness", "colour", "range")
ROWS = 64  # of an image's rows so many are looked at, spread evenly
EDGES = 0.02  # of the grey levels are darker, and as many brighter, than the range


def appearance(images: Tensor) -> Tensor:
    """The `STATISTICS` of images (N, 3, H, W), uint8 or floating in [0, 1]: (N, 5) float32.

    Brightness is the mean grey level, contrast the deviation of grey levels, range the span of all
    but the `EDGES`, colour the mean difference of the channels, each as a share of white. Sharpness
    is the logarithm of the mean step between neighbours over the contrast: neither the lamp nor
    the exposure changes it.
    """
    if len(images) == 0:
        return torch.zeros(0, len(STATISTICS), device=images.device)
    at_once = 4 if images.device.type == "cpu" else len(images)  # so few stay in the caches
    with own_threads(images.device.type == "cpu"):
        return torch.cat([_appearance(part) for part in images.split(at_once)])


def _appearance(images: Tensor) -> Tensor:
    white = 255.0 if images.dtype == torch.uint8 else 1.0
    rows = images[:, :, :: _step(images.shape[2], ROWS)].float()
    grey = rows.sum(dim=1) / (3 * white)
    brightness = grey.mean(dim=(1, 2))
    contrast = (grey - brightness[:, None, None]).square_().mean(dim=(1, 2)).sqrt()
    steps = torch.zeros_like(contrast)
    if grey.shape[2] > 1:
        steps = grey.diff(dim=2).abs_().mean(dim=(1, 2))
    sharpness = ((steps + 1e-3) / (contrast + 1e-3)).log()
    part = rows[..., :: _step(rows.shape[3], ROWS)]
    colour = (part.amax(dim=1) - part.amin(dim=1)).mean(dim=(1, 2)) / white
    few = grey[:, :: _step(grey.shape[1], 16), :: _step(grey.shape[2], 32)]  # sorting takes long
    levels = few.flatten(1).sort(dim=1).values
    edge = int(EDGES * levels.shape[1])
    span = levels[:, levels.shape[1] - 1 - edge] - levels[:, edge]
    return torch.stack([brightness, contrast, sharpness, colour, span], dim=1)


def _step(length: int, wanted: int) -> int:
    return max(1, length // wanted)


def log_aspects(items: object, count: int) -> np.ndarray:
    """Logarithms of width by height of ``count`` items, by header or shape; NaN where unknown."""
    found = np.full(count, np.nan)
    if isinstance(items, (np.ndarray, Tensor)) and items.ndim != 4:
        return found
    if not isinstance(items, (list, tuple, np.ndarray, Tensor)) or len(items) != count:
        return found
    for i in range(count):
        shape, _ = shape_and_depth(items[i])
        if shape is not None:
            found[i] = np.log(shape[1] / shape[0])
    return found
