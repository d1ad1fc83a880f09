"""What to say when a training has left the finite numbers."""

import math

import torch
from torch import Tensor


class TrainingDivergedError(RuntimeError):
    """A loss or an error is no longer a finite number; the message says what to try."""


def require_finite(
    value: Tensor,
    what: str,
    where: str,
    learning_rate: float,
    dtype: torch.dtype,
    stage: str | None = None,
) -> None:
    """Raise `TrainingDivergedError` where a scalar, named ``what``, is not finite.

    ``stage``: its name, where the training has several.
    """
    if math.isfinite(value.item()):
        return
    option = "--set learning_rate" if stage is None else f"--stage {stage}.learning_rate"
    cures = [f"a lower learning rate ({option}={learning_rate / 4:g})"]
    if stage is not None:
        where = f"{where} of stage {stage}"
    if dtype != torch.float32:
        cures.append("--precision float32")
    raise TrainingDivergedError(
        f"the {what} became {value.item()} in {where}; try {' or '.join(cures)}"
    )
