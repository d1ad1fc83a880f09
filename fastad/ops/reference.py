"""The four ops in plain PyTorch: the definition that every kernel is tested against.

Any device, any floating dtype, differentiable by autograd. Inputs in half precision are computed
in float32, double stays double, which is what the kernels do too. Nothing here is fused: these
functions are also the baseline of the benchmarks.

By default the distance is that of student-teacher feature pyramid matching (Wang et al., BMVC
2021, eqs. 1-3): half the squared Euclidean distance of the L2-normalised feature vectors of a
pixel, which equals 1 - cos for non-zero vectors.
"""

from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from fastad.ops import _reductions


def _compute_dtype(*tensors: Tensor) -> torch.dtype:
    return torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32


DISTANCES = ("cosine", "l2", "l2_standardized", "cosine_flat")


def distances(
    teacher: list[Tensor],
    student: list[Tensor],
    *,
    distance: str = "cosine",
    mean: Sequence[Tensor] | None = None,
    deviation: Sequence[Tensor] | None = None,
    eps: float = 1e-12,
    weights: Tensor | Sequence[Tensor] | None = None,
) -> list[Tensor]:
    """A distance of the feature vectors of each pixel, times the pixel's weight.

    ``"cosine"``: half the squared distance of the L2-normalised vectors. ``"l2"`` and
    ``"l2_standardized"``: the mean of the squared differences of the channels. ``mean`` and
    ``deviation`` (C_l,) of each level standardise the teacher's channels before.

    Lists of (N, C_l, H_l, W_l) -> list of (N, H_l, W_l). ``weights`` as in `resize_weights`.
    """
    check_has_maps(distance)
    dtype = _compute_dtype(*teacher, *student)
    result = []
    for t, s in _compared(teacher, student, mean, deviation):
        if distance != "cosine":
            result.append((t - s).square().mean(dim=1))  # N H W
            continue
        t_hat, s_hat = F.normalize(t, dim=1, eps=eps), F.normalize(s, dim=1, eps=eps)
        result.append(0.5 * (t_hat - s_hat).square().sum(dim=1))  # N H W
    if weights is None:
        return result
    # A pixel of weight 0 gets no gradient, not even where that of its product is infinite.
    return [
        torch.where(w == 0, d.detach(), d) * w
        for d, w in zip(result, resize_weights(weights, _sizes(result), dtype), strict=True)
    ]


def check_has_maps(distance: str) -> None:
    if distance == "cosine_flat":
        raise ValueError(
            "distance 'cosine_flat' is one number for a whole level: distillation_loss takes it, "
            "and the map of a student trained by it is that of 'cosine'"
        )


