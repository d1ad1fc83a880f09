"""What is compared of features: the distance, and how the teacher's channels are standardised."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastad.ops import _arguments, reference

_CODES = {"cosine": 0, "l2": 1, "l2_standardized": 1, "cosine_flat": 2}


@dataclass(frozen=True)
class Comparison:
    """Arguments of an op that were checked."""

    distance: str
    mean: list[Tensor] | None
    deviation: list[Tensor] | None
    dtype: torch.dtype  # of the distances

    @property
    def options(self) -> dict[str, Any]:
        """As `fastad.ops.reference` takes them."""
        return {"distance": self.distance, "mean": self.mean, "deviation": self.deviation}

    @property
    def code(self) -> int:
        """As the kernels take it."""
        return _CODES[self.distance]

    @property
    def channels(self) -> list[Tensor] | None:
        """Mean and inverse deviation of each level, (2, C_l), as the kernels take them."""
        # Six calls of torch for three levels: small as they are, they cost 10 us each while the
        # cache is full of features.
        mean = None if self.mean is None else [_as(self.dtype, m) for m in self.mean]
        if self.deviation is None:
            return None if mean is None else [torch.stack([m, torch.ones_like(m)]) for m in mean]
        inverse = [_as(self.dtype, d).reciprocal() for d in self.deviation]
        mean = [torch.zeros_like(x) for x in inverse] if mean is None else mean
        return [torch.stack(pair) for pair in zip(mean, inverse, strict=True)]


def _as(dtype: torch.dtype, x: Tensor) -> Tensor:
    return x if x.dtype == dtype else x.to(dtype)


def of(
    distance: str,
    mean: Sequence[Tensor] | None,
    deviation: Sequence[Tensor] | None,
    teacher: Sequence[Tensor],
    student: Sequence[Tensor],
    *,
    maps: bool = True,
) -> Comparison:
    """The comparison of features that were checked. ``maps``: it is one of pixels."""
    if distance not in reference.DISTANCES:
        raise ValueError(f"distance must be one of {list(reference.DISTANCES)}, not {distance!r}")
    if maps:
        reference.check_has_maps(distance)
    given = [n for n, x in (("mean", mean), ("deviation", deviation)) if x is not None]
    if distance == "l2" and given:
        raise ValueError(f"distance 'l2' takes no {given[0]}: 'l2_standardized' does")
    if distance == "l2_standardized" and len(given) < 2:
        raise ValueError("distance 'l2_standardized' needs mean and deviation")
    dtype = _arguments.compute_dtype([*teacher, *student])
    return Comparison(
        distance,
        None if mean is None else _statistics("mean", mean, teacher),
        None if deviation is None else _statistics("deviation", deviation, teacher),
        dtype,
    )


def standardized(teacher: Sequence[Tensor], channels: Sequence[Tensor]) -> list[Tensor]:
    """What the kernels compare in place of the teacher (N, C_l, H_l, W_l)."""
    return [
        (t.to(x.dtype) - x[0][:, None, None]) * x[1][:, None, None]
        for t, x in zip(teacher, channels, strict=True)
    ]


def of_standardized(
    gradients: Sequence[Tensor], teacher: Sequence[Tensor], channels: Sequence[Tensor]
) -> list[Tensor]:
    """The gradients of the teacher from those of what `standardized` made of it."""
    return [
        (g * x[1][:, None, None]).to(t.dtype)
        for g, x, t in zip(gradients, channels, teacher, strict=True)
    ]


def _statistics(name: str, tensors: Sequence[Tensor], teacher: Sequence[Tensor]) -> list[Tensor]:
    tensors = _arguments.tensor_list(name, tensors)
    if len(tensors) != len(teacher):
        raise ValueError(
            f"{name} must have {len(teacher)} tensors, one a level, not {len(tensors)}"
        )
    for i, (x, t) in enumerate(zip(tensors, teacher, strict=True)):
        if x.dim() != 1 or x.shape[0] != t.shape[1]:
            raise ValueError(
                f"{name}[{i}] must be ({t.shape[1]},), a number a channel, not "
                f"{_arguments.describe(x)}"
            )
        if x.device != t.device:
            raise ValueError(f"{name}[{i}] is on {x.device}, the features on {t.device}")
        if x.requires_grad and torch.is_grad_enabled():
            raise ValueError(
                f"{name}[{i}] requires a gradient, and it gets none: pass it detached instead"
            )
    return tensors
