"""Forward and backward passes of training steps on CUDA, recorded once and launched as one.

Launching a step's hundreds of kernels takes a processor longer than they take a GPU for a small
batch. What updates the parameters stays outside: learning rates change from step to step.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

EAGER = 3  # steps of a shape before it is recorded: libraries choose their kernels in the first
MOST_GRAPHS = 4  # of different shapes: full batches and the last one, of one or two steps

log = logging.getLogger("fastad")

Losses = dict[str, Tensor]


class StepGraphs:
    """Runs steps that are the same operations for every batch of a shape.

    The first steps of a shape run kernel by kernel; then one is recorded, which computes nothing,
    and launched from then on. Where that fails (a model that waits for the device, or allocates on
    the CPU), steps go on kernel by kernel.

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
        recordable = self._record is not None and all(isinstance(x, Tensor) for x in tensors)
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
        return {name: loss.detach() for name, loss in compute(batch).items()}

    def _new(self, batch: dict, parameters: Sequence[Tensor], compute: Callable) -> Any:
        assert self._record is not None  # `run` asked
        try:
            return self._record(batch, parameters, compute)
        except RuntimeError as error:
            log.warning(f"training without CUDA graphs: {error}")
            self._record = None
            return None


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
        current = torch.cuda.current_stream()
        for parameter in self._parameters:
            parameter.grad = None
        try:
            with torch.cuda.graph(self._graph, stream=current, capture_error_mode="thread_local"):
                self._losses = {k: v.detach() for k, v in compute(self._batch).items()}
        except RuntimeError:
            torch.cuda.set_stream(current)  # a capture that fails leaves its own in place
            raise
        self._gradients = [parameter.grad for parameter in self._parameters]

    def __call__(self, batch: Mapping[str, Any]) -> Losses:
        for own, given in zip(*map(pytree.tree_leaves, (self._batch, batch)), strict=True):
            own.copy_(given, non_blocking=True)
        self._graph.replay()
        for parameter, gradient in zip(self._parameters, self._gradients, strict=True):
            parameter.grad = gradient
        return {name: loss.clone() for name, loss in self._losses.items()}
