"""Checks of spatial weights, and what they are on each level."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fastad.ops import _arguments, reference

SpatialWeights = Tensor | Sequence[Tensor]

_DTYPES = (torch.bool, torch.float32, torch.bfloat16, torch.float16, torch.float64)


def of_levels(
    weights: SpatialWeights, teacher: Sequence[Tensor], student: Sequence[Tensor]
) -> list[Tensor]:
    """A tensor (N, H_l, W_l) for each level of features that were checked, of the result's type."""
    batch, levels = student[0].shape[0], len(student)
    if isinstance(weights, Tensor):
        _check("weights", weights, student[0], "(N, H, W) or (H, W)", None)
    elif isinstance(weights, Sequence):
        if len(weights) != levels:
            raise ValueError(f"weights must have {levels} tensors, one a level, not {len(weights)}")
        for i, (w, s) in enumerate(zip(weights, student, strict=True)):
            size = (s.shape[2], s.shape[3])
            expected = f"{(batch, *size)} or {size}, as level {i} is"
            _check(f"weights[{i}]", w, s, expected, size)
    else:
        raise TypeError(
            f"weights must be a tensor or a list of tensors, one a level, not {type(weights)}"
        )
    dtype = _arguments.compute_dtype([*teacher, *student])
    sizes = [(s.shape[2], s.shape[3]) for s in student]
    found = reference.resize_weights(weights, sizes, dtype)
    return [w.expand(batch, *size) for w, size in zip(found, sizes, strict=True)]


def _check(
    name: str, weights: Tensor, student: Tensor, expected: str, size: tuple[int, int] | None
) -> None:
    """One tensor of weights beside a level ``student``, of the level's ``size`` if there is one."""
    if not isinstance(weights, Tensor):
        raise TypeError(f"{name} must be a tensor, not {type(weights)}")
    if weights.dtype not in _DTYPES:
        raise TypeError(
            f"{name} must be bool, float32, bfloat16, float16 or float64, not "
            f"{_arguments.describe(weights)}"
        )
    shape = tuple(weights.shape)
    if (
        len(shape) not in (2, 3)
        or 0 in shape[-2:]
        or (len(shape) == 3 and shape[0] != student.shape[0])
        or (size is not None and shape[-2:] != size)
    ):
        raise ValueError(
            f"{name} must be {expected}, not {_arguments.describe(weights)}; "
            f"the batch is {student.shape[0]}"
        )
    if weights.device != student.device:
        raise ValueError(f"{name} is on {weights.device}, the features on {student.device}")
    if weights.requires_grad and torch.is_grad_enabled():
        raise ValueError(
            f"{name} requires a gradient, and weights get none: pass {name}.detach() instead"
        )
    if _readable(weights) and weights.numel() > 0:
        least, most = torch.aminmax(weights.detach())
        if not (least >= 0 and most < math.inf):
            raise ValueError(
                f"{name} must be finite and at least 0, not from {least.item():g} to "
                f"{most.item():g}"
            )


def _readable(weights: Tensor) -> bool:
    """Whether values can be looked at here without waiting for a device, and outside of tracing."""
    return (
        weights.device.type == "cpu"
        and type(weights) in (Tensor, torch.nn.Parameter)
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
    )