def _compared(
    teacher: Sequence[Tensor],
    student: Sequence[Tensor],
    mean: Sequence[Tensor] | None,
    deviation: Sequence[Tensor] | None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """The features (N, C_l, H_l, W_l) of the levels in the type of results, the teacher's
    standardised."""
    dtype = _compute_dtype(*teacher, *student)
    for i, (t, s) in enumerate(zip(teacher, student, strict=True)):
        t, s = t.to(dtype), s.to(dtype)  # N C H W
        if mean is not None:
            t = t - mean[i].to(dtype)[:, None, None]
        if deviation is not None:
            t = t / deviation[i].to(dtype)[:, None, None]
        yield t, s


def flat_distances(
    teacher: list[Tensor],
    student: list[Tensor],
    *,
    mean: Sequence[Tensor] | None = None,
    deviation: Sequence[Tensor] | None = None,
    eps: float = 1e-12,
    weights: Tensor | Sequence[Tensor] | None = None,
) -> list[Tensor]:
    """The distance of each level as one vector: half the squared distance of the normalised ones.

    That is 1 - cos of the flattened levels, as the code of reverse distillation has it (Deng and
    Li, CVPR 2022). ``weights`` as in `resize_weights` are factors of the pixels in all of its sums.

    Lists of (N, C_l, H_l, W_l) -> list of (N,).
    """
    pairs = list(_compared(teacher, student, mean, deviation))
    if weights is not None:
        sizes, dtype = _sizes(student), _compute_dtype(*teacher, *student)
        roots = [w.sqrt().unsqueeze(-3) for w in resize_weights(weights, sizes, dtype)]
        pairs = [(t * root, s * root) for (t, s), root in zip(pairs, roots, strict=True)]
    result = []
    for t, s in pairs:
        t_hat, s_hat = (F.normalize(x.flatten(1), dim=1, eps=eps) for x in (t, s))
        result.append(0.5 * (t_hat - s_hat).square().sum(dim=1))  # N
    return result


def options_of(distance: int, channels: Sequence[Tensor] | None) -> dict[str, Any]:
    """Arguments of a raw call of `torch.ops.fastad` as the functions here take them."""
    options: dict[str, Any] = {"distance": ("cosine", "l2", "cosine_flat")[distance]}
    if channels is not None:
        options |= {"mean": [x[0] for x in channels], "deviation": [1 / x[1] for x in channels]}
    return options


def _sizes(maps: Sequence[Tensor]) -> list[tuple[int, int]]:
    return [(m.shape[-2], m.shape[-1]) for m in maps]


def resize_weights(
    weights: Tensor | Sequence[Tensor], sizes: Sequence[tuple[int, int]], dtype: torch.dtype
) -> list[Tensor]:
    """Spatial weights for levels of ``sizes`` (H_l, W_l): (N, H_l, W_l) or (H_l, W_l).

    One tensor (N, H, W) or (H, W) is resized to each level: a pixel of the level gets the mean of
    all weights that it touches (`torch.nn.functional.adaptive_avg_pool2d`). Of a mask that is its
    share that counts. Where one is negative it is NaN. A sequence of one tensor a level is taken as
    it is.
    """
    if isinstance(weights, Tensor):
        images = weights.to(dtype)[..., None, :, :]  # N 1 H W, or 1 H W
        images = torch.where(images >= 0, images, torch.nan)
        return [F.adaptive_avg_pool2d(images, size).squeeze(-3) for size in sizes]
    return [w.to(dtype) for w in weights]


def aggregate_maps(
    maps: list[Tensor],
    size: tuple[int, int],
    *,
    aggregate: str = "product",
    weights: Sequence[float] | None = None,
    align_corners: bool = False,
    dtype: torch.dtype | None = None,
    smoothing: float = 0.0,
) -> Tensor:
    """Upsample every level bilinearly to ``size`` and join them by product or sum.

    List of (N, H_l, W_l) -> (N, H, W). ``weights`` are exponents of the product, factors of the
    sum; 1 by default. ``"stack"`` does not join: (N, L, H, W). ``align_corners`` as of
    `torch.nn.functional.interpolate`. The result is computed first, then rounded to ``dtype``.
    ``smoothing`` is the sigma of `smoothed`, 0 for none.
    """
    computed = _compute_dtype(*maps)
    weights = [1.0] * len(maps) if weights is None else weights
    result: Tensor | None = None
    levels = [
        F.interpolate(m.to(computed)[:, None], size, mode="bilinear", align_corners=align_corners)
        for m in maps
    ]
    if aggregate == "stack":
        return torch.cat(levels, dim=1).to(dtype or computed)
    for level, weight in zip(levels, weights, strict=True):
        up = level[:, 0]
        if aggregate == "product":
            term = up if weight == 1.0 else up**weight
            result = term if result is None else result * term
        else:
            term = up * weight
            result = term if result is None else result + term
    assert result is not None, "maps must not be empty"
    result = smoothed(result, smoothing) if smoothing > 0 else result
    return result.to(dtype or computed)


def smoothed(maps: Tensor, sigma: float) -> Tensor:
    """Maps (N, H, W) under a Gaussian of ``sigma`` > 0 pixels, cut at 3 sigma; edges are repeated.

    In the maps' own precision, under autocast too.
    """
    radius = max(round(3 * sigma), 1)
    steps = torch.arange(-radius, radius + 1, device=maps.device, dtype=maps.dtype)
    kernel = torch.exp(-0.5 * (steps / sigma) ** 2)
    kernel = kernel / kernel.sum()
    maps = F.pad(maps[:, None], (radius,) * 4, mode="replicate")
    with torch.autocast(maps.device.type, enabled=False):
        maps = F.conv2d(maps, kernel.view(1, 1, 1, -1))
        return F.conv2d(maps, kernel.view(1, 1, -1, 1))[:, 0]


def anomaly_map(
    teacher: list[Tensor],
    student: list[Tensor],
    size: tuple[int, int],
    *,
    aggregate: str = "product",
    level_weights: Sequence[float] | None = None,
    weights: Tensor | Sequence[Tensor] | Sequence[float] | None = None,
    distance: str = "cosine",
    mean: Sequence[Tensor] | None = None,
    deviation: Sequence[Tensor] | None = None,
    eps: float = 1e-12,
    align_corners: bool = False,
    dtype: torch.dtype | None = None,
    smoothing: float = 0.0,
) -> Tensor:
    """``aggregate_maps(distances(teacher, student), size)``: features -> (N, H, W).

    ``weights`` are spatial, as in `resize_weights`. A list of numbers stands for ``level_weights``.

    Examples:
        >>> import torch
        >>> from fastad import ops
        >>> teacher = [torch.rand(2, 64, 32, 32), torch.rand(2, 128, 16, 16)]
        >>> student = [torch.rand(2, 64, 32, 32), torch.rand(2, 128, 16, 16)]
        >>> expected = ops.reference.anomaly_map(teacher, student, (128, 128))
        >>> torch.allclose(ops.anomaly_map(teacher, student, (128, 128)), expected)
        True
    """
    numbers, spatial = tell_weights(level_weights, weights)
    maps = distances(
        teacher,
        student,
        distance=distance,
        mean=mean,
        deviation=deviation,
        eps=eps,
        weights=spatial,
    )
    return aggregate_maps(
        maps,
        size,
        aggregate=aggregate,
        weights=numbers,
        align_corners=align_corners,
        dtype=dtype,
        smoothing=smoothing,
    )


SCORES = ("maximum", "top_share")


def score(anomaly_map: Tensor, score: str, share: float = 0.01) -> Tensor:
    """The score of each image of a map (N, H, W): (N,).

    ``"maximum"``: the highest pixel. ``"top_share"``: the mean of the highest pixels, this
    ``share`` of all, at least one.
    """
    pixels = anomaly_map.flatten(1)
    if score == "maximum":
        return pixels.amax(dim=1)
    return pixels.topk(count_of(share, pixels.shape[1])).values.mean(dim=1)


def count_of(share: float, pixels: int) -> int:
    """How many pixels a share of them is, at least one."""
    return max(round(share * pixels), 1)


def tell_weights(
    level_weights: Sequence[float] | None,
    weights: Tensor | Sequence[Tensor] | Sequence[float] | None,
) -> tuple[Sequence[float] | None, Tensor | Sequence[Tensor] | None]:
    """Numbers of the levels, and spatial weights, of the arguments of `anomaly_map`."""
    if isinstance(weights, Tensor):
        numbers = weights.dim() == 1
    elif isinstance(weights, Sequence):
        numbers = not any(isinstance(w, Tensor) and w.dim() > 0 for w in weights)
    else:
        numbers = weights is not None  # a numpy array
    if not numbers:
        return level_weights, cast("Tensor | Sequence[Tensor] | None", weights)
    if level_weights is not None:
        raise ValueError("weights is a list of numbers, which level_weights is too: give one")
    return cast("Sequence[float]", weights), None


def distillation_loss(
    teacher: list[Tensor],
    student: list[Tensor],
    *,
    level_weights: Sequence[float] | None = None,
    weights: Tensor | Sequence[Tensor] | None = None,
    reduction: str = "mean",
    hard: float | None = None,
    distance: str = "cosine",
    mean: Sequence[Tensor] | None = None,
    deviation: Sequence[Tensor] | None = None,
    eps: float = 1e-12,
) -> Tensor:
    """Weighted distances over positions and batch.

    ``"mean"``: the levels' means, weighted and summed, a scalar. ``"sum"``: the levels' sums,
    likewise. ``"none"``: the weighted means of the levels, (L,). ``"image"``: of each image the sum
    of the weighted means of the levels, (N,). With spatial ``weights``, as in
    `resize_weights`, the mean of an image is ``sum(w * d) / sum(w)``, or 0 where all are 0. With
    ``hard`` only the distances at or above this quantile count (`is_hard` in `_reductions.py`), and
    a mean is that of the batch.
    ``"cosine_flat"`` is that of `flat_distances`: means and sums are over the batch.
    """
    if distance == "cosine_flat":
        flat = flat_distances(
            teacher, student, mean=mean, deviation=deviation, eps=eps, weights=weights
        )
        return _reductions.join_images(flat, level_weights, reduction)
    maps = distances(
        teacher,
        student,
        distance=distance,
        mean=mean,
        deviation=deviation,
        eps=eps,
        weights=weights if hard is None else None,
    )
    of_levels = None
    if weights is not None:
        of_levels = resize_weights(weights, _sizes(maps), maps[0].dtype)
    if hard is not None:
        levels = _reductions.hard_levels(maps, hard, of_levels, reduction)
    elif reduction == "image" or (of_levels is not None and reduction != "sum"):
        levels = _reductions.image_means(maps, of_levels)
        if reduction != "image":
            levels = [level.mean() for level in levels]
    else:
        levels = [m.sum() if reduction == "sum" else m.mean() for m in maps]
    return _reductions.join_levels(levels, level_weights, reduction)
