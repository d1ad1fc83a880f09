"""Training loss of a student-teacher pair and its gradient in one sweep."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fastad.ops import _arguments, _gradients, _spatial_weights, reference
from fastad.ops._spatial_weights import SpatialWeights

_REDUCTIONS = {"mean": 0, "sum": 1, "none": 2}


def distillation_loss(
    teacher: Sequence[Tensor],
    student: Sequence[Tensor],
    *,
    level_weights: Sequence[float] | None = None,
    weights: SpatialWeights | None = None,
    reduction: str = "mean",
    eps: float = 1e-12,
) -> Tensor:
    """The distance of normalised features, averaged over positions and batch, summed over levels.

    Wang et al., "Student-teacher feature pyramid matching", BMVC 2021, eqs. 2-3. The features are
    read once. The student's gradient is computed with the loss and takes no memory besides itself.

    Args:
        teacher: list of 1 to 8 levels (N, C_l, H_l, W_l). See `distances`.
        student: as ``teacher``, with the same shapes.
        level_weights: a factor for each level. None for 1.
        weights: spatial weights, as of `distances`. The sum of a level is ``sum(w * d)``. The mean
            of a level is that of its images, each ``sum(w * d) / sum(w)``, or 0 with a gradient of
            0 where all weights of the image are 0.
        reduction: ``"mean"`` sums the weighted means of the levels, ``"sum"`` their weighted sums.
            ``"none"`` gives the weighted means of the levels one by one.
        eps: smallest norm by which a vector is divided.

    Returns:
        A scalar, or (L,) for ``"none"``, in float32, or float64 if any input is. NaN for the mean
        of an empty batch.

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
    if reduction not in _REDUCTIONS:
        raise ValueError(f"reduction must be one of {list(_REDUCTIONS)}, not {reduction!r}")
    eps = _arguments.norm_floor(eps)
    if weights is not None:
        weights, served = _spatial_weights.of_levels(weights, teacher, student, served)
    if not served:
        return reference.distillation_loss(
            teacher,
            student,
            level_weights=numbers,
            weights=weights,
            reduction=reduction,
            eps=eps,
        )
    # A float16 gradient waits for the backward: only there is the scale known that a GradScaler
    # applies to keep it from underflowing.
    gradient = torch.is_grad_enabled() and any(s.requires_grad for s in student)
    gradient = gradient and all(s.dtype != torch.float16 for s in student)
    loss, _ = torch.ops.fastad.distillation_loss(
        teacher, student, numbers, _REDUCTIONS[reduction], eps, gradient, weights
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
) -> tuple[Tensor, list[Tensor]]:
    shape = (len(student),) if reduction == 2 else ()
    loss = student[0].new_empty(shape, dtype=_arguments.compute_dtype([*teacher, *student]))
    return loss, [_gradients.empty_gradient(s) for s in student] if gradient else []


@torch.library.register_fake("fastad::scale_gradients_")
def _fake_scale(gradients: list[Tensor], grad_loss: Tensor) -> None:
    return None


def _setup_context(ctx: Any, inputs: tuple, output: tuple[Tensor, list[Tensor]]) -> None:
    teacher, student, ctx.level_weights, ctx.reduction, ctx.eps, _, weights = inputs
    _gradients.no_gradient(weights)
    ctx.weighted = weights is not None
    ctx.gradients_are_scaled = False
    ctx.mark_non_differentiable(*output[1])
    ctx.set_materialize_grads(False)  # no zeros for outputs that carry no gradient
    ctx.save_for_backward(*teacher, *student, *(weights or []), *output[1])


def _backward(ctx: Any, grad_loss: Tensor | None, grad_gradients: Any) -> tuple:
    levels = len(ctx.level_weights)
    if grad_loss is None:
        return _gradients.for_arguments(ctx, [None] * levels, [None] * levels)
    teacher, student, *others = _gradients.split(ctx.saved_tensors, levels, 3 + ctx.weighted)
    weights = others[0] if ctx.weighted else None
    of_student: Sequence[Tensor | None] = others[-1]
    if torch.is_grad_enabled():
        function = partial(
            reference.distillation_loss,
            level_weights=ctx.level_weights,
            weights=weights,
            reduction=list(_REDUCTIONS)[ctx.reduction],
            eps=ctx.eps,
        )
        gradients = _gradients.by_reference(function, [teacher, student], grad_loss)
        return _gradients.for_arguments(ctx, *gradients)
    kept = len(of_student) > 0 and not ctx.gradients_are_scaled
    if kept and type(grad_loss) is Tensor:
        # In place, and not at all where the scale is one: nobody else reads them. By `data`, whose
        # version autograd does not compare: a second backward computes them anew.
        of_student = [g.data for g in others[-1]]
        torch.ops.fastad.scale_gradients_(of_student, grad_loss)
        ctx.gradients_are_scaled = True
    elif kept:  # under tracing, where a compiler fuses the product with its consumer
        scales = grad_loss.expand(levels).unbind()
        of_student = [(g * s).to(g.dtype) for g, s in zip(others[-1], scales, strict=True)]
    of_teacher: Sequence[Tensor | None] = [None] * levels
    if not kept or any(ctx.needs_input_grad[0]):
        needed = [ctx.needs_input_grad[0], [] if kept else ctx.needs_input_grad[1]]
        grad_maps = _grad_of_maps(ctx, grad_loss, student, weights)
        of_teacher, found = _gradients.of_distances(
            needed, grad_maps, teacher, student, ctx.eps, weights
        )
        of_student = of_student if kept else found
    return _gradients.for_arguments(ctx, of_teacher, of_student)


def _grad_of_maps(
    ctx: Any, grad_loss: Tensor, student: list[Tensor], weights: list[Tensor] | None
) -> list[Tensor]:
    """The gradient of the weighted distances: a number a level, or an image where weights are."""
    grad_maps = []
    scales = grad_loss.expand(len(student)).unbind()
    for i, (s, factor, scale) in enumerate(zip(student, ctx.level_weights, scales, strict=True)):
        shape = (s.shape[0], *s.shape[2:])
        if ctx.reduction == _REDUCTIONS["sum"]:
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
