"""What the backwards of the ops share."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fastad.ops import _arguments


def empty_gradient(features: Tensor) -> Tensor:
    """A tensor like those that the kernels return as the gradient of features."""
    gradient = torch.empty_like(features)
    return gradient if _arguments.readable(gradient) else gradient.new_empty(features.shape)


def split(tensors: Sequence[Tensor], levels: int, parts: int) -> list[list[Tensor]]:
    """Saved tensors as lists of one a level. The last ones are empty where nothing was saved."""
    return [list(tensors[i * levels : (i + 1) * levels]) for i in range(parts)]


def for_arguments(ctx: Any, *gradients: Sequence[Tensor | None]) -> tuple:
    """What a backward returns: the gradients of its first arguments, and none of the others.

    As many as the call had: the dispatcher leaves out last arguments that have their default.
    """
    others = ctx.needs_input_grad[len(gradients) :]
    return (*gradients, *([None] * len(x) if isinstance(x, list) else None for x in others))


def no_gradient(weights: Sequence[Tensor] | None) -> None:
    """Refuse spatial weights of a raw call that require a gradient, which they do not get."""
    for i, w in enumerate(weights or []):
        if w.requires_grad:
            raise ValueError(f"spatial_weights[{i}] requires a gradient, and weights get none")


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
) -> tuple[Sequence[Tensor | None], Sequence[Tensor | None]]:
    """The gradients of teacher and student, of each where ``needed``.

    The distance is symmetric: the teacher's gradient comes with the roles exchanged.
    """
    none = [None] * len(student)
    op = torch.ops.fastad.distances_backward
    of_teacher = op(grad, student, teacher, eps, spatial_weights) if any(needed[0]) else none
    of_student = op(grad, teacher, student, eps, spatial_weights) if any(needed[1]) else none
    return of_teacher, of_student
