"""The loss of the hard distances of each level, and its gradient: wrapper, fake, autograd."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastad.ops import _gradients, _reductions


def hard_loss(
    maps: list[Tensor],
    level_weights: list[float],
    hard: float,
    reduction: str,
    weights: list[Tensor] | None,
) -> Tensor:
    """`_reductions.hard_levels` of distances (N, H_l, W_l), joined: a scalar, or (L,)."""
    if maps[0].device.type == "cpu":
        loss: Tensor
        loss, _ = torch.ops.fastad.hard_loss(
            maps, level_weights, hard, _reductions.CODES[reduction], weights
        )
        return loss
    return _in_torch(maps, level_weights, hard, reduction, weights)


def _in_torch(
    maps: list[Tensor],
    level_weights: list[float],
    hard: float,
    reduction: str,
    weights: list[Tensor] | None,
) -> Tensor:
    levels = _reductions.hard_levels(maps, hard, weights, reduction)
    return _reductions.join_levels(levels, level_weights, reduction)


@torch.library.register_fake("fastad::hard_loss")
def _fake(
    maps: list[Tensor],
    level_weights: list[float],
    hard: float,
    reduction: int,
    spatial_weights: list[Tensor] | None = None,
) -> tuple[Tensor, list[Tensor]]:
    shape = (len(maps),) if reduction == _reductions.CODES["none"] else ()
    return maps[0].new_empty(shape), [torch.empty_like(m) for m in maps]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, list[Tensor]]) -> None:
    maps, ctx.level_weights, ctx.hard, ctx.reduction, weights = inputs
    _gradients.no_gradient(weights, None)
    ctx.weighted = weights is not None
    ctx.mark_non_differentiable(*output[1])
    ctx.set_materialize_grads(False)  # no zeros for outputs that carry no gradient
    ctx.save_for_backward(*maps, *output[1], *(weights or []))


def _backward(ctx: Any, grad_loss: Tensor | None, grad_gradients: Any) -> tuple[Any, ...]:
    levels = len(ctx.level_weights)
    found: Sequence[Tensor | None] = [None] * levels
    if grad_loss is not None:
        maps, gradients, weights = _gradients.split(
            ctx.saved_tensors, levels, [True, True, ctx.weighted]
        )
        if torch.is_grad_enabled():
            reduction = list(_reductions.CODES)[ctx.reduction]

            def function(maps: list[Tensor]) -> Tensor:
                return _in_torch(maps, ctx.level_weights, ctx.hard, reduction, weights)

            (found,) = _gradients.by_reference(function, [maps], grad_loss)
        else:
            scales = grad_loss.expand(levels).unbind()
            found = [g * scale for g, scale in zip(gradients, scales, strict=True)]
    return _gradients.for_arguments(ctx, found)


torch.library.register_autograd("fastad::hard_loss", _backward, setup_context=_setup_context)
