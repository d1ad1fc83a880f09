"""Distance of normalised features per pixel: wrapper, fake, autograd."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastad.ops import _arguments


def distances(
    teacher: Sequence[Tensor], student: Sequence[Tensor], *, eps: float = 1e-12
) -> list[Tensor]:
    """Half the squared distance of L2-normalised features, per pixel, for all levels at once.

    ``d = 1/2 * || t / max(||t||, eps) - s / max(||s||, eps) ||^2`` over channels. For non-zero
    vectors it equals ``1 - cos(t, s)``, and it keeps its relative accuracy for nearly equal ones
    (Wang et al., "Student-teacher feature pyramid matching", BMVC 2021, eqs. 1-2).

    Args:
        teacher: list of 1 to 8 levels (N, C_l, H_l, W_l), in float32, bfloat16, float16 or
            float64, contiguous or channels_last. Types and layouts may be mixed. All are read in
            place.
        student: as ``teacher``, with the same shapes.
        eps: smallest norm by which a vector is divided.

    Returns:
        A list of (N, H_l, W_l), in float32, or float64 if any input is. The gradient goes to the
        student only and cannot be differentiated again.

    Raises:
        TypeError: a wrong type. The message names the argument.
        ValueError: a wrong shape. The message names the argument and the shape.

    Examples:
        Three pixels with two channels: the same direction, a right angle, the opposite direction.

        >>> import torch
        >>> from fastad import ops
        >>> teacher = [torch.tensor([[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]]).view(1, 2, 1, 3)]
        >>> student = [torch.tensor([[4.0, 0.0, -1.0], [0.0, 2.0, 0.0]]).view(1, 2, 1, 3)]
        >>> ops.distances(teacher, student)
        [tensor([[[0., 1., 2.]]])]
    """
    teacher, student = _arguments.features(teacher, student)
    return torch.ops.fastad.distances(teacher, student, _arguments.norm_floor(eps))


def compute_dtype(tensors: Sequence[Tensor]) -> torch.dtype:
    double = any(x.dtype == torch.float64 for x in tensors)
    return torch.float64 if double else torch.float32


@torch.library.register_fake("fastad::distances")
def _fake(teacher: list[Tensor], student: list[Tensor], eps: float) -> list[Tensor]:
    dtype = compute_dtype([*teacher, *student])
    return [s.new_empty((s.shape[0], *s.shape[2:]), dtype=dtype) for s in student]


@torch.library.register_fake("fastad::distances_backward")
def _fake_backward(
    grad: list[Tensor], teacher: list[Tensor], student: list[Tensor], eps: float
) -> list[Tensor]:
    return [torch.empty_like(s) for s in student]


def _setup_context(ctx: Any, inputs: tuple, output: list[Tensor]) -> None:
    teacher, student, ctx.eps = inputs
    ctx.save_for_backward(*teacher, *student)


def _backward(ctx: Any, grad: list[Tensor]) -> tuple:
    _arguments.refuse_second_derivative("distances")
    saved = ctx.saved_tensors
    teacher, student = list(saved[: len(saved) // 2]), list(saved[len(saved) // 2 :])
    grad = [g.contiguous() for g in grad]
    gradients = torch.ops.fastad.distances_backward(grad, teacher, student, ctx.eps)
    return [None] * len(teacher), gradients, None


torch.library.register_autograd("fastad::distances", _backward, setup_context=_setup_context)
