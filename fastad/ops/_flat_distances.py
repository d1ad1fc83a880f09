"""Distance of flattened levels, a number an image and level: wrapper, fake, autograd."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fastad.ops import _arguments, _comparison, _gradients, reference


def flat_distances(
    teacher: list[Tensor],
    student: list[Tensor],
    eps: float,
    weights: list[Tensor] | None,
    channels: list[Tensor] | None,
) -> Sequence[Tensor]:
    """`reference.flat_distances` of arguments that were checked: (N,) a level."""
    found: Tensor
    found, _ = torch.ops.fastad.flat_distances(teacher, student, eps, weights, channels)
    return found.unbind()


@torch.library.register_fake("fastad::flat_distances")
def _fake(
    teacher: list[Tensor],
    student: list[Tensor],
    eps: float,
    spatial_weights: list[Tensor] | None = None,
    channels: list[Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    shape = (len(student), student[0].shape[0])
    distances = student[0].new_empty(shape, dtype=_arguments.compute_dtype([*teacher, *student]))
    return distances, distances.new_empty((2, *shape))


@torch.library.register_fake("fastad::flat_distances_backward")
def _fake_backward(
    grad: Tensor,
    distances: Tensor,
    norms: Tensor,
    teacher: list[Tensor],
    student: list[Tensor],
    eps: float,
    spatial_weights: list[Tensor] | None = None,
    channels: list[Tensor] | None = None,
) -> list[Tensor]:
    return [_gradients.empty_gradient(s) for s in student]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    teacher, student, ctx.eps, weights, channels = inputs
    _gradients.no_gradient(weights, channels)
    ctx.levels, ctx.others = len(student), [weights is not None, channels is not None]
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)  # no zeros for outputs that carry no gradient
    ctx.save_for_backward(*output, *teacher, *student, *(weights or []), *(channels or []))


def _backward(ctx: Any, grad: Tensor | None, grad_norms: Any) -> tuple[Any, ...]:
    if grad is None:
        return _gradients.for_arguments(ctx, [None] * ctx.levels, [None] * ctx.levels)
    distances, norms, *features = ctx.saved_tensors
    teacher, student, weights, channels = _gradients.split(
        features, ctx.levels, [True, True, *ctx.others]
    )
    if torch.is_grad_enabled():
        options = reference.options_of(0, channels)
        del options["distance"]
        function = partial(reference.flat_distances, eps=ctx.eps, weights=weights, **options)
        gradients = _gradients.by_reference(function, [teacher, student], list(grad))
        return _gradients.for_arguments(ctx, *gradients)
    of_teacher, of_student = of_levels(
        ctx.needs_input_grad,
        grad,
        (distances, norms),
        teacher,
        student,
        ctx.eps,
        weights,
        channels,
    )
    return _gradients.for_arguments(ctx, of_teacher, of_student)


def of_levels(
    needed: Sequence[list[bool]],
    grad: Tensor,
    forward: tuple[Tensor, Tensor] | None,
    teacher: list[Tensor],
    student: list[Tensor],
    eps: float,
    weights: list[Tensor] | None,
    channels: list[Tensor] | None,
) -> tuple[Sequence[Tensor | None], Sequence[Tensor | None]]:
    """The gradients of teacher and student, of each where ``needed``.

    ``grad`` (L, N) is that of the distances. ``forward``: what the op returned of these features.
    """
    if forward is None:
        forward = torch.ops.fastad.flat_distances(teacher, student, eps, weights, channels)
    distances, norms = forward
    op = torch.ops.fastad.flat_distances_backward
    of_teacher: Sequence[Tensor | None] = [None] * len(student)
    of_student: Sequence[Tensor | None] = of_teacher
    if any(needed[0]):  # the roles exchanged
        compared = teacher if channels is None else _comparison.standardized(teacher, channels)
        found = op(grad, distances, norms.flip(0), student, compared, eps, weights)
        of_teacher = (
            found if channels is None else _comparison.of_standardized(found, teacher, channels)
        )
    if any(needed[1]):
        of_student = op(grad, distances, norms, teacher, student, eps, weights, channels)
    return of_teacher, of_student


torch.library.register_autograd("fastad::flat_distances", _backward, setup_context=_setup_context)
