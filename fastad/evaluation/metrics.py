"""Image and pixel scores of anomaly detection, exact: every distinct score is a threshold.

Arguments come in scikit-learn's order, the truth first. A score that the given labels leave
undefined (only normal or only defective samples) is NaN; what is NaN or infinite itself cannot be
ranked and is refused. "F1 max" is an oracle: it picks its threshold on the test labels, so it
bounds from above what a threshold chosen without labels can reach.

Pixel scores take arrays or tensors (N, H, W). Tensors on a CUDA device are measured there; the maps
do not move to the host (`fastad.evaluation.torch_curve`).
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastad._extension import _C
from fastad._values import is_number, plain
from fastad.evaluation import torch_curve
from fastad.evaluation.curve import Curve, Scores, image_curve

ArrayLike = np.ndarray | Tensor
Values = np.ndarray | Sequence[float]
FPR_RANGE = (1e-5, 1e-4)  # of AUPIMO, as in its paper


def image_metrics(labels: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    """Scores of a detector over whole images.

    Args:
        labels: (N,), 0 normal, 1 defect.
        scores: (N,) finite floats, higher is more anomalous.

    Returns:
        ``image_auroc``, ``image_ap`` (average precision) and ``image_f1_max``. All are NaN when one
        of the classes is missing.

    Raises:
        ValueError: the input is empty, does not match, or is not finite.

    Examples:
        >>> from fastad.evaluation import image_metrics
        >>> metrics = image_metrics(labels=[0, 0, 1, 1], scores=[0.1, 0.4, 0.35, 0.8])
        >>> {name: round(value, 3) for name, value in metrics.items()}
        {'image_auroc': 0.75, 'image_ap': 0.833, 'image_f1_max': 0.8}
    """
    found = image_curve(*checked_images(labels, scores)).scores()
    return {
        "image_auroc": found.auroc(),
        "image_ap": found.average_precision(),
        "image_f1_max": found.f1_max()[0],
    }


def image_auroc(y_true: np.ndarray, y_score: np.ndarray) -> float:
    """``image_auroc`` of `image_metrics`: scikit-learn's ``roc_auc_score``."""
    return image_curve(*checked_images(y_true, y_score)).scores().auroc()


def image_average_precision(y_true: np.ndarray, y_score: np.ndarray) -> float:
    """``image_ap`` of `image_metrics`: scikit-learn's ``average_precision_score``."""
    return image_curve(*checked_images(y_true, y_score)).scores().average_precision()


def image_f1_max(y_true: np.ndarray, y_score: np.ndarray) -> tuple[float, float]:
    """``image_f1_max`` of `image_metrics`, an oracle, and the highest threshold that reaches it."""
    return image_curve(*checked_images(y_true, y_score)).scores().f1_max()


def pixel_metrics(
    masks: ArrayLike,
    maps: ArrayLike,
    *,
    fpr_limit: float = 0.3,
    inside: ArrayLike | None = None,
) -> dict[str, float]:
    """Scores of anomaly maps against ground-truth masks.

    float32 and float64 are compared as they are, float16 (and a tensor's bfloat16) as the float32
    of the same value. C-contiguous bool, float32 and float64 arrays are not copied.

    Args:
        masks: (N, H, W) bool.
        maps: (N, H, W) finite floats, higher is more anomalous.
        fpr_limit: upper limit of the false positive rate of ``aupro``, in (0, 1].
        inside: (H, W) or (N, H, W) bool, the pixels that count. Of a region the part inside is
            left. None for all pixels.

    Returns:
        ``pixel_auroc``, ``pixel_ap`` (average precision), ``pixel_f1_max``, its threshold
        ``pixel_f1_threshold``, and ``aupro``. All are NaN when no pixel, or every pixel, is a
        defect.

    Raises:
        ValueError: the input is empty, does not match, is not finite, is of another type, or has
            2^32 pixels or more. `Evaluation` takes sets that are too large.

    Examples:
        >>> import numpy as np
        >>> from fastad.evaluation import pixel_metrics
        >>> masks = np.array([[[False, False], [True, True]]])
        >>> maps = np.array([[[0.1, 0.4], [0.35, 0.8]]])
        >>> metrics = pixel_metrics(masks, maps)
        >>> {name: round(value, 2) for name, value in metrics.items()}
        {'pixel_auroc': 0.75, 'pixel_ap': 0.83, 'pixel_f1_max': 0.8, 'pixel_f1_threshold': 0.35,
         'aupro': 0.5}
    """
    checked_limit(fpr_limit)
    return scores_of(pixel_curve(masks, maps, inside=inside).scores(fpr_limit))


