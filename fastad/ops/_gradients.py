"""What the backwards of the ops share."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fastad.ops import _arguments, _comparison


def empty_gradient(features: Tensor) -> Tensor:
    """A tensor like those that the kernels return as the gradient of features."""
    gradient = torch.empty_like(features)
    return gradient if _arguments.readable(gradient) else gradient.new_empty(features.shape)


def split(tensors: Sequence[Tensor], levels: int, saved: Sequence[bool]) -> list[Any]:
    """Saved tensors as lists of one a level, None where nothing was ``saved``."""
    rest = iter(tensors)
    return [[next(rest) for _ in range(levels)] if was_saved else None for was_saved in saved]


def for_arguments(ctx: Any, *gradients: Sequence[Tensor | None]) -> tuple[Any, ...]:
    """What a backward returns: the gradients of its first arguments, and none of the others.

    As many as the call had: the dispatcher leaves out last arguments that have their default.
    """
    others = ctx.needs_input_grad[len(gradients) :]
    return (*gradients, *([None] * len(x) if isinstance(x, list) else None for x in others))


def no_gradient(weights: Sequence[Tensor] | None, channels: Sequence[Tensor] | None) -> None:
    """Refuse other tensors of a raw call that require a gradient, which they do not get."""
    for name, kind, tensors in (
        ("spatial_weights", "weights", weights),
        ("channels", "channels", channels),
    ):
        for i, x in enumerate(tensors or []):
            if x.requires_grad:
                raise ValueError(f"{name}[{i}] requires a gradient, and {kind} get none")


def by_reference(
    function: Callable[..., Tensor | list[Tensor]],
    inputs: Sequence[Sequence[Tensor]],
    grad: Tensor | list[Tensor],
) -> list[list[Tensor | None]]:
    """The gradients of ``function(*inputs)``, which autograd can differentiate again.

    For `create_graph=True`, which the kernels' gradients cannot serve.
    """
    _arguments.say_reference("for gradients of gradients")
    # Aliases: one input may have been computed from another, whose gradient is not meant here.
    aliases = [[x.view_as(x) for x in tensors] for tensors in inputs]
    needed = [x for tensors in aliases for x in tensors if x.requires_grad]
    found = iter(torch.autograd.grad(function(*aliases), needed, grad, create_graph=True))
    return [[next(found) if x.requires_grad else None for x in tensors] for tensors in aliases]


def of_distances(
    needed: Sequence[list[bool]],
    grad: list[Tensor],
    teacher: list[Tensor],
    student: list[Tensor],
    eps: float,
    spatial_weights: list[Tensor] | None,
    distance: int,
    channels: list[Tensor] | None,
) -> tuple[Sequence[Tensor | None], Sequence[Tensor | None]]:
    """The gradients of teacher and student, of each where ``needed``.

    The distance is symmetric: the teacher's gradient comes with the roles exchanged. Where the
    teacher is standardised, that is done before, in passes of its own.
    """
    of_teacher: Sequence[Tensor | None] = [None] * len(student)
    of_student: Sequence[Tensor | None] = of_teacher
    op = torch.ops.fastad.distances_backward
    if any(needed[0]) and channels is None:
        of_teacher = op(grad, student, teacher, eps, spatial_weights, distance)
    elif any(needed[0]) and channels is not None:
        compared = _comparison.standardized(teacher, channels)
        found = op(grad, student, compared, eps, spatial_weights, distance)
        of_teacher = _comparison.of_standardized(found, teacher, channels)
    if any(needed[1]):
        of_student = op(grad, teacher, student, eps, spatial_weights, distance, channels)
    return of_teacher, of_student
