"""One training by several processes: each computes a share of every batch, and all stay alike.

All processes shuffle by the same seed, so the order of the images does not depend on their number.
Each takes its share of a batch. A share's losses are weighted by its part of the batch, and the
gradients of all are added: they are those of the whole batch, also where shares differ in size.
Batch norm takes the statistics of the whole batch, on a CPU, too (`synced_norms`). What is not
trained by steps, every process computes for itself, in the same way.

`torch.distributed` does the communication. Its DistributedDataParallel gives each process the same
weight, and knows one loss and no frozen parameters that change from step to step. So gradients are
added here, in one message a step.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fastad.training.machine import ALONE, Machine
from fastad.training.stages import derived_seed


class Shares:
    """What this process does of a training; the whole of it where it is alone.

    Attributes:
        number, count: of this process, from 0, and of all.
    """

    def __init__(self) -> None:
        together = distributed.is_available() and distributed.is_initialized()
        self.number = distributed.get_rank() if together else 0
        self.count = distributed.get_world_size() if together else 1
        self._machine: Machine | None = None

    @property
    def is_first(self) -> bool:
        """Whether this process writes and speaks for all."""
        return self.number == 0

    def machine(self, device: torch.device) -> Machine:
        """The processes that keep teachers' features together: on CPUs those of this machine.

        All processes call it at the same time. A GPU keeps them in its own memory.
        """
        if self._machine is None:
            self._machine = Machine.found() if device.type == "cpu" else ALONE
        return self._machine

    def of(self, batch: Tensor) -> Tensor:
        """This process's items of a batch; all of them where there are fewer than processes."""
        if len(batch) < self.count:
            return batch
        return batch.tensor_split(self.count)[self.number]

    def weight(self, batch: Tensor) -> float:
        """The part of the batch that `of` stands for; those of all processes add up to 1."""
        if len(batch) < self.count:
            return 1 / self.count
        return len(self.of(batch)) / len(batch)

    def add_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Replace the gradients by their sums over the processes."""
        if self.count == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([gradient.reshape(-1).float() for gradient in gradients])
        distributed.all_reduce(flat)
        for gradient, total in zip(
            gradients, flat.split([g.numel() for g in gradients]), strict=True
        ):
            gradient.copy_(total.view(gradient.shape))

    def added(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Sums of scalars over the processes, float64."""
        if self.count == 1 or not values:
            return dict(values)
        names = sorted(values)
        total = torch.stack([values[name].double() for name in names])
        distributed.all_reduce(total)
        return dict(zip(names, total, strict=True))

    def agreed(self, value: Any) -> Any:
        """The first process's value, so that all decide alike however they round."""
        if self.count == 1:
            return value
        values = [value]
        distributed.broadcast_object_list(values)
        return values[0]

    def wait(self) -> None:
        """Wait for all processes."""
        if self.count > 1:
            distributed.barrier()

    @contextmanager
    def own_draws(self, *seed: int) -> Iterator[None]:
        """Within, random layers draw otherwise in each process, by a seed; alone, as ever."""
        if self.count == 1:
            yield
            return
        # Outside all draw alike, so that what each computes for itself is the same.
        with torch.random.fork_rng():
            torch.manual_seed(derived_seed(*seed, self.number))
            yield

    @contextmanager
    def synced_norms(self, model: nn.Module) -> Iterator[None]:
        """Within, batch norms in training mode use the statistics of the shares of all processes.

        torch's SyncBatchNorm does so on CUDA alone.
        """
        norms = [m for m in model.modules() if isinstance(m, _BatchNorm)] if self.count > 1 else []
        try:
            for norm in norms:
                norm.forward = partial(_synced, norm)  # type: ignore[method-assign]
            yield
        finally:
            for norm in norms:
                del norm.forward  # that of the class again


class _Added(torch.autograd.Function):
    """The sum of a tensor over the processes; its gradient is the sum of theirs."""

    @staticmethod
    def forward(context: Any, value: Tensor) -> Tensor:
        total = value.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        return total


def _synced(norm: _BatchNorm, values: Tensor) -> Tensor:
    """`torch.nn.functional.batch_norm` of ``values`` (N, C, ...) by all processes' statistics."""
    if not norm.training:
        return type(norm).forward(norm, values)
    axes = [0, *range(2, values.dim())]
    wide = values.double()  # sums of squares of many values lose digits in float32
    own = wide.new_tensor([values.numel() / values.shape[1]])
    total: Tensor = _Added.apply(torch.cat([wide.sum(axes), wide.square().sum(axes), own]))
    count = total[-1].detach()
    mean, square = (total[:-1] / count).chunk(2)
    variance = (square - mean.square()).clamp(min=0)
    if norm.track_running_stats and norm.running_mean is not None:
        _follow(norm, mean.detach(), variance.detach(), float(count))
    scale = (variance + norm.eps).rsqrt()
    weight = 1.0 if norm.weight is None else norm.weight.double()
    shift = 0.0 if norm.bias is None else norm.bias.double()
    scale, offset = scale * weight, shift - mean * scale * weight
    shape = [1, -1, *[1] * (values.dim() - 2)]
    return (wide * scale.view(shape) + offset.view(shape)).to(values.dtype)


@torch.no_grad()
def _follow(norm: _BatchNorm, mean: Tensor, variance: Tensor, count: float) -> None:
    """Let running statistics follow those of a batch, as torch does."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.num_batches_tracked is not None
    norm.num_batches_tracked += 1
    momentum = norm.momentum
    if momentum is None:
        momentum = 1.0 / float(norm.num_batches_tracked)
    norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), momentum)
    unbiased = variance * (count / max(count - 1, 1))
    norm.running_var.lerp_(unbiased.to(norm.running_var.dtype), momentum)