def pixel_auroc(y_true: ArrayLike, y_score: ArrayLike, *, inside: ArrayLike | None = None) -> float:
    """``pixel_auroc`` of `pixel_metrics`: area under the ROC curve of the pixels of all images."""
    return pixel_curve(y_true, y_score, inside=inside).scores().auroc()


def pixel_average_precision(
    y_true: ArrayLike, y_score: ArrayLike, *, inside: ArrayLike | None = None
) -> float:
    """``pixel_ap`` of `pixel_metrics`: average precision of the pixels of all images."""
    return pixel_curve(y_true, y_score, inside=inside).scores().average_precision()


def pixel_f1_max(
    y_true: ArrayLike, y_score: ArrayLike, *, inside: ArrayLike | None = None
) -> tuple[float, float]:
    """``pixel_f1_max`` of `pixel_metrics`, an oracle, and the highest threshold that reaches it."""
    return pixel_curve(y_true, y_score, inside=inside).scores().f1_max()


def aupro(
    y_true: ArrayLike,
    y_score: ArrayLike,
    *,
    fpr_limit: float = 0.3,
    inside: ArrayLike | None = None,
) -> float:
    """Area under the per-region-overlap curve (Bergmann et al., CVPR 2020, section 5.1).

    A region is a connected component (8 neighbours) of a mask. At each threshold, the overlap is
    the share of a region's pixels at or above it, averaged over all regions. The false positive
    rate is the share of all normal pixels at or above it.

    The curve starts at (0, 0) and has a point for every distinct value in the maps. It is
    integrated by trapezoids up to ``fpr_limit``, with linear interpolation there, and divided by
    ``fpr_limit``.

    Args:
        y_true: masks (N, H, W) bool.
        y_score: maps (N, H, W) finite floats, higher is more anomalous.
        fpr_limit: in (0, 1].
        inside: as of `pixel_metrics`.

    Returns:
        0 to 1. NaN when no pixel, or every pixel, is a defect.

    Raises:
        ValueError: as `pixel_metrics`, or a limit outside (0, 1].

    Examples:
        Two regions, of which one is found: half of the overlap at any false positive rate.

        >>> import numpy as np
        >>> from fastad.evaluation import aupro
        >>> masks = np.zeros((1, 16, 16), dtype=bool)
        >>> masks[0, 2:6, 2:6] = masks[0, 10:14, 10:14] = True
        >>> maps = np.linspace(0.5, 0.6, 256).reshape(1, 16, 16)
        >>> maps[0, 2:6, 2:6] = 1.0
        >>> maps[0, 10:14, 10:14] = 0.0
        >>> aupro(masks, maps)
        0.5
    """
    checked_limit(fpr_limit)
    return pixel_curve(y_true, y_score, inside=inside).scores(fpr_limit).aupro()


