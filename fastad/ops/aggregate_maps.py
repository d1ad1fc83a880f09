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
    align_corners: bool = ...,
    dtype: torch.dtype | None = ...,
    smoothing: float = ...,
    return_maximum: Literal[False] = ...,
) -> Tensor: ...


@overload
def aggregate_maps(
    maps: Sequence[Tensor],
    size: Sequence[int],
    *,
    aggregate: str = ...,
    weights: Sequence[float] | None = ...,
    align_corners: bool = ...,
    dtype: torch.dtype | None = ...,
    smoothing: float = ...,
    return_maximum: Literal[True],
) -> tuple[Tensor, Tensor]: ...


def aggregate_maps(
    maps: Sequence[Tensor],
    size: Sequence[int],
    *,
    aggregate: str = "product",
    weights: Sequence[float] | None = None,
    align_corners: bool = False,
    dtype: torch.dtype | None = None,
    smoothing: float = 0.0,
    return_maximum: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Upsample the map of every level to ``size`` and join them by product or sum.

    The upsampled maps are not written to memory. Upsampling is bilinear with PyTorch's source-index
    rule. The product is eq. 4 of Wang et al., BMVC 2021.

    Args:
        maps: list of 1 to 8 maps (N, H_l, W_l).
        size: (H, W) of the result, in pixels.
        aggregate: ``"product"`` of ``map ** weight``, or ``"sum"`` of ``weight * map``. ``"stack"``
            joins nothing: it returns the levels side by side, (N, L, H, W), and takes no weights.
        weights: one number a level. None for 1.
        align_corners: whether the centres of the corner pixels coincide, as of
            `torch.nn.functional.interpolate`. Else the pixels are areas.
        dtype: ``torch.float16`` or ``torch.bfloat16`` for a result of half the bytes. It is
            computed in float32 or float64 and rounded as it is written. In float16 what is below
            3e-8 becomes 0, as products of small distances may be, and what is above 65504 inf.
        smoothing: standard deviation, in pixels, of a Gaussian over the joined map. It is cut at 3
            deviations, and the edges of the map are repeated. 0 for none, at most 300. Not of a
            stack.
        return_maximum: also return the maximum of each image, (N,), found in the same pass, before
            the map is rounded. No gradient flows through it. Not of a stack.

    Returns:
        (N, H, W), or (N, L, H, W), in float32, or float64 if any map is, or in ``dtype``. With
        ``return_maximum`` a pair of that and the maxima, which ``dtype`` does not change.

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
    product, stack = _arguments.is_product(aggregate, "stack"), aggregate == "stack"
    smoothing = _arguments.smoothing(smoothing)
    for name, is_given in (
        ("weights", weights is not None),
        ("smoothing", smoothing > 0),
        ("return_maximum", return_maximum),
    ):
        if stack and is_given:
            raise ValueError(f"aggregate='stack' takes no {name}")
    weights = _arguments.level_weights("weights", weights, len(maps))
    dtype = _arguments.map_dtype(dtype)
    if not _arguments.kernels_serve(maps):
        result = reference.aggregate_maps(
            maps,
            (height, width),
            aggregate=aggregate,
            weights=weights,
            align_corners=align_corners,
            smoothing=smoothing,
        )
        rounded = _arguments.stored(result, dtype)
        return (rounded, result.detach().amax(dim=(1, 2))) if return_maximum else rounded
    if stack:
        found: Tensor = torch.ops.fastad.stack_maps(maps, height, width, align_corners, dtype)
        return found
    if smoothing > 0:  # of what is not rounded yet
        result, maximum = torch.ops.fastad.aggregate_maps(
            maps, height, width, product, weights, align_corners, None, smoothing
        )
        result = _arguments.stored(result, dtype)
    else:
        result, maximum = torch.ops.fastad.aggregate_maps(
            maps, height, width, product, weights, align_corners, dtype
        )
    return (result, maximum) if return_maximum else result


@torch.library.register_fake("fastad::aggregate_maps")
def _fake(
    maps: list[Tensor],
    height: int,
    width: int,
    product: bool,
    weights: list[float],
    align_corners: bool = False,
    dtype: torch.dtype | None = None,
    smoothing: float = 0.0,
) -> tuple[Tensor, Tensor]:
    batch = maps[0].shape[0]
    result = maps[0].new_empty((batch, height, width), dtype=dtype)
    return result, maps[0].new_empty((batch,))


@torch.library.register_fake("fastad::aggregate_maps_backward")
def _fake_backward(
    grad: Tensor,
    maps: list[Tensor],
    product: bool,
    weights: list[float],
    align_corners: bool = False,
    smoothing: float = 0.0,
) -> list[Tensor]:
    return [torch.empty_like(m) for m in maps]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    maps, _, _, ctx.product, ctx.weights, ctx.align_corners, ctx.dtype, ctx.smoothing = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)  # no zeros for outputs that carry no gradient
    ctx.save_for_backward(*maps)


def _backward(ctx: Any, grad: Tensor | None, grad_maximum: Any) -> tuple[Any, ...]:
    if grad is None:
        return _gradients.for_arguments(ctx, [None] * len(ctx.weights))
    maps = list(ctx.saved_tensors)
    gradients: Sequence[Tensor | None]
    if torch.is_grad_enabled():
        function = partial(
            reference.aggregate_maps,
            size=(grad.shape[1], grad.shape[2]),
            aggregate="product" if ctx.product else "sum",
            weights=ctx.weights,
            align_corners=ctx.align_corners,
            dtype=ctx.dtype,
            smoothing=ctx.smoothing,
        )
        (gradients,) = _gradients.by_reference(function, [maps], grad)
    else:
        gradients = torch.ops.fastad.aggregate_maps_backward(
            grad, maps, ctx.product, ctx.weights, ctx.align_corners, ctx.smoothing
        )
    return _gradients.for_arguments(ctx, gradients)


torch.library.register_autograd("fastad::aggregate_maps", _backward, setup_context=_setup_context)


@torch.library.register_fake("fastad::stack_maps")
def _fake_stack(
    maps: list[Tensor],
    height: int,
    width: int,
    align_corners: bool = False,
    dtype: torch.dtype | None = None,
) -> Tensor:
    return maps[0].new_empty((maps[0].shape[0], len(maps), height, width), dtype=dtype)


@torch.library.register_fake("fastad::stack_maps_backward")
def _fake_stack_backward(
    grad: Tensor, maps: list[Tensor], align_corners: bool = False
) -> list[Tensor]:
    return [torch.empty_like(m) for m in maps]


def _setup_stack_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    maps, _, _, ctx.align_corners, ctx.dtype = inputs
    ctx.save_for_backward(*maps)


def _stack_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    maps = list(ctx.saved_tensors)
    gradients: Sequence[Tensor | None]
    if torch.is_grad_enabled():
        function = partial(
            reference.aggregate_maps,
            size=(grad.shape[2], grad.shape[3]),
            aggregate="stack",
            align_corners=ctx.align_corners,
            dtype=ctx.dtype,
        )
        (gradients,) = _gradients.by_reference(function, [maps], grad)
    else:
        gradients = torch.ops.fastad.stack_maps_backward(grad, maps, ctx.align_corners)
    return _gradients.for_arguments(ctx, gradients)


torch.library.register_autograd(
    "fastad::stack_maps", _stack_backward, setup_context=_setup_stack_context
)
