"""How well a model in training tells good images from synthesised defects."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset

from fastad.data.folder import Images
from fastad.data.synthesis import TrialDefects
from fastad.data.synthesis.trial import MIN_SIDE
from fastad.evaluation.metrics import image_auroc, pixel_auroc
from fastad.models import Prediction
from fastad.models.roi import RegionOfInterest
from fastad.training.batches import read_batch

LEAST_IMAGES = 5  # held out, from which a choice can be made
DEFECTS = 60  # four of each kind and size
MOST_CLEAN = 60
CELL = 4  # pixels a side: of maps the largest value of each cell counts


class KeptDefects(Dataset):
    """Items of `TrialDefects` in memory: drawn once, the same in every epoch.

    Attributes:
        images: (N, 3, H, W).
        masks: (N, H, W) bool.
    """

    is_fixed = True

    def __init__(self, defects: TrialDefects, seed: int):
        drawn = read_batch(defects, range(len(defects)), seed)
        self.images, self.masks = drawn["image"], drawn["mask"]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"image": self.images[index], "mask": self.masks[index]}


def trial_defects(
    images: Images,
    held_out: Tensor,
    seed: int,
    count: int = DEFECTS,
    roi: RegionOfInterest | None = None,
) -> TrialDefects | None:
    """Defects on the held-out images, inside the region; None for too few or too small images."""
    if len(held_out) < LEAST_IMAGES:
        return None
    shape = read_batch(images, [int(held_out[0])], seed)["image"].shape[1:]
    if len(shape) != 3 or shape[0] != 3 or min(shape[1:]) < MIN_SIDE:
        return None
    return TrialDefects(
        images, held_out.tolist(), count=count, seed=seed, inside=pixels_inside(roi)
    )


def pixels_inside(roi: RegionOfInterest | None) -> np.ndarray | None:
    """The mask (H, W) bool of a region, in host memory; None without one."""
    return None if roi is None else roi.mask.cpu().numpy()


def spread(items: Tensor, most: int) -> Tensor:
    """The items, or so many of them in even distances."""
    count = min(most, len(items))
    return items[torch.arange(count) * len(items) // count]


def cells(maps: Tensor) -> Tensor:
    """Maps or masks (N, H, W) as float32, the largest value of each `CELL`: (N, h, w)."""
    return functional.max_pool2d(maps.float(), CELL, ceil_mode=True)


def quality(
    answer: Callable[[Mapping[str, Any]], Prediction],
    clean: Iterable[Mapping[str, Any]],
    defective: Iterable[Mapping[str, Any]],
    roi: RegionOfInterest | None = None,
) -> Tensor:
    """Mean of the AUROC of images and that of pixels, float64; NaN where an answer is not finite.

    Args:
        answer: of the model, to a batch.
        clean: batches of good images.
        defective: batches with "mask" (N, H, W).
        roi: the pixels that count in the AUROC of pixels; those of the answers' maps are 0 outside.
    """
    scores, maps, masks, labels = [], [], [], []
    for label, batches in ((0, clean), (1, defective)):
        for batch in batches:
            found = answer(batch)
            pooled = cells(found.anomaly_map)
            mask = torch.zeros_like(pooled, dtype=torch.bool)
            if label:
                mask = cells(batch["mask"]) > 0
            scores.append(found.score.float().cpu())
            maps.append(pooled)
            masks.append(mask.to(pooled.device))
            labels += [label] * len(found.score)
    all_scores, all_maps = torch.cat(scores), torch.cat(maps)
    if not (all_scores.isfinite().all() and all_maps.isfinite().all()):
        return torch.tensor(torch.nan, dtype=torch.float64)
    of_images = image_auroc(torch.tensor(labels).numpy(), all_scores.numpy())
    inside = None if roi is None else cells(roi.mask[None])[0].cpu() > 0
    of_pixels = pixel_auroc(torch.cat(masks), all_maps, inside=inside)
    return torch.tensor((of_images + of_pixels) / 2, dtype=torch.float64)
