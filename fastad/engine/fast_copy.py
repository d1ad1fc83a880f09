"""Copies of a model in training, for looking at images after every epoch."""

import copy
from typing import cast

import torch
from torch import nn

from fastad.engine import precision
from fastad.engine.folding import fold
from fastad.models import AnomalyModel


class FastCopy:
    """Gives a folded copy of a model as it is now, for a `fastad.training.Trainer`.

    What the running stage does not train, such as a teacher, is folded once.

    Args:
        precision: of the training. "auto" and "float32" are taken; "auto" means what it means in
            prediction. For others the model is faster as it is.
    """

    def __init__(self, precision: str):
        self._precision = precision
        self._kept: AnomalyModel | None = None
        self._stage: object = None

    def __call__(self, model: AnomalyModel) -> AnomalyModel | None:
        """A copy in eval mode, which shares no parameters; None where nothing would be faster."""
        device = next(model.parameters()).device
        if self._precision not in ("auto", "float32") or device.type != "cpu":
            return None
        dtype = precision.resolve(self._precision, device)
        if dtype not in (torch.int16, torch.float32):
            return None
        if self._kept is None or self._stage is not model.stage:
            self._kept, self._stage = fold(model, dtype), model.stage
            if self._kept is not None:
                # A pair in one pass would go on with the student of now.
                self._kept.__dict__.pop("extract_pair", None)
            return self._kept
        for name, part in model.named_children():
            if any(parameter.requires_grad for parameter in part.parameters()):
                own = fold(part, dtype)
                setattr(self._kept, name, copy.deepcopy(part).eval() if own is None else own)
        for name, buffer in model.named_buffers(recurse=False):
            cast(nn.Module, self._kept).get_buffer(name).copy_(buffer)
        return self._kept
