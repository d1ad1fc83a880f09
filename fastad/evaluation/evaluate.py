"""Evaluation of a detector on a labelled test set."""

import warnings
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from torch import Tensor

from fastad.data.folder import Sample, iterate_batches
from fastad.data.images import ImageError, read_mask, resize_masks
from fastad.evaluation.metrics import image_metrics, pixel_metrics

Predict = Callable[[Tensor], tuple[np.ndarray, np.ndarray]]


def evaluate(
    predict: Predict,
    samples: Sequence[Sample],
    size: tuple[int, int],
    *,
    threshold: float | None = None,
    batch_size: int = 32,
    progress: Callable[[int, int], None] | None = None,
) -> dict:
    """Scores of a detector over test samples, overall and for every defect type.

    predict: uint8 images (N, 3, H, W) at ``size`` -> scores (N,), anomaly maps (N, h, w). Ground
    truth is resized to the maps by nearest neighbour. Returns the keys of ``image_metrics`` and
    ``pixel_metrics`` and

    - ``per_defect``: {type: the same scores over the images of this type and all normal ones}
    - ``counts``: {"normal", "defect", "defect_without_mask"}
    - with ``threshold``, ``at_threshold``: {"threshold", "false_positive_rate",
      "true_positive_rate"}, an image being called a defect above the threshold.

    Pixel scores leave out defects without ground truth (a warning says how many); they are NaN
    when none has any, and image scores are NaN when a class is missing. ``progress`` is called
    with the images done and their number. Raises ValueError for an empty list and ImageError for
    files that cannot be read or a mask that marks nothing.
    """
    if not samples:
        raise ValueError("samples: at least one test image is needed")
    scores, maps, masks = [], [], []
    batches = iterate_batches([s.path for s in samples], size, batch_size)
    for start, batch in _numbered(batches):
        batch_scores, batch_maps = predict(batch)
        scores.append(np.asarray(batch_scores))
        maps.append(np.asarray(batch_maps))
        for sample in samples[start : start + len(batch)]:
            masks.append(_ground_truth(sample, maps[-1].shape[1:]))
        if progress is not None:
            progress(start + len(batch), len(samples))
    scores, maps, masks = np.concatenate(scores), np.concatenate(maps), np.stack(masks)

    labels = np.array([s.label for s in samples])
    types = np.array([s.defect_type for s in samples])
    with_truth = np.array([s.label == 0 or s.mask_path is not None for s in samples])
    missing = int((~with_truth).sum())
    if missing:
        warnings.warn(
            f"{missing} of {int(labels.sum())} defect images have no ground-truth mask and are "
            "left out of the pixel scores",
            stacklevel=2,
        )

    def measure(chosen: np.ndarray) -> dict[str, float]:
        pixels = chosen & with_truth
        result = image_metrics(labels[chosen], scores[chosen])
        if not pixels.any():  # every image is a defect without ground truth
            nothing = pixel_metrics(np.zeros((1, 1, 1), bool), np.zeros((1, 1, 1)))
            return result | nothing
        return result | pixel_metrics(masks[pixels], maps[pixels])

    result = measure(np.ones(len(samples), dtype=bool))
    result["per_defect"] = {
        str(name): measure((types == name) | (labels == 0))
        for name in dict.fromkeys(types[labels == 1])
    }
    result["counts"] = {
        "normal": int((labels == 0).sum()),
        "defect": int(labels.sum()),
        "defect_without_mask": missing,
    }
    if threshold is not None:
        called = scores > threshold
        result["at_threshold"] = {
            "threshold": float(threshold),
            "false_positive_rate": _mean(called[labels == 0]),
            "true_positive_rate": _mean(called[labels == 1]),
        }
    return result


def _numbered(batches: Iterator[Tensor]) -> Iterator[tuple[int, Tensor]]:
    start = 0
    for batch in batches:
        yield start, batch
        start += len(batch)


def _ground_truth(sample: Sample, size: tuple[int, int]) -> np.ndarray:
    if sample.mask_path is None:
        return np.zeros(size, dtype=bool)
    mask = read_mask(sample.mask_path)
    if not mask.any():
        raise ImageError(f"{sample.mask_path}: the mask of a defect marks no pixel")
    return resize_masks(mask, size).numpy()


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else float("nan")
