"""Features to anomaly map in one call: wrapper, fake, autograd."""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, overload

import torch
from torch import Tensor

from fastad.ops import _arguments, _gradients, _spatial_weights, reference
from fastad.ops._spatial_weights import SpatialWeights


@overload
def anomaly_map(
    teacher: Sequence[Tensor],
    student: Sequence[Tensor],
    size: Sequence[int],
    *,
    aggregate: str = ...,
    level_weights: Sequence[float] | None = ...,
    weights: SpatialWeights | Sequence[float] | None = ...,
    eps: float = ...,
    return_maximum: Literal[False] = ...,
) -> Tensor: ...


@overload
def anomaly_map(
    teacher: Sequence[Tensor],
    student: Sequence[Tensor],
    size: Sequence[int],
    *,
    aggregate: str = ...,
    level_weights: Sequence[float] | None = ...,
    weights: SpatialWeights | Sequence[float] | None = ...,
    eps: float = ...,
    return_maximum: Literal[True],
) -> tuple[Tensor, Tensor]: ...


def anomaly_map(
    teacher: Sequence[Tensor],
    student: Sequence[Tensor],
    size: Sequence[int],
    *,
    aggregate: str = "product",
    level_weights: Sequence[float] | None = None,
    weights: SpatialWeights | Sequence[float] | None = None,
    eps: float = 1e-12,
    return_maximum: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """The anomaly map of a student-teacher pair, ``aggregate_maps(distances(...), size)``.

    Args:
        teacher: list of 1 to 8 levels (N, C_l, H_l, W_l). See `distances`.
        student: as ``teacher``, with the same shapes.
        size: (H, W) of the map, in pixels.
        aggregate: ``"product"`` or ``"sum"`` of the levels. See `aggregate_maps`.
        level_weights: one number a level, the ``weights`` of `aggregate_maps`. None for 1.
        weights: spatial weights, as of `distances`: factors of the level maps before they are
            upsampled. A list of numbers is taken as ``level_weights``.
        eps: smallest norm by which a vector is divided.
        return_maximum: also return the maximum of each image, (N,), found in the same pass. No
            gradient flows through it.

    Returns:
        (N, H, W) in float32, or float64 if any input is. With ``return_maximum`` a pair of that
        and the maxima.

    Raises:
        TypeError: a wrong type. The message names the argument.
        ValueError: a wrong shape. The message names the argument and the shape.

    Examples:
        A student that fails in one corner of the second image.

        >>> import torch
        >>> from fastad import ops
        >>> teacher = [torch.rand(2, 64, 32, 32), torch.rand(2, 128, 16, 16)]
        >>> student = [level.clone() for level in teacher]
        >>> student[0][1, :, :8, :8] *= -1
        >>> maps, maximum = ops.anomaly_map(
        ...     teacher, student, (128, 128), aggregate="sum", return_maximum=True
        ... )
        >>> maps.shape, maximum.round(decimals=3)
        (torch.Size([2, 128, 128]), tensor([0., 2.]))
    """
    teacher, student, served = _arguments.features(teacher, student)
    height, width = _arguments.output_size(size)
    product = _arguments.is_product(aggregate)
    name = "weights" if level_weights is None else "level_weights"
    numbers, spatial = reference.tell_weights(level_weights, weights)
    numbers = _arguments.level_weights(name, numbers, len(teacher))
    eps = _arguments.norm_floor(eps)
    if spatial is not None:
        spatial, served = _spatial_weights.of_levels(spatial, teacher, student, served)
    if not served:
        result = reference.anomaly_map(
            teacher,
            student,
            (height, width),
            aggregate=aggregate,
            level_weights=numbers,
            weights=spatial,
            eps=eps,
        )
        return (result, result.detach().amax(dim=(1, 2))) if return_maximum else result
    result, maximum, _ = torch.ops.fastad.anomaly_map(
        teacher, student, height, width, product, numbers, eps, spatial
    )
    return (result, maximum) if return_maximum else result


@torch.library.register_fake("fastad::anomaly_map")
def _fake(
    teacher: list[Tensor],
    student: list[Tensor],
    height: int,
    width: int,
    product: bool,
    weights: list[float],
    eps: float,
    spatial_weights: list[Tensor] | None = None,
) -> tuple[Tensor, Tensor, list[Tensor]]:
    dtype = _arguments.compute_dtype([*teacher, *student])
    batch = student[0].shape[0]
    maps = [s.new_empty((batch, *s.shape[2:]), dtype=dtype) for s in student]
    return maps[0].new_empty((batch, height, width)), maps[0].new_empty((batch,)), maps


def _setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
    teacher, student, _, _, ctx.product, ctx.level_weights, ctx.eps, weights = inputs
    _gradients.no_gradient(weights)
    _, maximum, maps = output
    ctx.mark_non_differentiable(maximum, *maps)
    ctx.set_materialize_grads(False)  # no zeros for outputs that carry no gradient
    ctx.save_for_backward(*teacher, *student, *maps, *(weights or []))


def _backward(ctx: Any, grad: Tensor | None, grad_maximum: Any, grad_maps: Any) -> tuple:
    levels = len(ctx.level_weights)
    teacher, student, maps, weights = _gradients.split(ctx.saved_tensors, levels, 4)
    gradients: Sequence[Sequence[Tensor | None]]
    if grad is None:
        gradients = [[None] * levels] * 2
    elif torch.is_grad_enabled():
        function = partial(
            reference.anomaly_map,
            size=(grad.shape[1], grad.shape[2]),
            aggregate="product" if ctx.product else "sum",
            level_weights=ctx.level_weights,
            weights=weights or None,
            eps=ctx.eps,
        )
        gradients = _gradients.by_reference(function, [teacher, student], grad)
    else:
        grad_maps = torch.ops.fastad.aggregate_maps_backward(
            grad, maps, ctx.product, ctx.level_weights
        )
        gradients = _gradients.of_distances(
            ctx.needs_input_grad, grad_maps, teacher, student, ctx.eps, weights or None
        )
    return _gradients.for_arguments(ctx, *gradients)


torch.library.register_autograd("fastad::anomaly_map", _backward, setup_context=_setup_context)
