"""The four ops in plain PyTorch: the definition that every kernel is tested against.

Any device, any floating dtype, differentiable by autograd. Inputs in half precision are computed
in float32, double stays double, which is what the kernels do too. Nothing here is fused: these
functions are also the baseline of the benchmarks.

The distance is that of student-teacher feature pyramid matching (Wang et al., BMVC 2021,
eqs. 1-3): half the squared Euclidean distance of the L2-normalised feature vectors of a pixel,
which equals 1 - cos for non-zero vectors.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def _compute_dtype(*tensors: Tensor) -> torch.dtype:
    return torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32


def distances(teacher: list[Tensor], student: list[Tensor], *, eps: float = 1e-12) -> list[Tensor]:
    """Half the squared distance of normalised features, per pixel.

    Lists of (N, C_l, H_l, W_l) -> list of (N, H_l, W_l).
    """
    dtype = _compute_dtype(*teacher, *student)
    result = []
    for t, s in zip(teacher, student, strict=True):
        t_hat = F.normalize(t.to(dtype), dim=1, eps=eps)  # N C H W
        s_hat = F.normalize(s.to(dtype), dim=1, eps=eps)
        result.append(0.5 * (t_hat - s_hat).square().sum(dim=1))  # N H W
    return result


def aggregate_maps(
    maps: list[Tensor],
    size: tuple[int, int],
    *,
    aggregate: str = "product",
    weights: list[float] | None = None,
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
    weights: list[float] | None = None,
    eps: float = 1e-12,
) -> Tensor:
    """``aggregate_maps(distances(teacher, student), size)``: features -> (N, H, W).

    Examples:
        >>> import torch
        >>> from fastad import ops
        >>> teacher = [torch.rand(2, 64, 32, 32), torch.rand(2, 128, 16, 16)]
        >>> student = [torch.rand(2, 64, 32, 32), torch.rand(2, 128, 16, 16)]
        >>> expected = ops.reference.anomaly_map(teacher, student, (128, 128))
        >>> torch.allclose(ops.anomaly_map(teacher, student, (128, 128)), expected)
        True
    """
    maps = distances(teacher, student, eps=eps)
    return aggregate_maps(maps, size, aggregate=aggregate, weights=weights)


def distillation_loss(
    teacher: list[Tensor],
    student: list[Tensor],
    *,
    level_weights: list[float] | None = None,
    reduction: str = "mean",
    eps: float = 1e-12,
) -> Tensor:
    """Weighted distances over positions and batch.

    ``"mean"``: the levels' means, weighted and summed, a scalar. ``"sum"``: the levels' sums,
    likewise. ``"none"``: the weighted means of the levels, (L,).
    """
    maps = distances(teacher, student, eps=eps)
    weights = [1.0] * len(maps) if level_weights is None else level_weights
    join = torch.sum if reduction == "sum" else torch.mean
    levels = torch.stack([join(m) * w for m, w in zip(maps, weights, strict=True)])
    return levels if reduction == "none" else levels.sum()
