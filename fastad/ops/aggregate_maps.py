"""Upsampling fused with the product or sum of the levels: wrapper, fake, autograd."""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, overload

import torch
from torch import Tensor

from fastad.ops import _arguments, _gradients, reference


@overload
def aggregate_maps(
    maps: Sequence[Tensor],
    size: Sequence[int],
    *,
    aggregate: str = ...,
    weights: Sequence[float] | None = ...,
    return_maximum: Literal[False] = ...,
) -> Tensor: ...


@overload
def aggregate_maps(
    maps: Sequence[Tensor],
    size: Sequence[int],
    *,
    aggregate: str = ...,
    weights: Sequence[float] | None = ...,
    return_maximum: Literal[True],
) -> tuple[Tensor, Tensor]: ...


def aggregate_maps(
    maps: Sequence[Tensor],
    size: Sequence[int],
    *,
    aggregate: str = "product",
    weights: Sequence[float] | None = None,
    return_maximum: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Upsample the map of every level to ``size`` and join them by product or sum.

    The upsampled maps are not written to memory. Upsampling is bilinear with
    ``align_corners=False`` and PyTorch's source-index rule. The product is eq. 4 of Wang et al.,
    BMVC 2021.

    Args:
        maps: list of 1 to 8 maps (N, H_l, W_l).
        size: (H, W) of the result, in pixels.
        aggregate: ``"product"`` of ``map ** weight``, or ``"sum"`` of ``weight * map``.
        weights: one number a level. None for 1.
        return_maximum: also return the maximum of each image, (N,), found in the same pass. No
            gradient flows through it.

    Returns:
        (N, H, W) in float32, or float64 if any map is. With ``return_maximum`` a pair of that and
        the maxima.

    Raises:
        TypeError: a wrong type. The message names the argument.
        ValueError: a wrong shape. The message names the argument and the shape.

    Examples:
        >>> import torch
        >>> from fastad import ops
        >>> maps = [torch.tensor([[[0.0, 1.0]]]), torch.tensor([[[0.5]]])]  # 1 x 2 and 1 x 1 pixels
        >>> ops.aggregate_maps(maps, (1, 4))
        tensor([[[0.0000, 0.1250, 0.3750, 0.5000]]])
        >>> ops.aggregate_maps(maps, (1, 4), aggregate="sum", weights=[1.0, 2.0])
        tensor([[[1.0000, 1.2500, 1.7500, 2.0000]]])
    """
    maps = _arguments.maps(maps)
    height, width = _arguments.output_size(size)
    product = _arguments.is_product(aggregate)
    weights = _arguments.level_weights("weights", weights, len(maps))
    if not _arguments.kernels_serve(maps):
        result = reference.aggregate_maps(
            maps, (height, width), aggregate=aggregate, weights=weights
        )
        return (result, result.detach().amax(dim=(1, 2))) if return_maximum else result
    result, maximum = torch.ops.fastad.aggregate_maps(maps, height, width, product, weights)
    return (result, maximum) if return_maximum else result


@torch.library.register_fake("fastad::aggregate_maps")
def _fake(
    maps: list[Tensor], height: int, width: int, product: bool, weights: list[float]
) -> tuple[Tensor, Tensor]:
    batch = maps[0].shape[0]
    return maps[0].new_empty((batch, height, width)), maps[0].new_empty((batch,))


@torch.library.register_fake("fastad::aggregate_maps_backward")
def _fake_backward(
    grad: Tensor, maps: list[Tensor], product: bool, weights: list[float]
) -> list[Tensor]:
    return [torch.empty_like(m) for m in maps]


def _setup_context(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
    maps, _, _, ctx.product, ctx.weights = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)  # no zeros for outputs that carry no gradient
    ctx.save_for_backward(*maps)


def _backward(ctx: Any, grad: Tensor | None, grad_maximum: Any) -> tuple:
    if grad is None:
        return [None] * len(ctx.weights), None, None, None, None
    maps = list(ctx.saved_tensors)
    gradients: Sequence[Tensor | None]
    if torch.is_grad_enabled():
        function = partial(
            reference.aggregate_maps,
            size=(grad.shape[1], grad.shape[2]),
            aggregate="product" if ctx.product else "sum",
            weights=ctx.weights,
        )
        (gradients,) = _gradients.by_reference(function, [maps], grad)
    else:
        gradients = torch.ops.fastad.aggregate_maps_backward(grad, maps, ctx.product, ctx.weights)
    return gradients, None, None, None, None


torch.library.register_autograd("fastad::aggregate_maps", _backward, setup_context=_setup_context)
