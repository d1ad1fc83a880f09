"""Checks of spatial weights, and what they are on each level."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fastad.ops import _arguments, reference

SpatialWeights = Tensor | Sequence[Tensor]

_DTYPES = (torch.bool, torch.float32, torch.bfloat16, torch.float16, torch.float64)


def of_levels(
    weights: SpatialWeights, teacher: Sequence[Tensor], student: Sequence[Tensor], served: bool
) -> tuple[list[Tensor], bool]:
    """A tensor (N, H_l, W_l) for each level of features that were checked, of the result's type.

    And whether the kernels, which have ``served`` so far, take them.
    """
    batch, sizes = student[0].shape[0], [(s.shape[2], s.shape[3]) for s in student]
    if isinstance(weights, Tensor):
        _check("weights", weights, student[0], "(N, H, W) or (H, W)", None)
    elif isinstance(weights, Sequence):
        if len(weights) != len(sizes):
            raise ValueError(
                f"weights must have {len(sizes)} tensors, one a level, not {len(weights)}"
            )
        for i, (w, size) in enumerate(zip(weights, sizes, strict=True)):
            expected = f"{(batch, *size)} or {size}, as level {i} is"
            _check(f"weights[{i}]", w, student[i], expected, size)
    else:
        raise TypeError(
            f"weights must be a tensor or a list of tensors, one a level, not {type(weights)}"
        )
    dtype = _arguments.compute_dtype([*teacher, *student])
    if served and isinstance(weights, Tensor) and weights.device.type != "cuda":
        # Every call that changes nothing costs 10 us while the cache is full of features.
        images = weights if weights.dtype == dtype else weights.to(dtype)
        images = images if images.dim() == 3 else images[None]
        heights, widths = ([size[axis] for size in sizes] for axis in (0, 1))
        levels = torch.ops.fastad.resize_weights(images, heights, widths)
    else:
        levels = reference.resize_weights(weights, sizes, dtype)
    if _readable(levels[0]):
        # All weights of a tensor count in every level: the smallest tells.
        smallest = min(range(len(sizes)), key=lambda i: math.prod(sizes[i]))
        for i in [smallest] if isinstance(weights, Tensor) else range(len(sizes)):
            _check_values(weights, i, levels[i])
    shapes = [(batch, *size) for size in sizes]
    return [
        w if w.shape == shape else w.expand(shape) for w, shape in zip(levels, shapes, strict=True)
    ], served


def _check_values(weights: SpatialWeights, index: int, level: Tensor) -> None:
    """Of a level, in which a negative value of what was resized is NaN."""
    if level.numel() == 0:
        return
    least, most = torch.aminmax(level)
    if least.item() >= 0 and most.item() < math.inf:
        return
    name, given = f"weights[{index}]", weights[index]
    if isinstance(weights, Tensor):
        name, given = "weights", weights
    least, most = torch.aminmax(given)
    raise ValueError(
        f"{name} must be finite and at least 0, not from {least.item():g} to {most.item():g}"
    )


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


def _readable(weights: Tensor) -> bool:
    """Whether values can be looked at here without waiting for a device, and outside of tracing."""
    return (
        weights.device.type == "cpu"
        and type(weights) in (Tensor, torch.nn.Parameter)
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
    )


@torch.library.register_fake("fastad::resize_weights")
def _fake(weights: Tensor, heights: list[int], widths: list[int]) -> list[Tensor]:
    batch = weights.shape[0]
    return [weights.new_empty((batch, *size)) for size in zip(heights, widths, strict=True)]
