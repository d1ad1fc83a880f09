"""Checks of arguments that the ops share: one clear error each, naming argument and shape.

And where the kernels cannot serve: there the ops answer by `fastad.ops.reference`.
"""

import functools
import logging
import math
import numbers
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd import forward_ad

from fastad import _extension

log = logging.getLogger("fastad")

MAX_LEVELS = 8
_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def describe(x: Tensor) -> str:
    return f"{tuple(x.shape)} {str(x.dtype).removeprefix('torch.')}"


def tensor_list(name: str, tensors: Sequence[Tensor]) -> list[Tensor]:
    """A list of 1 to 8 tensors of a floating dtype, on one device."""
    if isinstance(tensors, Tensor) or not isinstance(tensors, Sequence):
        raise TypeError(f"{name} must be a list of tensors, one a level, not {type(tensors)}")
    if not 1 <= len(tensors) <= MAX_LEVELS:
        raise ValueError(f"{name} must have 1 to {MAX_LEVELS} levels, not {len(tensors)}")
    for i, x in enumerate(tensors):
        if not isinstance(x, Tensor):
            raise TypeError(f"{name}[{i}] must be a tensor, not {type(x)}")
        if x.dtype not in _DTYPES:
            raise TypeError(
                f"{name}[{i}] must be float32, bfloat16, float16 or float64, not {describe(x)}"
            )
        if x.device != tensors[0].device:
            raise ValueError(
                f"{name}[{i}] is on {x.device}, {name}[0] on {tensors[0].device}: all levels "
                "must be on one device"
            )
    if tensors[0].device.type == "cuda" and _extension.cuda_obstacle is not None:
        raise RuntimeError(
            f"{name} is on {tensors[0].device}, but fastad's CUDA kernels are "
            f"{_extension.cuda_obstacle}; build with FASTAD_CUDA=1, or move the tensors to the CPU"
        )
    return list(tensors)


def compute_dtype(tensors: Sequence[Tensor]) -> torch.dtype:
    """The type of results: float32, or float64 if any tensor is."""
    double = any(x.dtype == torch.float64 for x in tensors)
    return torch.float64 if double else torch.float32


def readable(x: Tensor) -> bool:
    """Whether the kernels read (N, C, H, W) in place: contiguous or channels_last per image."""
    _, channels, height, width = x.shape
    _, c, h, w = x.stride()
    rows_join = width <= 1 or height <= 1 or h == width * w
    pixel = w if width > 1 else h if height > 1 else 1
    return x.numel() == 0 or (rows_join and (pixel == 1 or c == 1 or channels <= 1))


def _plain(teacher: Sequence[Tensor], student: Sequence[Tensor]) -> bool:
    """Whether all is as it usually is, by the fewest reads: this runs before a 100 us kernel."""
    device, batch = teacher[0].device, teacher[0].shape[0]
    if device.type != "cpu" or not len(teacher) == len(student) <= MAX_LEVELS:
        return False
    for t, s in zip(teacher, student):  # noqa: B905 (lengths are equal)
        shape = t.shape
        if not (len(shape) == 4 and shape == s.shape and shape[0] == batch and 0 not in shape):
            return False
        for x in (t, s):
            if x.dtype not in _DTYPES or x.device != device:
                return False
            if not (x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last)):
                return False
    return True


def features(
    teacher: Sequence[Tensor], student: Sequence[Tensor]
) -> tuple[list[Tensor], list[Tensor], bool]:
    """Two pyramids of (N, C_l, H_l, W_l) that agree level by level; whether the kernels serve them.

    Otherwise the reference does.
    """
    if type(teacher) is list and type(student) is list and not _transformed():
        try:
            if _plain(teacher, student):
                return teacher, student, True
        except (AttributeError, IndexError):
            pass  # not tensors, or none: said below
    teacher, student = _checked_features(teacher, student)
    served = kernels_serve(student)
    if served and not all(map(readable, [*teacher, *student])):
        served = _no_kernel("for features that are neither contiguous nor channels_last")
    return teacher, student, served


