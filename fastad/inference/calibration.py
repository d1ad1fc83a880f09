"""Scores of held-out normal images, from which thresholds and p-values are made."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fastad.data.appearance import STATISTICS, appearance
from fastad.data.folder import Images
from fastad.inference.predictor import Predictor
from fastad.inference.threshold import raised


def calibration_scores(
    predictor: Predictor, dataset: Images, held_out: list[int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores and maxima of the anomaly maps of some images of a data set, (n,) float64 each, both
    raised by a hundred-thousandth so that rounding decides nothing. And what the images look like,
    (n, 5), see `appearance`.

    The items of the data set are images (3, H, W) at the predictor's size, or dicts with one as
    "image".
    """
    scores, maxima = [np.empty(0)], [np.empty(0)]
    seen = [np.empty((0, len(STATISTICS)))]
    for start in range(0, len(held_out), predictor.batch_size):
        images = stacked(dataset, held_out[start : start + predictor.batch_size])
        result = predictor.predict_batch(images)
        scores.append(result.score.astype(np.float64))
        seen.append(appearance(images).cpu().numpy())
        maxima.append(result.anomaly_map.max(axis=(1, 2)).astype(np.float64))
    return raised(np.concatenate(scores)), raised(np.concatenate(maxima)), np.concatenate(seen)


def stacked(dataset: Images, indices: Sequence[int]) -> Tensor:
    """Images of such a data set: (n, 3, H, W)."""
    items = [dataset[index] for index in indices]
    return torch.stack([item["image"] if isinstance(item, dict) else item for item in items])
