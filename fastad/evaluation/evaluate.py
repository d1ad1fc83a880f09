"""Evaluation of a detector on a labelled test set, batch by batch."""

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from fastad.data import (
    ImageError,
    Sample,
    image_shape,
    iterate_batches,
    read_ground_truth,
    read_image,
    resize_masks,
)
from fastad.evaluation.accumulator import Evaluation
from fastad.evaluation.conclusions import conclusions, missing_classes
from fastad.evaluation.pixels import MEMORY_BYTES

NAMED = 20  # files in a warning
ASPECT_TOLERANCE = 0.05  # a mask may be smaller than its image, but not of another shape

Predict = Callable[[Tensor], tuple[np.ndarray, np.ndarray]]
Observe = Callable[[Sample, float, np.ndarray, np.ndarray | None], None]
Read = Callable[[Path], Tensor]
Skip = Callable[[Sample, Exception], None]
# Indices of some images, their scores (n,) and maps (n, h, w).
Answers = tuple[list[int], np.ndarray, np.ndarray]


def answered(
    predict: Predict,
    samples: Sequence[Sample],
    size: tuple[int, int],
    batch_size: int,
    read: Read,
    skip: Skip | None,
) -> Iterator[Answers]:
    """What a detector says of test images, batch by batch; arguments and errors as `evaluate`."""
    batches = iterate_batches(
        [sample.path for sample in samples],
        size,
        batch_size,
        read,
        skip=None if skip is None else lambda i, error: skip(samples[i], error),
    )
    for positions, batch in batches:
        yield positions, *_run(predict, batch)


def evaluate(
    predict: Predict,
    samples: Sequence[Sample],
    size: tuple[int, int],
    *,
    threshold: float | None = None,
    promised: float | None = None,
    batch_size: int = 32,
    progress: Callable[[int, int], None] | None = None,
    skip: Skip | None = None,
    observe: Observe | None = None,
    memory_bytes: int = MEMORY_BYTES,
    read: Read = read_image,
    inside: np.ndarray | None = None,
    answers: Callable[..., Iterator[Answers]] = answered,
) -> dict:
    """Scores of a detector over test samples, overall and for each defect type.

    The samples choose nothing but the "F1 max" scores. These pick their threshold on the labels, so
    they bound from above what a threshold can reach.

    Pixel scores leave out defects without ground truth. A score without both classes is NaN, and a
    warning says which and why.

    Args:
        predict: uint8 images (N, 3, H, W) at ``size`` -> scores (N,) and anomaly maps (N, h, w).
        samples: the test images. See `fastad.data.test_samples`. Ground truth is resized to the
            maps by nearest neighbour.
        size: (H, W) of the images that ``predict`` gets, in pixels.
        threshold: an image with a higher score counts as called a defect. None for no such counts.
        promised: largest share of normal images above the threshold that it was chosen for. None
            where nothing is promised. The conclusions say where it is broken.
        batch_size: images in one call of ``predict``.
        progress: is called with the number of images done and of all.
        skip: is called with a sample whose image or mask cannot be used and the error. The sample
            is then left out. None raises the error.
        observe: is called for each image with its sample, score, anomaly map (h, w), and ground
            truth (h, w) bool, or None for a defect without. The arrays are valid during the call
            only.
        memory_bytes: sorted pixels are kept in memory up to this, and beyond it in a temporary
            file. See `Evaluation`.
        read: turns the file of an image into uint8 (3, h, w).
        inside: (h, w) bool, the pixels of the maps that count, as of a region of interest. Ground
            truth outside does not count. A defect that lies wholly outside counts in the scores of
            images as it is labelled, and a warning names the files. None for all pixels.
        answers: runs ``predict`` over the images, in their order, as `answered` does.

    Returns:
        The keys of `image_metrics` and `pixel_metrics`, and

        - ``image_auroc_interval``: (low, high), 95 % bootstrap interval
        - ``per_defect``: {type: the same scores over the images of this type and all normal ones}
        - ``counts``: {"normal", "defect", "defect_without_mask", "skipped"}
        - ``at_threshold``, with a threshold: {"threshold", "false_positive_rate",
          "true_positive_rate"}
        - ``conclusions``: sentences on what must not be overlooked, such as a detector no better
          than chance, or a broken promise. See `fastad.evaluation.conclusions`.

    Raises:
        ValueError: there are no samples, or none can be read. Or a score or map is not finite. The
            message names the image.
        ImageError: an image or mask cannot be read, or a mask marks nothing.
        OSError: a file cannot be opened, or the disk of temporary files is full.

    Examples:
        Measure a detector of your own. This one looks for dark pixels.

        >>> from fastad.data import test_samples
        >>> from fastad.data.rendered.products import Counts, write_dataset
        >>> from fastad.evaluation import evaluate
        >>> def predict(images):
        ...     maps = 255 - images.float().mean(dim=1).numpy()
        ...     return maps.max(axis=(1, 2)), maps
        >>> write_dataset("denim", "denim", Counts(train=0, test_good=2, test_defect=1))
        >>> metrics = evaluate(predict, test_samples("denim"), size=(64, 64))
        >>> list(metrics["per_defect"])
        ['bleach', 'hole', 'missing yarn']
        >>> metrics["counts"]
        {'normal': 2, 'defect': 3, 'defect_without_mask': 0, 'skipped': 0}
    """
    if not samples:
        raise ValueError("samples: at least one test image is needed")
    evaluation = Evaluation(memory_bytes=memory_bytes, inside=inside)
    wholly_outside: list[Path] = []
    labels: list[int] = []
    scores: list[float] = []
    skipped = large_masks = 0

    def leave_out(sample: Sample, error: Exception) -> None:
        nonlocal skipped
        if skip is None:
            raise error
        skipped += 1
        skip(sample, error)

    leaves_out = None if skip is None else leave_out
    for positions, own_scores, maps in answers(
        predict, samples, size, batch_size, read, leaves_out
    ):
        for position, score, anomaly_map in zip(positions, own_scores, maps, strict=True):
            sample = samples[position]
            try:
                mask = _ground_truth(sample, anomaly_map.shape)
            except (ImageError, OSError) as error:
                leave_out(sample, error)
                continue
            if inside is not None and mask is not None and mask.any():
                mask = mask & inside
                if not mask.any():
                    wholly_outside.append(sample.path)
            _require_finite(sample, score, anomaly_map)
            labels.append(sample.label)
            scores.append(float(score))
            if observe is not None:
                observe(sample, float(score), anomaly_map, mask)
            masks = None if mask is None else mask[None]
            large_masks += mask is not None and bool(mask.mean() > 0.5)
            evaluation.update(
                masks, anomaly_map[None], labels[-1:], scores[-1:], [sample.defect_type]
            )
        if progress is not None:
            progress(positions[-1] + 1, len(samples))
    if not labels:
        raise ValueError(f"samples: none of the {len(samples)} test images can be read")
    if progress is not None:
        progress(len(samples), len(samples))

    result = evaluation.compute()
    result["counts"]["skipped"] = skipped
    for text in [*_reservations(result), *_said_of_outside(wholly_outside)]:
        warnings.warn(text, stacklevel=2)
    if threshold is not None:
        called, truth = np.array(scores) > float(threshold), np.array(labels)
        result["at_threshold"] = {
            "threshold": float(threshold),
            "false_positive_rate": _mean(called[truth == 0]),
            "true_positive_rate": _mean(called[truth == 1]),
        }
    result["conclusions"] = conclusions(result, large_masks=large_masks, promised=promised)
    return result


