"""Two residual networks of one kind over the same images at once, as teacher and student are.

Every convolution runs for both in one call, which the threads share: with two of them each computes
one network, and what it computes stays in its processor's own cache.
"""

import copy

import torch
from torch import Tensor, nn

from fastad.backbones import ResNet
from fastad.inference.convolution import Convolution, Projection, Stem


class Pair(nn.Module):
    """Two folded networks that `pairable` holds for; they share its weights.

    Input (N, 3, H, W); output the feature maps of the first network and those of the second. One
    may have more stages than the other.
    """

    def __init__(self, first: ResNet, second: ResNet):
        super().__init__()
        self.networks = nn.ModuleList([first, second])
        self.stem = _joined(first.conv1, second.conv1)
        stages = _shared_stages(first, second)
        self.stages = nn.ModuleDict(
            {
                name: _joined(first.get_submodule(name), second.get_submodule(name))
                for name in stages
            }
        )

    def forward(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        x = self.stem(images)
        shared = {}
        for name, stage in self.stages.items():
            x = stage(x)
            shared[name] = x.chunk(2)
        found = []
        for index, network in enumerate(self.networks):
            levels = {name: parts[index] for name, parts in shared.items()}
            own = x.chunk(2)[index]
            for name in network.stages[len(shared) :]:
                levels[name] = own = network.get_submodule(name)(own)
            found.append([levels[name] for name in network.layers])
        return found[0], found[1]


def pairable(first: nn.Module, second: nn.Module) -> bool:
    """Whether two folded networks are of one kind, and their convolutions such that they can take
    the images of two networks."""
    if type(first) is not ResNet or type(second) is not ResNet:
        return False
    for name in ("conv1", *_shared_stages(first, second)):
        one, two = (_kernels(network.get_submodule(name)) for network in (first, second))
        if len(one) != len(two):
            return False
        for a, b in zip(one, two, strict=True):
            if type(a) is not type(b) or not (a.in_groups and b.in_groups):
                return False
            if a.weight.shape != b.weight.shape or a.geometry != b.geometry:
                return False
    return True


def _shared_stages(first: ResNet, second: ResNet) -> list[str]:
    return [name for name in first.stages if name in second.stages]


def _joined(first: nn.Module, second: nn.Module) -> nn.Module:
    """One module with the weights of both, which become views of its own."""
    joined = copy.deepcopy(first)
    for both, one, two in zip(*map(_kernels, (joined, first, second)), strict=True):
        for name in ("weight", "bias"):
            value = torch.stack([getattr(one, name), getattr(two, name)])
            setattr(both, name, nn.Buffer(value))
            for kernel, part in zip((one, two), value, strict=True):
                setattr(kernel, name, nn.Buffer(part))
    return joined


def _kernels(network: nn.Module) -> list[nn.Module]:
    kinds = (Convolution, Projection, Stem)
    return [module for module in network.modules() if isinstance(module, kinds)]
