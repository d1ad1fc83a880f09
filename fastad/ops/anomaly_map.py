"""Features to anomaly map in one call: wrapper, fake, autograd."""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, overload

import torch
from torch import Tensor

from fastad.ops import (
    _arguments,
    _comparison,
    _gradients,
    _score,
    _spatial_weights,
    reference,
)
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
    distance: str = ...,
    mean: Sequence[Tensor] | None = ...,
    deviation: Sequence[Tensor] | None = ...,
    eps: float = ...,
    align_corners: bool = ...,
    dtype: torch.dtype | None = ...,
    smoothing: float = ...,
    return_maximum: Literal[False] = ...,
    score: None = ...,
    share: float = ...,
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
    distance: str = ...,
    mean: Sequence[Tensor] | None = ...,
    deviation: Sequence[Tensor] | None = ...,
    eps: float = ...,
    align_corners: bool = ...,
    dtype: torch.dtype | None = ...,
    smoothing: float = ...,
    return_maximum: Literal[True],
    score: None = ...,
    share: float = ...,
) -> tuple[Tensor, Tensor]: ...


@overload
def anomaly_map(
    teacher: Sequence[Tensor],
    student: Sequence[Tensor],
    size: Sequence[int],
    *,
    aggregate: str = ...,
    level_weights: Sequence[float] | None = ...,
    weights: SpatialWeights | Sequence[float] | None = ...,
    distance: str = ...,
    mean: Sequence[Tensor] | None = ...,
    deviation: Sequence[Tensor] | None = ...,
    eps: float = ...,
    align_corners: bool = ...,
    dtype: torch.dtype | None = ...,
    smoothing: float = ...,
    return_maximum: Literal[False] = ...,
    score: Literal["maximum", "top_share"],
    share: float = ...,
) -> tuple[Tensor, Tensor]: ...


