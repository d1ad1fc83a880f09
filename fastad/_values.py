"""Options as people hand them over: one place says what a number or an integer is.

Grid searches draw numpy's numbers, tables give arrays, other programs give torch scalars and paths
of other classes. `plain` turns all of them into Python's own values, which JSON can hold.
"""

import dataclasses
import math
import os
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any, TypeGuard

import numpy as np
import torch


def plain(value: Any) -> Any:
    """A value as Python's own bool, int, float, complex, str, list, tuple or dict.

    numpy's and torch's scalars and arrays of no axis become numbers, arrays become lists, paths
    become str. What is inside lists, tuples and dicts is made plain, too. Everything else, such as
    a module, is returned as it is.

    Examples:
        >>> import numpy as np
        >>> from fastad._values import plain
        >>> plain(np.int64(3)), plain(np.array([64, 96])), plain({"a": np.bool_(True)})
        (3, [64, 96], {'a': True})
    """
    if value is None or isinstance(value, (bool, np.datetime64, np.timedelta64)):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value)
    if isinstance(value, (np.bool_, np.complexfloating)):
        return value.item()
    if isinstance(value, os.PathLike):
        return os.fsdecode(value)
    if isinstance(value, torch.Tensor):
        return value.detach().tolist()
    if isinstance(value, Mapping):
        return {plain(name): plain(content) for name, content in value.items()}
    if isinstance(value, tuple):
        return tuple(map(plain, value))
    if isinstance(value, list):
        return list(map(plain, value))
    if isinstance(value, np.ndarray) or hasattr(type(value), "to_numpy"):  # a column of a table
        array = np.asarray(value)
        return list(map(plain, array)) if array.ndim else plain(array[()])
    return value


def is_integer(value: object, minimum: int) -> TypeGuard[int]:
    """Whether a `plain` value is an integer of at least ``minimum``, and no bool."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= minimum


def is_number(value: object, minimum: float = -math.inf) -> TypeGuard[float]:
    """Whether a `plain` value is a finite number of at least ``minimum``, and no bool."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return math.isfinite(value) and value >= minimum


class Options:
    """Base of dataclasses of options: makes them plain, and refuses one by its name and value."""

    def _make_plain(self) -> None:
        """Make every field `plain`."""
        for field in dataclasses.fields(self):  # type: ignore[arg-type]  # of a dataclass
            setattr(self, field.name, plain(getattr(self, field.name)))

    def _require(self, name: str, holds: bool, what: str) -> None:
        """ValueError that says ``what`` a field must be, unless it ``holds``."""
        if not holds:
            raise ValueError(f"{name} must be {what}; got {getattr(self, name)!r:.200}")