def _transformed() -> bool:
    """Whether torch.func.grad, vmap or jvp is at work, or forward-mode differentiation."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def kernels_serve(tensors: Sequence[Tensor]) -> bool:
    """Whether there are kernels here, and for the device of these tensors."""
    if _transformed():
        return _no_kernel("under torch.func or forward-mode differentiation")
    device = tensors[0].device.type
    return device in ("cpu", "cuda", "meta") or _no_kernel(f"on {device}")


def _no_kernel(case: str) -> bool:
    if not torch.compiler.is_compiling():
        say_reference(case)
    return False


@functools.cache
def say_reference(case: str) -> None:
    """Said once: what the user asked for works, but not fused."""
    log.debug("fastad.ops have no kernel %s: fastad.ops.reference computes it", case)


def _checked_features(
    teacher: Sequence[Tensor], student: Sequence[Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    teacher, student = tensor_list("teacher", teacher), tensor_list("student", student)
    if len(teacher) != len(student):
        raise ValueError(f"teacher has {len(teacher)} levels, student {len(student)}")
    if teacher[0].device != student[0].device:
        raise ValueError(f"teacher is on {teacher[0].device}, student on {student[0].device}")
    for i, (t, s) in enumerate(zip(teacher, student, strict=True)):
        if t.dim() != 4 or 0 in t.shape[1:]:
            raise ValueError(
                f"teacher[{i}] must be (N, C, H, W) with no empty axis but N, not {describe(t)}"
            )
        if t.shape != s.shape:
            raise ValueError(
                f"teacher[{i}] is {describe(t)}, student[{i}] is {describe(s)}: shapes differ"
            )
        if t.shape[0] != teacher[0].shape[0]:
            raise ValueError(
                f"teacher[{i}] has a batch of {t.shape[0]}, teacher[0] of {teacher[0].shape[0]}"
            )
    return teacher, student


def maps(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Maps (N, H_l, W_l) as contiguous tensors of one type: float32, or float64 if any is."""
    tensors = tensor_list("maps", tensors)
    for i, x in enumerate(tensors):
        if x.dim() != 3 or 0 in x.shape[1:]:
            raise ValueError(f"maps[{i}] must be (N, H, W) with H, W >= 1, not {describe(x)}")
        if x.shape[0] != tensors[0].shape[0]:
            raise ValueError(
                f"maps[{i}] has a batch of {x.shape[0]}, maps[0] of {tensors[0].shape[0]}"
            )
    double = any(x.dtype == torch.float64 for x in tensors)
    dtype = torch.float64 if double else torch.float32
    return [x.to(dtype).contiguous() for x in tensors]


def output_size(size: Sequence[int]) -> tuple[int, int]:
    is_pair = isinstance(size, Sequence) and len(size) == 2
    # A torch.SymInt stands for a size that an exported graph leaves open.
    if not is_pair or any(
        isinstance(n, bool) or not isinstance(n, (numbers.Integral, torch.SymInt)) or n < 1
        for n in size
    ):
        raise ValueError(
            f"size must be (height, width), integers that are at least 1, not {size!r}"
        )
    height, width = (n if isinstance(n, torch.SymInt) else int(n) for n in size)
    return height, width


def map_dtype(dtype: torch.dtype | None) -> torch.dtype | None:
    if dtype not in (None, torch.float16, torch.bfloat16):
        raise ValueError(f"dtype must be None, torch.float16 or torch.bfloat16, not {dtype!r}")
    return dtype


def stored(result: Tensor, dtype: torch.dtype | None) -> Tensor:
    """A map as the reference computes it, rounded as the kernels do."""
    return result if dtype is None else result.to(dtype)


def is_product(aggregate: str, *others: str) -> bool:
    if aggregate not in ("product", "sum", *others):
        allowed = " or ".join(map(repr, ("product", "sum", *others)))
        raise ValueError(f"aggregate must be {allowed}, not {aggregate!r}")
    return aggregate == "product"


def level_weights(name: str, weights: Sequence[float] | None, levels: int) -> list[float]:
    if weights is None:
        return [1.0] * levels
    try:
        weights = [float(w) for w in weights]
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} must be numbers, one a level, not {weights!r}") from error
    if len(weights) != levels:
        raise ValueError(f"{name} must have {levels} values, one a level, not {len(weights)}")
    if not all(map(math.isfinite, weights)):
        raise ValueError(f"{name} must be finite, not {weights}")
    return weights


def norm_floor(eps: float) -> float:
    if not 0 < eps < math.inf:
        raise ValueError(f"eps must be positive and finite, not {eps!r}")
    return float(eps)


def check_number(name: str, value: float) -> None:
    """A number of Python, or one of numpy's."""
    if isinstance(value, bool) or not isinstance(value, (int, float, numbers.Real)):
        raise TypeError(f"{name} must be a number, not {type(value)}")


MOST_SMOOTHING = 300


def smoothing(value: float) -> float:
    """A deviation in pixels, or 0 for none."""
    check_number("smoothing", value)
    if not 0 <= value <= MOST_SMOOTHING:
        raise ValueError(f"smoothing must be from 0 to {MOST_SMOOTHING} pixels, not {value!r}")
    return float(value)


def quantile(name: str, value: float) -> float:
    """A number at least 0 and below 1."""
    check_number(name, value)
    if not 0 <= value < 1:
        raise ValueError(f"{name} must be at least 0 and below 1, not {value!r}")
    return float(value)
