"""Residual networks that return the feature maps of the stages asked for.

He et al., "Deep Residual Learning for Image Recognition", CVPR 2016; wide variant: Zagoruyko and
Komodakis, BMVC 2016. Parameters carry torchvision's state-dict keys, so its files load unchanged.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from fastad.backbones.base import LAYERS, Backbone


def _conv3x3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)


def _conv1x1(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 1, stride, bias=False)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut."""

    expansion = 1

    def __init__(self, inputs: int, planes: int, stride: int, downsample: nn.Module | None):
        super().__init__()
        self.conv1 = _conv3x3(inputs, planes, stride)
        self.bn1 = nn.BatchNorm2d(planes)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = _conv3x3(planes, planes)
        self.bn2 = nn.BatchNorm2d(planes)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.bn2(self.conv2(x))
        x += shortcut
        return self.relu(x)


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions beside a shortcut; the stride sits in the 3x3, as in torchvision.

    ``stride_in_1x1`` moves it to the first 1x1, as in the original Caffe release.
    """

    expansion = 4

    def __init__(
        self,
        inputs: int,
        planes: int,
        stride: int,
        downsample: nn.Module | None,
        *,
        width: int,
        stride_in_1x1: bool,
    ):
        super().__init__()
        first, second = (stride, 1) if stride_in_1x1 else (1, stride)
        self.conv1 = _conv1x1(inputs, width, first)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _conv3x3(width, width, second)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = _conv1x1(width, planes * self.expansion)
        self.bn3 = nn.BatchNorm2d(planes * self.expansion)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        x = self.bn3(self.conv3(x))
        x += shortcut
        return self.relu(x)


@dataclass(frozen=True)
class Architecture:
    """What tells one residual network from another."""

    depths: tuple[int, int, int, int]  # blocks a stage
    bottleneck: bool
    width_factor: int = 1  # of the 3x3 convolution in a bottleneck block
    caffe: bool = False  # stride in the first 1x1, stem pool without padding, ceil_mode


ARCHITECTURES = {
    "resnet18": Architecture((2, 2, 2, 2), bottleneck=False),
    "resnet34": Architecture((3, 4, 6, 3), bottleneck=False),
    "resnet50": Architecture((3, 4, 6, 3), bottleneck=True),
    "wide_resnet50_2": Architecture((3, 4, 6, 3), bottleneck=True, width_factor=2),
    "resnet50_caffe": Architecture((3, 4, 6, 3), bottleneck=True, caffe=True),
}


class ResNet(Backbone):
    """The layers of a residual network, as deep as the deepest of ``layers``.

    The pool of the Caffe layout gives one position less on odd sizes.

    Attributes:
        stages: names of those that there are, from "layer1" to the deepest returned.
    """

    def __init__(self, architecture: Architecture, layers: Sequence[str]):
        super().__init__(layers)
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        # On even sizes both pools give half the size: ceil_mode makes up for the missing padding.
        self.maxpool = nn.MaxPool2d(
            3, stride=2, padding=0 if architecture.caffe else 1, ceil_mode=architecture.caffe
        )
        expansion = Bottleneck.expansion if architecture.bottleneck else BasicBlock.expansion
        inputs, channels, strides = 64, {}, {}
        depth = 1 + max(LAYERS.index(layer) for layer in self.layers)
        self.stages = LAYERS[:depth]
        for index, stage in enumerate(self.stages):
            planes = 64 << index
            self.add_module(stage, _stage(architecture, index, inputs, planes))
            inputs = planes * expansion
            channels[stage], strides[stage] = inputs, 4 << index
        self.channels = [channels[layer] for layer in self.layers]
        self.strides = [strides[layer] for layer in self.layers]
        self._initialize()

    def _initialize(self) -> None:
        # torchvision's initialisation; batch norm starts at scale 1, shift 0 by itself.
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> list[Tensor]:
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        features = {}
        for stage in self.stages:
            x = self.get_submodule(stage)(x)
            features[stage] = x
        return [features[layer] for layer in self.layers]


def _stage(architecture: Architecture, index: int, inputs: int, planes: int) -> nn.Sequential:
    expansion = Bottleneck.expansion if architecture.bottleneck else BasicBlock.expansion
    outputs = planes * expansion
    blocks: list[nn.Module] = []
    for block in range(architecture.depths[index]):
        stride = 2 if index > 0 and block == 0 else 1
        downsample = None
        if stride != 1 or inputs != outputs:
            downsample = nn.Sequential(_conv1x1(inputs, outputs, stride), nn.BatchNorm2d(outputs))
        if architecture.bottleneck:
            width = planes * architecture.width_factor
            blocks.append(
                Bottleneck(
                    inputs,
                    planes,
                    stride,
                    downsample,
                    width=width,
                    stride_in_1x1=architecture.caffe,
                )
            )
        else:
            blocks.append(BasicBlock(inputs, planes, stride, downsample))
        inputs = outputs
    return nn.Sequential(*blocks)
