"""Statistics of batch norm anew, of the weights as they are now.

While a network is trained they follow its layers by a moving average. After few steps, or by a
momentum as small as 0.01, that is still near where it began, and the network validates like
another one than the trained. An average over batches that go through the weights as they are does
not lag: "precise" batch norm (Wu and Johnson, "Rethinking 'Batch' in BatchNorm", arXiv 2105.07576).
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fastad.training.batches import steps_an_epoch

LEAST_IMAGES = 64  # where there are as many
SHARE = 4  # one of so many batches of an epoch
MOST_BATCHES = 8


def chosen_batches(items: Tensor, batch_size: int) -> list[Tensor]:
    """The items from which statistics are taken, spread over all, in batches equally large.

    The same in every epoch: a quarter of the epoch's batches, but at least `LEAST_IMAGES` images
    and at most `MOST_BATCHES` batches.
    """
    least = math.ceil(LEAST_IMAGES / batch_size)
    count = min(max(least, steps_an_epoch(len(items), batch_size) // SHARE), MOST_BATCHES)
    batch_size = min(batch_size, len(items))
    images = min(count, len(items) // batch_size) * batch_size
    return list(items[torch.arange(images) * len(items) // images].split(batch_size))


def trained_norms(model: nn.Module) -> list[_BatchNorm]:
    """The batch norms with running statistics that a model in training mode trains."""
    return [
        module
        for module in model.modules()
        if isinstance(module, _BatchNorm)
        and module.training
        and module.running_mean is not None
        and all(parameter.requires_grad for parameter in module.parameters())
    ]


@contextmanager
def taken_anew(norms: list[_BatchNorm]) -> Iterator[None]:
    """Within, running statistics become the average over the batches that go through.

    Of a norm that none goes through they stay as they were.
    """
    before = [
        {name: buffer.clone() for name, buffer in norm.named_buffers(recurse=False)}
        for norm in norms
    ]
    momenta = [norm.momentum for norm in norms]
    try:
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # torch's word for a cumulative average
        yield
    finally:
        for norm, momentum, buffers in zip(norms, momenta, before, strict=True):
            norm.momentum = momentum
            if norm.num_batches_tracked == 0:
                norm.load_state_dict(buffers, strict=False)