def aupimo(
    y_true: ArrayLike,
    y_score: ArrayLike,
    *,
    fpr_range: tuple[float, float] = FPR_RANGE,
    inside: ArrayLike | None = None,
) -> np.ndarray:
    """Area under each image's overlap curve at few false alarms (Bertoldo et al., BMVC 2024).

    At each threshold, the overlap is the share of an image's defect pixels at or above it. The
    false positive rate is that share of the pixels of all normal images, whose masks mark nothing.
    The curve of overlap over the logarithm of the rate is integrated by trapezoids between the
    limits, with a point for every distinct value, and divided by the length.

    The paper, and anomalib, place equally spaced thresholds and take those nearest to the limits.
    This is the value that they approach. Where the highest value is tied, both limits may lie below
    the lowest rate above zero. Then the overlap without any false alarm counts.

    Args:
        y_true: masks (N, H, W) bool.
        y_score: maps (N, H, W) finite floats, higher is more anomalous.
        fpr_range: (low, high) limits of the false positive rate.
        inside: as of `pixel_metrics`.

    Returns:
        (N,), 0 to 1, NaN for normal images. Its ``np.nanmean`` is the score of a detector.

    Raises:
        ValueError: as `pixel_metrics`, limits not in 0 < low < high <= 1, or normal images with
            fewer than 1 / low pixels.

    Examples:
        >>> import numpy as np
        >>> from fastad.evaluation import aupimo
        >>> masks = np.zeros((2, 400, 400), dtype=bool)  # a normal image and a defect
        >>> masks[1, 100:200, 100:200] = True
        >>> maps = np.random.default_rng(0).random((2, 400, 400))
        >>> maps[1, 100:150, 100:200] += 1.0  # half of the defect is found
        >>> aupimo(masks, maps).round(2)
        array([nan, 0.5])
    """
    low, high = fpr_range
    if not 0 < low < high <= 1:
        raise ValueError(f"fpr_range must be (low, high) with 0 < low < high <= 1, got {fpr_range}")
    curve = pixel_curve(y_true, y_score, normal_images=True, inside=inside)
    if inside is not None:
        y_true, y_score, _ = counted(y_true, y_score, inside)
    if curve.normal * low < 1:
        raise ValueError(
            f"fpr_range: a false positive rate of {low:g} needs the maps of normal images to have "
            f"{1 / low:.0f} pixels at least, got {curve.normal}"
        )
    shares = curve.log_shares(fpr_range)
    if _on_device(y_true, y_score):
        return torch_curve.image_means(
            *torch_curve.checked_pixels(y_true, y_score), curve.values, shares
        )
    result = np.full(len(y_score), np.nan)
    for i, (mask, values) in enumerate(zip(*checked_pixels(y_true, y_score), strict=True)):
        if mask.any():
            rows = np.searchsorted(-curve.values, -values[mask].astype(np.float64))
            result[i] = shares[rows].mean()
    return result


def pixel_curve(
    masks: ArrayLike,
    maps: ArrayLike,
    *,
    normal_images: bool = False,
    inside: ArrayLike | None = None,
) -> Curve:
    """The curve of the pixels of masks (N, H, W) bool and maps (N, H, W) finite floats.

    With ``normal_images``, pixels of images with a defect do not count as normal. ``inside`` as of
    `pixel_metrics`. Raises ValueError as that.
    """
    if inside is not None:
        masks, maps, outside = counted(masks, maps, inside)
        if normal_images:
            outside = outside[~masks.any(-1).any(-1)]
        curve = pixel_curve(masks, maps, normal_images=normal_images)
        return dataclasses.replace(curve, normal=curve.normal - int(outside.sum()))
    if _on_device(masks, maps):
        return torch_curve.pixel_curve(masks, maps, normal_images=normal_images)
    masks, maps = checked_pixels(masks, maps)
    return Curve(*_C.pixel_curve(masks, maps, normal_images, torch.get_num_threads()))


