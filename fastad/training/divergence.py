"""What to say when a training has left the finite numbers."""

import math

import torch
from torch import Tensor


class TrainingDivergedError(RuntimeError):
    """A loss or a validation score is no longer a finite number; the message says what to try."""


def require_finite(
    value: Tensor, what: str, where: str, learning_rate: float, dtype: torch.dtype
) -> None:
    """Raise `TrainingDivergedError` where a scalar, named ``what``, is not finite."""
    if math.isfinite(value.item()):
        return
    cures = [f"a lower learning rate (--set learning_rate={learning_rate / 4:g})"]
    if dtype != torch.float32:
        cures.append("--precision float32")
    raise TrainingDivergedError(
        f"the {what} became {value.item()} in {where}; try {' or '.join(cures)}"
    )
