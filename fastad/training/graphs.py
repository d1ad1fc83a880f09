"""Forward and backward passes of training steps on CUDA, recorded once and launched as one.

Launching a step's hundreds of kernels takes a processor longer than they take a GPU for a small
batch. What updates the parameters stays outside: learning rates change from step to step.

`torch.cuda.make_graphed_callables` would change the training. It warms up on passes of its own.
They change batch norm's statistics and draw random numbers. Here every pass is a step.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from fastad.training.capture import can_capture, capture, watch_for_waits

EAGER = 3  # steps of a shape before it is recorded: libraries choose their kernels in the first
MOST_GRAPHS = 4  # of different shapes: full batches and the last one, of one or two steps

log = logging.getLogger("fastad")

Losses = dict[str, Tensor]


class StepGraphs:
    """Runs steps that are the same operations for every batch of a shape.

    The first steps of a shape run kernel by kernel; then one is recorded, which computes nothing,
    and launched from then on. Where that fails, or the last of the first steps has waited for the
    device, steps go on kernel by kernel.

    Args:
        record: makes what is launched, as `Recording`; None runs every step as it is.
    """

    def __init__(self, record: Callable[..., Any] | None):
        self._record = record
        self._steps: dict[tuple, Any] = {}

    def run(
        self,
        name: str,
        batch: dict[str, Any],
        parameters: Sequence[Tensor],
        compute: Callable[[dict[str, Any]], Mapping[str, Tensor]],
    ) -> Losses:
        """``compute(batch)``'s losses, detached, and its gradients in ``parameters``.

        ``name`` tells steps of different operations apart. Gradients from before are gone.
        """
        tensors, structure = pytree.tree_flatten(dict(batch))
        recordable = self._record is not None and can_capture()
        recordable = recordable and all(isinstance(x, Tensor) for x in tensors)
        key = (name, structure, *((tuple(x.shape), x.dtype) for x in tensors if recordable))
        step = self._steps.get(key, 0)
        if recordable and step == EAGER:
            recorded = sum(not isinstance(known, int) for known in self._steps.values())
            step = self._new(batch, parameters, compute) if recorded < MOST_GRAPHS else None
            self._steps[key] = step
        if not isinstance(step, int) and step is not None:
            return step(batch)
        if recordable and isinstance(step, int):
            self._steps[key] = step + 1
        for parameter in parameters:
            parameter.grad = None
        if recordable and step == EAGER - 1:
            losses, waits = watch_for_waits(lambda: compute(batch))
            if waits:
                self._give_up("the model waits for the device")
        else:
            losses = compute(batch)
        return {name: loss.detach() for name, loss in losses.items()}

    def _new(self, batch: dict, parameters: Sequence[Tensor], compute: Callable) -> Any:
        assert self._record is not None  # `run` asked
        try:
            return self._record(batch, parameters, compute)
        except RuntimeError as error:
            self._give_up(str(error))
            return None

    def _give_up(self, why: str) -> None:
        log.warning(f"training without CUDA graphs: {why}")
        self._record = None


def recorder(device: torch.device) -> Callable[..., Any] | None:
    """What records steps on this device; None where nothing does."""
    return Recording if device.type == "cuda" else None


class Recording:
    """One step of one shape on CUDA, in the stream that is current; see `StepGraphs`."""

    def __init__(
        self,
        batch: dict[str, Any],
        parameters: Sequence[Tensor],
        compute: Callable[[dict[str, Any]], Mapping[str, Tensor]],
    ):
        self._batch = pytree.tree_map(lambda x: x.clone(memory_format=torch.preserve_format), batch)
        self._parameters = list(parameters)
        self._graph = torch.cuda.CUDAGraph()
        for parameter in self._parameters:
            parameter.grad = None
        with capture(self._graph):
            self._losses = {k: v.detach() for k, v in compute(self._batch).items()}
        self._gradients = [parameter.grad for parameter in self._parameters]

    def __call__(self, batch: Mapping[str, Any]) -> Losses:
        for own, given in zip(*map(pytree.tree_leaves, (self._batch, batch)), strict=True):
            own.copy_(given, non_blocking=True)
        self._graph.replay()
        for parameter, gradient in zip(self._parameters, self._gradients, strict=True):
            parameter.grad = gradient
        return {name: loss.clone() for name, loss in self._losses.items()}
