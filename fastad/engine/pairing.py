"""Two residual networks of one kind over the same images at once, as teacher and student are.

In 16-bit integers each thread computes whole networks and images by itself, and no thread waits for
another before the end (csrc/convolution/networks.cpp). Where there are fewer of them than threads,
every convolution runs for both networks in one call, which the threads share.
"""

import copy
from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn

from fastad._threads import thread_count
from fastad.backbones import ResNet, TwoScales
from fastad.engine.convolution import Conv1x1Strided, Convolution, Stem

NOWHERE = -1  # among places; slots are 0 and more, results -2 and less


class Pair(nn.Module):
    """Two folded networks that `pairable` holds for; they share its weights.

    Input (N, 3, H, W); output the feature maps of the first network and those of the second. One
    may have more stages than the other.
    """

    def __init__(self, first: ResNet, second: ResNet):
        super().__init__()
        self.networks = nn.ModuleList([first, second])
        self.stem = cast(Stem, _joined(first.conv1, second.conv1))
        stages = _shared_stages(first, second)
        self.stages = nn.ModuleDict(
            {
                name: _joined(first.get_submodule(name), second.get_submodule(name))
                for name in stages
            }
        )
        kept = {*first.layers, *second.layers, stages[-1]}
        self.program = NetworkSchedule.of(self.stem, self.stages, kept)
        # Whether all convolutions are, the stages of one network alone among them.
        self.in_int16 = self.program is not None and all(
            kernel.weight.dtype == torch.int16 for kernel in _kernels(self.networks)
        )

    def forward(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        if self.program is not None and self.program.suits(2 * len(images)):
            shared = {name: x.chunk(2) for name, x in self.program(images).items()}
        else:
            shared, x = {}, self.stem(images)
            for name, stage in self.stages.items():
                x = stage(x)
                shared[name] = x.chunk(2)
        last = next(reversed(shared.values()))
        found = []
        for index, network in enumerate(cast(Iterable[ResNet], self.networks)):
            levels = {name: parts[index] for name, parts in shared.items()}
            own = last[index]
            for name in network.stages[len(self.stages) :]:
                levels[name] = own = network.get_submodule(name)(own)
            found.append([levels[name] for name in network.layers])
        return found[0], found[1]


class PairOfScales(nn.Module):
    """A `Pair` that looks at an image and at its overview.

    Input as of `TwoScales`; output that of the first network and that of the second.
    """

    def __init__(self, scales: TwoScales, pair: Pair):
        super().__init__()
        self.scales, self.pair, self.in_int16 = scales, pair, pair.in_int16

    def forward(self, images: Tensor | tuple[Tensor, Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        found = zip(*map(self.pair, self.scales.both(images)), strict=True)
        first, second = ([*of_image, *of_overview] for of_image, of_overview in found)
        return first, second


class NetworkSchedule:
    """The convolutions of joined networks as `fastad::residual_networks` takes them.

    Called with images (N, 3, H, W) it returns the results of the stages ``kept``, (2 N, C, h, w).
    """

    def __init__(self, kernels: list[nn.Module], steps: list[int], kept: list[str]):
        self._weights = [kernel.weight for kernel in kernels]
        self._biases = [kernel.bias for kernel in kernels]
        self._padding, self._steps, self._kept = kernels[0].padding, steps, kept

    @staticmethod
    def of(stem: Stem, stages: nn.ModuleDict, kept: set[str]) -> "NetworkSchedule | None":
        """None where a kernel is not in 16-bit integers."""
        convolutions = _kernels(stages)
        if stem.weight.dtype != torch.int16 or not all(
            type(kernel) is Convolution
            and kernel.kernel in ("winograd", "int16")
            and kernel.weight.dtype == torch.int16
            and (kernel.kernel == "int16" or kernel.filters % 32 == 0)
            for kernel in convolutions
        ):
            return None
        kernels: list[nn.Module] = [stem]
        steps: list[int] = []
        names: list[str] = []
        x = 0

        def add(kernel: Convolution, x: int, added: int, to: int) -> int:
            kernels.append(kernel)
            # The fields of a step, as in csrc/convolution/networks.cpp.
            side = 0 if kernel.kernel == "winograd" else kernel.side
            relu = kernel.relu or added != NOWHERE
            steps.extend([side, kernel.stride, int(relu), x, added, to, kernel.filters])
            return to

        def free(*used: int) -> int:
            return next(place for place in range(4) if place not in used)

        for name, stage in stages.items():
            blocks: list[Any] = list(cast(nn.Sequential, stage))
            for block in blocks:
                added = x
                if not isinstance(block.shortcut, nn.Identity):
                    added = add(block.shortcut, x, NOWHERE, free(x))
                *before, last = block.convolutions
                y = x
                for kernel in before:
                    y = add(kernel, y, NOWHERE, free(x, y, added))
                to = added if added >= 0 else free(y)
                if block is blocks[-1] and name in kept:
                    to = -2 - len(names)
                    names.append(name)
                x = add(last, y, added, to)
        return NetworkSchedule(kernels, steps, names)

    def suits(self, tasks: int) -> bool:
        """Whether so many images and networks give every thread about as much to do."""
        threads = thread_count()
        return tasks % threads == 0 or tasks >= 4 * threads

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        images = images.to(torch.float32, memory_format=torch.channels_last)
        found = torch.ops.fastad.residual_networks(
            images, self._weights, self._biases, self._steps, self._padding
        )
        return dict(zip(self._kept, found, strict=True))


def paired(first: nn.Module, second: nn.Module) -> Pair | PairOfScales | None:
    """Two folded networks as one module that computes both. None where they are not of one kind."""
    if isinstance(first, TwoScales) and isinstance(second, TwoScales):
        pair = paired(first.backbone, second.backbone)
        return PairOfScales(first, pair) if isinstance(pair, Pair) else None
    if not pairable(first, second):
        return None
    return Pair(cast(ResNet, first), cast(ResNet, second))


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
    kinds = (Convolution, Conv1x1Strided, Stem)
    return [module for module in network.modules() if isinstance(module, kinds)]
