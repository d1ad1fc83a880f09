"""From distances to a loss: means and sums over pixels and images, hard pixels, levels joined.

In plain PyTorch, for the ops and their reference.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

# As the kernels take them.
CODES = {"mean": 0, "sum": 1, "none": 2}


def image_means(maps: Sequence[Tensor], weights: Sequence[Tensor] | None) -> list[Tensor]:
    """The mean of each image of levels (N, H_l, W_l): (N,) each.

    Of maps that have been multiplied by ``weights``, if there are any: 0 where all of these are 0.
    """
    if weights is None:
        return [m.mean(dim=(1, 2)) for m in maps]
    totals = [w.expand_as(m).sum(dim=(1, 2)) for w, m in zip(weights, maps, strict=True)]
    return [
        m.sum(dim=(1, 2)) / torch.where(total > 0, total, 1)
        for m, total in zip(maps, totals, strict=True)
    ]


def join_images(
    levels: Sequence[Tensor], factors: Sequence[float] | None, reduction: str
) -> Tensor:
    """The loss of the levels' images (N,) each."""
    if reduction != "image":
        levels = [level.sum() if reduction == "sum" else level.mean() for level in levels]
    return join_levels(levels, factors, reduction)


def join_levels(
    levels: Sequence[Tensor], factors: Sequence[float] | None, reduction: str
) -> Tensor:
    """The losses of the levels times their factors: (L,) for ``"none"``, or their sum."""
    factors = [1.0] * len(levels) if factors is None else factors
    joined = torch.stack([level * factor for level, factor in zip(levels, factors, strict=True)])
    return joined if reduction == "none" else joined.sum(dim=0)


def hard_levels(
    maps: Sequence[Tensor], hard: float, weights: Sequence[Tensor] | None, reduction: str
) -> list[Tensor]:
    """The weighted mean or sum of the hard distances of each level: scalars.

    Maps (N, H_l, W_l); weights (N, H_l, W_l) or (H_l, W_l). The mean of no distance at all is NaN,
    that of pixels which all have weight 0 is 0.
    """
    result = []
    for i, level in enumerate(maps):
        weight = None if weights is None else weights[i].expand_as(level)
        chosen = is_hard(level.detach(), hard, weight)
        terms = torch.where(chosen, level if weight is None else weight * level, 0)
        total = terms.sum()
        if reduction != "sum" and weight is None:
            total = total / chosen.sum()
        elif weight is not None and reduction != "sum":
            share = torch.where(chosen, weight, 0).sum()
            total = total / torch.where((share > 0) | (level.numel() == 0), share, 1)
        result.append(total)
    return result


def is_hard(level: Tensor, hard: float, weights: Tensor | None = None) -> Tensor:
    """Which distances (N, H, W) are at or above their quantile ``hard``, over batch and places.

    The quantile is one of the distances: of M distances in ascending order the one with index
    ``ceil(hard * (M - 1))``. Only places of a weight above 0 count. NaN is hard.
    """
    flat = level.flatten()
    count = flat.shape[0]
    if count == 0:
        return torch.ones_like(level, dtype=torch.bool)
    if weights is None and not torch.compiler.is_compiling():
        highest = flat.topk(count - math.ceil(hard * (count - 1)), sorted=False).values
        return ~(level < highest.amin())
    # A traced program leaves open how many `topk` would take.
    counts = torch.ones_like(level, dtype=torch.bool) if weights is None else weights > 0
    ordered = torch.where(counts, level, -torch.inf).flatten().sort().values
    # How many count is known on the device alone: the place is a tensor.
    number = counts.sum()
    place = count - number + (hard * (number - 1).double()).ceil().long()
    quantile = ordered.gather(0, place.clamp(max=count - 1)[None])
    return counts & ~(level < quantile)
