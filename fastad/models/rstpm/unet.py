"""A small U-Net: Ronneberger et al., "U-Net", MICCAI 2015, with batch norm."""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional


class UNet(nn.Module):
    """From maps (N, inputs, H, W) to one logit a position, (N, H, W).

    Four encoder blocks, of which the last is the bottleneck, and three decoder blocks that take
    the encoder's features of their size along. A block is two 3x3 convolutions with batch norm and
    ReLU; the encoder halves the size three times and doubles the channels, from ``width`` on. The
    last convolution starts at zero, so an untrained network says the same everywhere. Any size will
    do: where halving rounds up, the decoder returns to the encoder's sizes.

    Args:
        inputs: number of maps.
        width: channels of the first block.
    """

    DEPTH = 4

    def __init__(self, inputs: int, width: int):
        super().__init__()
        widths = [width << level for level in range(self.DEPTH)]
        self.encoder = nn.ModuleList(
            _block(before, after)
            for before, after in zip([inputs, *widths[:-1]], widths, strict=True)
        )
        self.decoder = nn.ModuleList(
            _block(below + skip, skip)
            for below, skip in zip(widths[:0:-1], widths[-2::-1], strict=True)
        )
        self.head = nn.Conv2d(width, 1, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(cast(Tensor, self.head.bias))

    def forward(self, x: Tensor) -> Tensor:
        skips: list[Tensor] = []
        for index, block in enumerate(self.encoder):
            if index:
                # Odd sizes keep their last row and column; a size of one stays as it is (some
                # runtimes refuse a pool that is larger than its input).
                x = functional.max_pool2d(x, [min(n, 2) for n in x.shape[-2:]], ceil_mode=True)
            x = block(x)
            skips.append(x)
        x = skips.pop()
        for block in self.decoder:
            skip = skips.pop()
            # Nearest neighbours: on CUDA the bilinear backward adds in an order that varies.
            x = functional.interpolate(x, skip.shape[-2:])
            x = block(torch.cat([skip, x], dim=1))
        return self.head(x)[:, 0]


def _block(inputs: int, outputs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before in (inputs, outputs):
        layers += [
            nn.Conv2d(before, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)
