"""A block of an EfficientNet-Lite as it runs in prediction, in one pass, and what comes before.

The expanded channels stay in a thread's cache (csrc/convolution/separable.cpp). In memory they are
six times the block's input, and reading them again would take longer than the arithmetic.
"""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from fastad import _extension
from fastad.backbones.efficientnet_lite import EfficientNetLite, MBConv
from fastad.engine import fakes  # noqa: F401 (what the op's result looks like)
from fastad.engine.convolution import folded

GROUP = 16  # channels that the kernel computes together
PANEL = 32  # filters of a first convolution that it computes together
CHUNK = 64  # values that it sums in integers when it projects; expanding it sums all


class SeparableBlock(nn.Module):
    """A block with its batch norms, in float32 between layers: see `suits`.

    ``forward`` takes and returns (N, C, H, W). With ``int16`` the products of the 1x1 convolutions
    are of 16-bit integers, else of float32.
    """

    def __init__(self, block: MBConv, *, int16: bool = False):
        super().__init__()
        depthwise, bias = _of(block, "_depthwise_conv", "_bn1")
        project, last = _of(block, "_project_conv", "_bn2")
        self.filters, inner = len(project), len(depthwise)
        missing = -self.filters % GROUP
        project = functional.pad(project, (0, 0, 0, 0, 0, 0, 0, missing))
        self.project = nn.Buffer(_packed(project, int16, CHUNK)[None])
        first = bias.new_zeros(inner)
        expand = self.project.new_zeros(inner // GROUP, 0, GROUP)
        if block.expands:
            weight, first = _of(block, "_expand_conv", "_bn0")
            expand = _packed(weight, int16, weight.shape[1])
        self.expand = nn.Buffer(expand[None])
        self.depthwise = nn.Buffer(_packed(depthwise)[None])
        last = functional.pad(last, (0, missing))
        self.bias = nn.Buffer(torch.cat([first, bias, last]).float()[None])
        self.geometry = (self.filters, block.side, block.stride, block.adds)

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(torch.float32, memory_format=torch.channels_last)
        return torch.ops.fastad.separable_block(
            x, self.expand, self.depthwise, self.project, self.bias, *self.geometry
        )

    @staticmethod
    def suits(block: MBConv) -> bool:
        """Whether this can take the place of a block, on this processor."""
        weight = block._depthwise_conv.weight
        return (
            _extension.cpu_convolutions
            and weight.device.type == "cpu"
            and len(weight) % GROUP == 0
            and block.side in (3, 5)
            and block.stride in (1, 2)
        )


class SeparableStem(nn.Module):
    """What comes before a network's blocks, in float32, in one pass: see `EfficientNetLite.stem`.

    Wherever its blocks are `SeparableBlock`, this can take its place.
    """

    def __init__(self, network: EfficientNetLite):
        super().__init__()
        weight, bias = folded(network._conv_stem, network._bn0)
        rows = weight.permute(0, 2, 3, 1).reshape(-1, PANEL, weight[0].numel())
        self.weight, self.bias = nn.Buffer(rows.mT.contiguous().float()), nn.Buffer(bias.float())
        scaling = torch.stack([network.scale.flatten(), network.shift.flatten()])
        self.scaling = nn.Buffer(scaling.float())

    def forward(self, images: Tensor) -> Tensor:
        images = images.to(torch.float32, memory_format=torch.channels_last)
        return torch.ops.fastad.separable_stem(images, self.scaling, self.weight, self.bias)


def _of(block: MBConv, convolution: str, norm: str) -> tuple[Tensor, Tensor]:
    """A convolution's weight and bias with its batch norm in them."""
    return folded(
        cast(nn.Conv2d, block.get_submodule(convolution)),
        cast(nn.BatchNorm2d, block.get_submodule(norm)),
    )


def _packed(weight: Tensor, int16: bool = False, chunk: int = 0) -> Tensor:
    """(K, C, h, w) float64 -> (K / 16, C * h * w, 16) float32, or as slabs of int16."""
    rows = weight.reshape(len(weight), -1).contiguous()
    if int16:
        return torch.ops.fastad.pack_separable(rows, chunk)
    return rows.view(-1, GROUP, rows.shape[1]).mT.contiguous().float()