def anomaly_map(
    teacher: Sequence[Tensor],
    student: Sequence[Tensor],
    size: Sequence[int],
    *,
    aggregate: str = "product",
    level_weights: Sequence[float] | None = None,
    weights: SpatialWeights | Sequence[float] | None = None,
    distance: str = "cosine",
    mean: Sequence[Tensor] | None = None,
    deviation: Sequence[Tensor] | None = None,
    eps: float = 1e-12,
    align_corners: bool = False,
    dtype: torch.dtype | None = None,
    smoothing: float = 0.0,
    return_maximum: bool = False,
    score: Literal["maximum", "top_share"] | None = None,
    share: float = 0.01,
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
        distance: ``"cosine"``, ``"l2"`` or ``"l2_standardized"``. See `distances`.
        mean: of the teacher's channels, a tensor (C_l,) a level. See `distances`.
        deviation: of the teacher's channels, likewise.
        eps: smallest norm by which a vector is divided.
        align_corners: how maps are upsampled. See `aggregate_maps`.
        dtype: ``torch.float16`` or ``torch.bfloat16`` for a map of half the bytes. See
            `aggregate_maps`. It does not go with ``score``.
        smoothing: standard deviation, in pixels, of a Gaussian over the map. See `aggregate_maps`.
        return_maximum: also return the maximum of each image, (N,), found in the same pass, before
            the map is rounded. No gradient flows through it.
        score: also return the score of each image, (N,), with a gradient. ``"maximum"`` is the
            highest pixel. ``"top_share"`` is the mean of the highest pixels, which one pixel that
            is wrong moves less.
        share: of all pixels, above 0 and at most 1, that ``"top_share"`` takes. At least one pixel
            is taken.

    Returns:
        (N, H, W) in float32, or float64 if any input is, or in ``dtype``. With
        ``return_maximum`` or ``score`` a pair of that and the maxima or scores.

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

        The same score learns: its gradient reaches the student.

        >>> learning = [level.requires_grad_() for level in student]
        >>> _, scores = ops.anomaly_map(teacher, learning, (128, 128), score="top_share")
        >>> scores.sum().backward()
        >>> learning[0].grad.shape
        torch.Size([2, 64, 32, 32])
    """
    teacher, student, served = _arguments.features(teacher, student)
    height, width = _arguments.output_size(size)
    product = _arguments.is_product(aggregate)
    name = "weights" if level_weights is None else "level_weights"
    numbers, spatial = reference.tell_weights(level_weights, weights)
    numbers = _arguments.level_weights(name, numbers, len(teacher))
    eps = _arguments.norm_floor(eps)
    smoothing = _arguments.smoothing(smoothing)
    dtype = _arguments.map_dtype(dtype)
    _score.check(score, share, return_maximum, dtype)
    comparison = _comparison.of(distance, mean, deviation, teacher, student)
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
            align_corners=align_corners,
            smoothing=smoothing,
            **comparison.options,
        )
        if score is not None:
            return result, reference.score(result, score, share)
        rounded = _arguments.stored(result, dtype)
        return (rounded, result.detach().amax(dim=(1, 2))) if return_maximum else rounded
    compared = (eps, spatial, comparison.code, comparison.channels)
    if smoothing > 0:
        maps = torch.ops.fastad.distances(teacher, student, *compared)
        result, maximum = torch.ops.fastad.aggregate_maps(
            maps, height, width, product, numbers, align_corners, None, smoothing
        )
        result = _arguments.stored(result, dtype)
    else:
        result, maximum, _ = torch.ops.fastad.anomaly_map(
            teacher, student, height, width, product, numbers, *compared, align_corners, dtype
        )
    if score is not None:
        return result, _score.of_map(result, maximum, score, share)
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
    distance: int = 0,
    channels: list[Tensor] | None = None,
    align_corners: bool = False,
    dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor, list[Tensor]]:
    computed = _arguments.compute_dtype([*teacher, *student])
    batch = student[0].shape[0]
    maps = [s.new_empty((batch, *s.shape[2:]), dtype=computed) for s in student]
    result = maps[0].new_empty((batch, height, width), dtype=dtype)
    return result, maps[0].new_empty((batch,)), maps


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
    teacher, student, _, _, ctx.product, ctx.level_weights, ctx.eps, *others = inputs
    weights, ctx.distance, channels, ctx.align_corners, ctx.dtype = others
    _gradients.no_gradient(weights, channels)
    ctx.others = [weights is not None, channels is not None]
    _, maximum, maps = output
    ctx.mark_non_differentiable(maximum, *maps)
    ctx.set_materialize_grads(False)  # no zeros for outputs that carry no gradient
    ctx.save_for_backward(*teacher, *student, *maps, *(weights or []), *(channels or []))


def _backward(ctx: Any, grad: Tensor | None, grad_maximum: Any, grad_maps: Any) -> tuple[Any, ...]:
    levels = len(ctx.level_weights)
    teacher, student, maps, weights, channels = _gradients.split(
        ctx.saved_tensors, levels, [True, True, True, *ctx.others]
    )
    gradients: Sequence[Sequence[Tensor | None]]
    if grad is None:
        gradients = [[None] * levels] * 2
    elif torch.is_grad_enabled():
        function = partial(
            reference.anomaly_map,
            size=(grad.shape[1], grad.shape[2]),
            aggregate="product" if ctx.product else "sum",
            level_weights=ctx.level_weights,
            weights=weights,
            eps=ctx.eps,
            align_corners=ctx.align_corners,
            dtype=ctx.dtype,
            **reference.options_of(ctx.distance, channels),
        )
        gradients = _gradients.by_reference(function, [teacher, student], grad)
    else:
        grad_maps = torch.ops.fastad.aggregate_maps_backward(
            grad, maps, ctx.product, ctx.level_weights, ctx.align_corners
        )
        gradients = _gradients.of_distances(
            ctx.needs_input_grad,
            grad_maps,
            teacher,
            student,
            ctx.eps,
            weights,
            ctx.distance,
            channels,
        )
    return _gradients.for_arguments(ctx, *gradients)


torch.library.register_autograd("fastad::anomaly_map", _backward, setup_context=_setup_context)
