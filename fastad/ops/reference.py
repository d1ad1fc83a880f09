"""The four ops in plain PyTorch: the definition that every kernel is tested against.

Any device, any floating dtype, differentiable by autograd. Inputs in half precision are computed
in float32, double stays double, which is what the kernels do too. Nothing here is fused: these
functions are also the baseline of the benchmarks.

The distance is that of student-teacher feature pyramid matching (Wang et al., BMVC 2021,
eqs. 1-3): half the squared Euclidean distance of the L2-normalised feature vectors of a pixel,
which equals 1 - cos for non-zero vectors.
"""

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor


def _compute_dtype(*tensors: Tensor) -> torch.dtype:
    return torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32


def distances(
    teacher: list[Tensor],
    student: list[Tensor],
    *,
    eps: float = 1e-12,
    weights: Tensor | Sequence[Tensor] | None = None,
) -> list[Tensor]:
    """Half the squared distance of normalised features, per pixel, times the pixel's weight.

    Lists of (N, C_l, H_l, W_l) -> list of (N, H_l, W_l). ``weights`` as in `resize_weights`.
    """
    dtype = _compute_dtype(*teacher, *student)
    result = []
    for t, s in zip(teacher, student, strict=True):
        t_hat = F.normalize(t.to(dtype), dim=1, eps=eps)  # N C H W
        s_hat = F.normalize(s.to(dtype), dim=1, eps=eps)
        result.append(0.5 * (t_hat - s_hat).square().sum(dim=1))  # N H W
    if weights is None:
        return result
    # A pixel of weight 0 gets no gradient, not even where that of its product is infinite.
    return [
        torch.where(w > 0, d, d.detach()) * w
        for d, w in zip(result, resize_weights(weights, _sizes(result), dtype), strict=True)
    ]


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
) -> Tensor:
    """Upsample every level bilinearly to ``size`` and join them by product or sum.

    List of (N, H_l, W_l) -> (N, H, W). ``weights`` are exponents of the product, factors of the
    sum; 1 by default.
    """
    dtype = _compute_dtype(*maps)
    weights = [1.0] * len(maps) if weights is None else weights
    result: Tensor | None = None
    for level, weight in zip(maps, weights, strict=True):
        level = level.to(dtype)[:, None]
        up = F.interpolate(level, size=size, mode="bilinear", align_corners=False)[:, 0]
        if aggregate == "product":
            term = up if weight == 1.0 else up**weight
            result = term if result is None else result * term
        else:
            term = up * weight
            result = term if result is None else result + term
    assert result is not None, "maps must not be empty"
    return result


def anomaly_map(
    teacher: list[Tensor],
    student: list[Tensor],
    size: tuple[int, int],
    *,
    aggregate: str = "product",
    level_weights: Sequence[float] | None = None,
    weights: Tensor | Sequence[Tensor] | Sequence[float] | None = None,
    eps: float = 1e-12,
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
    maps = distances(teacher, student, eps=eps, weights=spatial)
    return aggregate_maps(maps, size, aggregate=aggregate, weights=numbers)


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
    eps: float = 1e-12,
) -> Tensor:
    """Weighted distances over positions and batch.

    ``"mean"``: the levels' means, weighted and summed, a scalar. ``"sum"``: the levels' sums,
    likewise. ``"none"``: the weighted means of the levels, (L,). With spatial ``weights``, as in
    `resize_weights`, the mean of an image is ``sum(w * d) / sum(w)``, or 0 where all are 0.
    """
    maps = distances(teacher, student, eps=eps, weights=weights)
    factors = [1.0] * len(maps) if level_weights is None else level_weights
    join = torch.sum if reduction == "sum" else torch.mean
    if weights is not None and reduction != "sum":
        dtype = maps[0].dtype
        totals = [  # N
            w.expand_as(m).sum(dim=(1, 2))
            for w, m in zip(resize_weights(weights, _sizes(maps), dtype), maps, strict=True)
        ]
        maps = [
            m.sum(dim=(1, 2)) / torch.where(total > 0, total, 1)
            for m, total in zip(maps, totals, strict=True)
        ]
    levels = torch.stack([join(m) * w for m, w in zip(maps, factors, strict=True)])
    return levels if reduction == "none" else levels.sum()