def _run(predict: Predict, batch: Tensor) -> tuple[np.ndarray, np.ndarray]:
    scores, maps = map(np.asarray, predict(batch))
    if scores.shape != (len(batch),) or maps.ndim != 3 or len(maps) != len(batch):
        raise ValueError(
            f"predict must give scores ({len(batch)},) and maps ({len(batch)}, h, w) for "
            f"{len(batch)} images, got shapes {scores.shape} and {maps.shape}"
        )
    return scores, maps


def _ground_truth(sample: Sample, size: tuple[int, int]) -> np.ndarray | None:
    """Mask (H, W) of a sample, empty for a normal one; None for a defect without ground truth."""
    if sample.label == 0:
        return np.zeros(size, dtype=bool)
    if not sample.mask_paths:
        return None
    mask = read_ground_truth(sample.mask_paths)
    if not mask.any():
        names = ", ".join(str(path) for path in sample.mask_paths)
        raise ImageError(f"{names}: the mask of a defect marks no pixel")
    shape, own = image_shape(sample.path), tuple(mask.shape)
    if abs(math.log(own[0] * shape[1] / (own[1] * shape[0]))) > ASPECT_TOLERANCE:
        raise ImageError(
            f"{sample.mask_paths[0]}: the mask of {own[0]}x{own[1]} pixels is not of the shape of "
            f"its image, {shape[0]}x{shape[1]}"
        )
    return resize_masks(mask, size).numpy()


def _require_finite(sample: Sample, score: float, anomaly_map: np.ndarray) -> None:
    if not math.isfinite(score):
        raise ValueError(f"{sample.path}: the model's score is {score}, which cannot be ranked")
    bad = anomaly_map.size - int(np.isfinite(anomaly_map).sum())
    if bad:
        raise ValueError(
            f"{sample.path}: {bad} of {anomaly_map.size} values of the model's anomaly map are "
            "NaN or infinite"
        )


def _reservations(result: dict) -> list[str]:
    """What a reader of the scores has to know: what is left out, what is undefined and why."""
    counts = result["counts"]
    texts = missing_classes(counts)
    if not counts["defect"]:
        return texts
    rows = {"all defects": result, **result["per_defect"]}
    names = [name for name, row in rows.items() if math.isnan(row["aupro"])]
    without = counts["defect_without_mask"]
    if without == counts["defect"]:
        texts.append(
            f"none of the {without} defect images has a ground-truth mask: pixel scores are "
            "undefined (NaN)"
        )
    elif without:
        undefined = f"; those of {', '.join(names)} are undefined (NaN)" if names else ""
        texts.append(
            f"{without} of {counts['defect']} defect images have no ground-truth mask and are "
            f"left out of the pixel scores{undefined}"
        )
    elif names:
        texts.append(
            f"pixel scores of {', '.join(names)} are undefined (NaN): no pixel, or every pixel, "
            "is marked as a defect in their ground truth"
        )
    return texts


def _said_of_outside(paths: Sequence[Path]) -> list[str]:
    if not paths:
        return []
    names = ", ".join(map(str, paths[:NAMED])) + ", ..." * (len(paths) > NAMED)
    return [
        f"the defects of {len(paths)} images lie wholly outside the region of interest: the scores "
        f"of images count them as defects all the same: {names}"
    ]


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else float("nan")
