"""Training loss of a student-teacher pair and its gradient in one sweep."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fastad.ops import (
    _arguments,
    _comparison,
    _flat_distances,
    _gradients,
    _reductions,
    _spatial_weights,
    reference,
)
from fastad.ops._hard_loss import hard_loss
from fastad.ops._spatial_weights import SpatialWeights

_FLAT = 2  # the code of "cosine_flat"


def distillation_loss(
    teacher: Sequence[Tensor],
    student: Sequence[Tensor],
    *,
    level_weights: Sequence[float] | None = None,
    weights: SpatialWeights | None = None,
    reduction: str = "mean",
    hard: float | None = None,
    distance: str = "cosine",
    mean: Sequence[Tensor] | None = None,
    deviation: Sequence[Tensor] | None = None,
    eps: float = 1e-12,
) -> Tensor:
    """The distance of normalised features, averaged over positions and batch, summed over levels.

    Wang et al., "Student-teacher feature pyramid matching", BMVC 2021, eqs. 2-3. The features are
    read once. The student's gradient is computed with the loss and takes no memory besides itself.
    So is the teacher's where both require one and lie alike in memory.

    Args:
        teacher: list of 1 to 8 levels (N, C_l, H_l, W_l). See `distances`.
        student: as ``teacher``, with the same shapes.
        level_weights: a factor for each level. None for 1.
        weights: spatial weights, as of `distances`. The sum of a level is ``sum(w * d)``. The mean
            of a level is that of its images, each ``sum(w * d) / sum(w)``, or 0 with a gradient of
            0 where all weights of the image are 0.
        reduction: ``"mean"`` sums the weighted means of the levels, ``"sum"`` their weighted sums.
            ``"none"`` gives the weighted means of the levels one by one. ``"image"`` gives each
            image's sum of the weighted means of its levels. The mean of these is ``"mean"``. Its
            gradient is computed in the backward, where the images' factors are known.
        hard: hard feature mining (Batzner et al., "EfficientAD", WACV 2024, sec. 3.2). Of each
            level only the distances at or above this quantile of the batch count, as 0.99. It is at
            least 0 and below 1, and None for all distances. The quantile is that of
            ``torch.quantile(..., interpolation="higher")``. Equal distances are hard together.
            With ``weights`` the pixels of weight 0 are left out, and the mean of a level is
            ``sum(w * d) / sum(w)`` over all hard pixels of the batch, or 0 where there is none.
            The distances are computed first, and the gradient in the backward. It is 0 where a
            distance does not count.
        distance: ``"cosine"``, ``"l2"`` or ``"l2_standardized"``: see `distances`. Or
            ``"cosine_flat"``, as the code of reverse distillation has it (Deng and Li, CVPR 2022):
            ``1 - cos`` of the flattened level of each image. Means and sums are over the batch.
            ``weights`` are factors of the pixels in all sums of the cosine. ``hard`` does not go
            with it. Its gradient is computed image by image, when all of a level has been read,
            and from the cache where a level of an image fits in it.
        mean: of the teacher's channels, a tensor (C_l,) a level. See `distances`.
        deviation: of the teacher's channels, likewise.
        eps: smallest norm by which a vector is divided.

    Returns:
        A scalar, (L,) for ``"none"``, or (N,) for ``"image"``, in float32, or float64 if any input
        is. NaN for the mean of an empty batch.

    Raises:
        TypeError: a wrong type. The message names the argument.
        ValueError: a wrong shape. The message names the argument and the shape.

    Examples:
        A student that says the opposite of its teacher has a distance of 2 on each level.

        >>> import torch
        >>> from fastad import ops
        >>> teacher = [torch.rand(2, 64, 32, 32), torch.rand(2, 128, 16, 16)]
        >>> student = [(-level).requires_grad_() for level in teacher]
        >>> loss = ops.distillation_loss(teacher, student)
        >>> round(loss.item(), 3)
        4.0
        >>> loss.backward()
        >>> student[1].grad.shape
        torch.Size([2, 128, 16, 16])
    """
    teacher, student, served = _arguments.features(teacher, student)
    numbers = _arguments.level_weights("level_weights", level_weights, len(teacher))
    if reduction not in (*_reductions.CODES, "image"):
        allowed = [*_reductions.CODES, "image"]
        raise ValueError(f"reduction must be one of {allowed}, not {reduction!r}")
    if reduction == "image" and hard is not None:
        raise ValueError("hard is a quantile of the batch: it does not go with reduction='image'")
    eps = _arguments.norm_floor(eps)
    if hard is not None:
        hard = _arguments.quantile("hard", hard)
    if weights is not None:
        weights, served = _spatial_weights.of_levels(weights, teacher, student, served)
    if hard is not None and distance == "cosine_flat":
        raise ValueError("hard chooses pixels: it does not go with distance='cosine_flat'")
    comparison = _comparison.of(distance, mean, deviation, teacher, student, maps=False)
    if not served:
        return reference.distillation_loss(
            teacher,
            student,
            level_weights=numbers,
            weights=weights,
            reduction=reduction,
            hard=hard,
            eps=eps,
            **comparison.options,
        )
    compared = comparison.code, comparison.channels
    if hard is not None:
        maps = torch.ops.fastad.distances(teacher, student, eps, None, *compared)
        return hard_loss(maps, numbers, hard, reduction, weights)
    if reduction == "image" and distance != "cosine_flat":
        maps = torch.ops.fastad.distances(teacher, student, eps, weights, *compared)
        return _reductions.join_levels(_reductions.image_means(maps, weights), numbers, reduction)
    # A float16 gradient waits for the backward: only there is the scale known that a GradScaler
    # applies to keep it from underflowing.
    waits = any(x.dtype == torch.float16 for x in (*teacher, *student))
    if distance == "cosine_flat" and (reduction == "image" or waits):
        flat = _flat_distances.flat_distances(teacher, student, eps, weights, comparison.channels)
        return _reductions.join_images(flat, numbers, reduction)
    gradient = torch.is_grad_enabled() and any(s.requires_grad for s in student) and not waits
    of_teacher = gradient and comparison.channels is None and any(t.requires_grad for t in teacher)
    if of_teacher:
        of_teacher = all(t.stride() == s.stride() for t, s in zip(teacher, student, strict=True))
    loss: Tensor
    loss, _ = torch.ops.fastad.distillation_loss(
        teacher,
        student,
        numbers,
        _reductions.CODES[reduction],
        eps,
        gradient,
        weights,
        *compared,
        of_teacher,
    )
    return loss


@torch.library.register_fake("fastad::distillation_loss")
def _fake(
    teacher: list[Tensor],
    student: list[Tensor],
    level_weights: list[float],
    reduction: int,
    eps: float,
    gradient: bool,
    spatial_weights: list[Tensor] | None = None,
    distance: int = 0,
    channels: list[Tensor] | None = None,
    teacher_gradient: bool = False,
) -> tuple[Tensor, list[Tensor]]:
    shape = (len(student),) if reduction == 2 else ()
    loss = student[0].new_empty(shape, dtype=_arguments.compute_dtype([*teacher, *student]))
    of = [*student, *(teacher if teacher_gradient else [])] if gradient else []
    return loss, [_gradients.empty_gradient(x) for x in of]


@torch.library.register_fake("fastad::scale_gradients_")
def _fake_scale(gradients: list[Tensor], grad_loss: Tensor) -> None:
    return None


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, list[Tensor]]) -> None:
    teacher, student, ctx.level_weights, ctx.reduction, ctx.eps, gradient, *others = inputs
    weights, ctx.distance, channels, teacher_gradient = others
    _gradients.no_gradient(weights, channels)
    ctx.saved = [weights is not None, channels is not None, gradient, teacher_gradient]
    ctx.gradients_are_scaled = False
    ctx.mark_non_differentiable(*output[1])
    ctx.set_materialize_grads(False)  # no zeros for outputs that carry no gradient
    ctx.save_for_backward(*teacher, *student, *(weights or []), *(channels or []), *output[1])


def _backward(ctx: Any, grad_loss: Tensor | None, grad_gradients: Any) -> tuple[Any, ...]:
    levels = len(ctx.level_weights)
    if grad_loss is None:
        return _gradients.for_arguments(ctx, [None] * levels, [None] * levels)
    teacher, student, weights, channels, of_student, of_teacher = _gradients.split(
        ctx.saved_tensors, levels, [True, True, *ctx.saved]
    )
    if torch.is_grad_enabled():
        function = partial(
            reference.distillation_loss,
            level_weights=ctx.level_weights,
            weights=weights,
            reduction=list(_reductions.CODES)[ctx.reduction],
            eps=ctx.eps,
            **reference.options_of(ctx.distance, channels),
        )
        gradients = _gradients.by_reference(function, [teacher, student], grad_loss)
        return _gradients.for_arguments(ctx, *gradients)
    if ctx.gradients_are_scaled:
        of_student = of_teacher = None
    kept = [of_teacher, of_student]
    if type(grad_loss) is Tensor:
        # In place, and not at all where the scale is one: nobody else reads them. By `data`, whose
        # version autograd does not compare: a second backward computes them anew.
        kept = [None if of is None else [g.data for g in of] for of in kept]
        for gradients in filter(None, kept):
            torch.ops.fastad.scale_gradients_(gradients, grad_loss)
            ctx.gradients_are_scaled = True
    else:  # under tracing, where a compiler fuses the product with its consumer
        scales = grad_loss.expand(levels).unbind()
        kept = [
            None if of is None else [(g * s).to(g.dtype) for g, s in zip(of, scales, strict=True)]
            for of in kept
        ]
    needed = [
        [] if of is not None else need
        for of, need in zip(kept, ctx.needs_input_grad[:2], strict=True)
    ]
    found: Sequence[Sequence[Tensor | None]] = [[None] * levels] * 2
    if any(map(any, needed)):
        if ctx.distance == _FLAT:
            grad = _grad_of_levels(ctx, grad_loss, student)
            found = _flat_distances.of_levels(
                needed, grad, None, teacher, student, ctx.eps, weights, channels
            )
        else:
            grad_maps = _grad_of_maps(ctx, grad_loss, student, weights)
            found = _gradients.of_distances(
                needed, grad_maps, teacher, student, ctx.eps, weights, ctx.distance, channels
            )
    results = [f if of is None else of for of, f in zip(kept, found, strict=True)]
    return _gradients.for_arguments(ctx, *results)


def _grad_of_levels(ctx: Any, grad_loss: Tensor, student: list[Tensor]) -> Tensor:
    """The gradient of the distances (L, N) of levels as one vector each."""
    images = 1 if ctx.reduction == _reductions.CODES["sum"] else max(student[0].shape[0], 1)
    factors = grad_loss.new_tensor([factor / images for factor in ctx.level_weights])
    return (grad_loss * factors)[:, None].expand(len(student), student[0].shape[0])


def _grad_of_maps(
    ctx: Any, grad_loss: Tensor, student: list[Tensor], weights: list[Tensor] | None
) -> list[Tensor]:
    """The gradient of the weighted distances: a number a level, or an image where weights are."""
    grad_maps = []
    scales = grad_loss.expand(len(student)).unbind()
    for i, (s, factor, scale) in enumerate(zip(student, ctx.level_weights, scales, strict=True)):
        shape = (s.shape[0], *s.shape[2:])
        if ctx.reduction == _reductions.CODES["sum"]:
            grad = scale * factor
        elif weights is None:
            grad = scale * (factor / max(shape[0] * shape[1] * shape[2], 1))
        else:
            total = weights[i].sum(dim=(1, 2), keepdim=True)
            grad = scale * (factor / max(shape[0], 1)) / torch.where(total > 0, total, 1)
        grad_maps.append(grad.expand(shape))
    return grad_maps


torch.library.register_autograd(
    "fastad::distillation_loss", _backward, setup_context=_setup_context
)