def counted(masks: ArrayLike, maps: ArrayLike, inside: ArrayLike) -> tuple[Any, Any, Any]:
    """Masks and maps in which pixels outside are normal and below all others: no curve rises there.

    And how many these are in each image, (N,), by which a curve has too many normal pixels.

    Args:
        masks, maps: as of `pixel_metrics`.
        inside: likewise; ValueError for another shape or type.
    """
    if _on_device(masks, maps):
        masks, maps = torch_curve.checked_pixels(masks, maps)
        inside = torch.as_tensor(inside, device=maps.device)
    else:
        masks, maps = checked_pixels(masks, maps)
        inside = np.asarray(inside)
    is_bool = inside.dtype in (bool, torch.bool)
    if not is_bool or tuple(inside.shape) not in (tuple(maps.shape), tuple(maps.shape[1:])):
        raise ValueError(
            f"inside must be bool, (H, W) or (N, H, W) of maps {tuple(maps.shape)}; got "
            f"{inside.dtype} of shape {tuple(inside.shape)}"
        )
    outside: Any = (~inside).sum((-2, -1))
    if isinstance(maps, Tensor):
        filled = maps.masked_fill(torch.as_tensor(~inside), torch.finfo(maps.dtype).min)
        return masks & inside, filled, outside.expand(len(maps))
    lowest = np.array(np.finfo(maps.dtype).min, maps.dtype)
    return masks & inside, np.where(inside, maps, lowest), np.broadcast_to(outside, len(maps))


def scores_of(scores: Scores) -> dict[str, float]:
    """The scores of `pixel_metrics`."""
    f1, threshold = scores.f1_max()
    return {
        "pixel_auroc": scores.auroc(),
        "pixel_ap": scores.average_precision(),
        "pixel_f1_max": f1,
        "pixel_f1_threshold": threshold,
        "aupro": scores.aupro(),
    }


def checked_images(labels: Values, scores: Values) -> tuple[np.ndarray, np.ndarray]:
    """Labels (N,) as bool and finite scores (N,); ValueError says what is wrong."""
    labels, scores = np.asarray(labels), np.asarray(_widened(scores))
    if labels.ndim != 1 or labels.shape != scores.shape or labels.size == 0:
        raise ValueError(
            "labels and scores must be (N,) with N >= 1, "
            f"got shapes {labels.shape} and {scores.shape}"
        )
    if not np.isin(labels, (0, 1)).all():
        raise ValueError("labels must be 0 (normal) or 1 (defect)")
    if scores.dtype.kind not in "fiu":
        raise ValueError(f"scores must be numbers, got {scores.dtype}")
    if scores.dtype.kind != "f":
        scores = scores.astype(np.float64)
    bad = scores.size - int(np.isfinite(scores).sum())
    if bad:
        raise ValueError(f"scores must be finite, but {bad} of {scores.size} values are NaN or inf")
    return labels.astype(bool), scores


def checked_pixels(masks: ArrayLike, maps: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Masks and maps (N, H, W) as C-contiguous arrays, float16 as float32.

    ValueError says what is wrong; whether values are finite is left to who reads them.
    """
    masks, maps = np.asarray(masks), np.asarray(_widened(maps))
    if masks.ndim != 3 or masks.shape != maps.shape or masks.size == 0:
        raise ValueError(
            "masks and maps must both be (N, H, W) and not empty, "
            f"got shapes {masks.shape} and {maps.shape}"
        )
    if masks.dtype != bool:
        raise ValueError(f"masks must be bool, got {masks.dtype}")
    if maps.dtype.kind != "f" or maps.dtype.itemsize > 8:
        raise ValueError(
            f"maps must be floating point, got {maps.dtype}: float16, float32 and float64 are taken"
        )
    native = np.float64 if maps.dtype.itemsize == 8 else np.float32
    return np.ascontiguousarray(masks), np.ascontiguousarray(maps, dtype=native)


def checked_limit(fpr_limit: float) -> None:
    """ValueError for a limit on the false positive rate outside (0, 1]."""
    limit = plain(fpr_limit)
    if not is_number(limit) or not 0 < limit <= 1:
        raise ValueError(f"fpr_limit must be in (0, 1], got {fpr_limit!r}")


def _widened(values: Any) -> Any:
    """numpy has no bfloat16."""
    is_bfloat16 = isinstance(values, Tensor) and values.dtype == torch.bfloat16
    return values.float() if is_bfloat16 else values


def _on_device(masks: ArrayLike, maps: ArrayLike) -> bool:
    return any(isinstance(array, Tensor) and array.is_cuda for array in (masks, maps))
