"""Every channel of a trunk's levels as loud as every other, without changing what it computes.

A pretraining leaves some channels of a level with several times the deviation of others. A student
is measured by the distance of whole feature vectors, where a quiet channel says nothing, whatever
it shows; with the deviation of all channels the same, all have a say.

Between the convolutions of a residual network there are sums and rectifiers only: a positive factor
of a channel goes through them. So batch norms write every channel of a stage's residual stream
larger or smaller, and the convolutions that read it take that back.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from fastad.models.channels import equalizing


@torch.no_grad()
def balance(trunk: nn.Module, deviations: Iterable[Tensor]) -> None:
    """Scale the channels of a ResNet-18's stages in place so that their deviations become equal.

    ``deviations``: of every stage's output, from layer1 on; their mean stays what it is.
    """
    batch_norm = [trunk.bn1]  # what writes the stream of the stage, besides its blocks
    stages = [getattr(trunk, name) for name in trunk.layers]
    for stage, following, found in zip(stages, [*stages[1:], None], deviations, strict=True):
        factors = equalizing(found)
        if stage[0].downsample is not None:
            batch_norm = [stage[0].downsample[1]]
        for norm in [*batch_norm, *(block.bn2 for block in stage)]:
            norm.weight *= factors
            norm.bias *= factors
        readers = [block.conv1 for block in stage if block is not stage[0]]
        if stage[0].downsample is None:
            readers.append(stage[0].conv1)
        if following is not None:
            readers += [following[0].conv1, following[0].downsample[0]]
        for convolution in readers:
            convolution.weight /= factors[:, None, None]
