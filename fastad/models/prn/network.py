"""The trained part of PRN: fusion of scales, attention between patches, and a decoder.

Zhang et al., "Prototypical Residual Networks for Anomaly Detection and Localization", CVPR 2023,
arXiv 2212.02031, sections 3.2 and 3.3.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from fastad import ops

PARTS = (2, 4, 8)  # patches along a side, beside the whole map


class Fusion(nn.Module):
    """Every scale gets what all scales see: levels (N, C_l, H_l, W_l) to levels of these shapes.

    Each is the sum of itself, of larger ones after a depthwise convolution that skips positions
    (3x3 for half of the size, 5x5 for a quarter) and a 1x1 convolution, and of smaller ones after a
    1x1 convolution and bilinear upsampling; then batch norm and ReLU.

    Args:
        channels: of the levels, large to small, each of half of the size of the one before it.
    """

    def __init__(self, channels: Sequence[int]):
        super().__init__()
        self.norms = nn.ModuleList(nn.BatchNorm2d(number) for number in channels)
        self.paths = nn.ModuleList(
            nn.ModuleList(
                _path(before, after, target - source) if source != target else nn.Identity()
                for source, before in enumerate(channels)
            )
            for target, after in enumerate(channels)
        )

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        fused = []
        for paths, norm, own in zip(self.paths, self.norms, levels, strict=True):
            assert isinstance(paths, nn.ModuleList)
            size = own.shape[-2:]
            # Paths give their own level's size unless a backbone rounds sizes otherwise.
            parts = [resized(path(x), size) for path, x in zip(paths, levels, strict=True)]
            fused.append(norm(sum(parts[1:], parts[0])).relu_())
        return fused


def _path(before: int, after: int, halvings: int) -> nn.Module:
    if halvings < 0:
        return nn.Conv2d(before, after, 1, bias=False)
    stride = 2**halvings
    return nn.Sequential(
        Depthwise(before, before, stride + 1, stride, stride // 2, groups=before, bias=False),
        nn.Conv2d(before, after, 1, bias=False),
    )


class Depthwise(nn.Conv2d):
    """A convolution of each channel, in float32 under autocast.

    In bfloat16 the gradient of one that skips positions takes twice as long on a CPU.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not torch.is_autocast_enabled(x.device.type):
            return super().forward(x)
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x.to(self.weight.dtype))


def resized(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Maps (N, C, h, w) at another size, bilinear, summed in a fixed order in backward."""
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    if not maps.is_cuda:
        return functional.interpolate(maps, tuple(size), mode="bilinear")
    # On a GPU torch's own backward sums in any order.
    rows = maps.contiguous().flatten(0, 1)
    found = ops.aggregate_maps([rows], (size[0], size[1]), aggregate="sum")
    return found.unflatten(0, maps.shape[:2]).to(maps.dtype)


class Merge(nn.Module):
    """A 3x3 convolution of one map with batch norm, the sum with another, and ReLU."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor, added: Tensor) -> Tensor:
        return (self.bn(self.conv(x)) + added).relu_()


class PatchAttention(nn.Module):
    """Patches of a map attend to each other, in four sizes: (N, C, H, W) to the same shape.

    A patch is one token: of half, a quarter and an eighth of the map's sides, and the whole map,
    whose attention is to itself alone. Tokens of d numbers are compared with the scale 1 / sqrt(d).
    The four results are joined by a 1x1 and a 3x3 convolution and added to the map.

    The paper's queries, keys and values are the map times a factor for each channel. Queries and
    keys meet in a product alone, so one factor does for both; that of the values is one with the
    convolution's weights.

    Args:
        channels: of the map.
    """

    def __init__(self, channels: int):
        super().__init__()
        # Of either sign, as a product of two depthwise convolutions' weights is: were all positive,
        # every patch would be so much like itself that it attends to nothing else.
        self.factors = nn.Parameter(torch.empty(channels).uniform_(-0.5, 0.5))
        self.join = nn.Sequential(
            nn.Conv2d((len(PARTS) + 1) * channels, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
        )
        self.merge = Merge(channels)

    def forward(self, x: Tensor) -> Tensor:
        found = [x, *(_attend(x, self.factors, parts) for parts in PARTS)]
        return self.merge(self.join(torch.cat(found, dim=1)), x)


def _attend(x: Tensor, factors: Tensor, parts: int) -> Tensor:
    """Maps (N, C, H, W) whose patches, about ``parts`` along a side, are means of all patches."""
    size = x.shape[-2:]
    height, width = (-(-length // parts) for length in size)
    below, right = -size[0] % height, -size[1] % width
    if below or right:
        x = functional.pad(x, (0, right, 0, below))
    # (N, C, H, W) -> (N, rows, columns, h, w, C), channels last in memory
    patches = x.permute(0, 2, 3, 1).unflatten(2, (-1, width)).unflatten(1, (-1, height))
    patches = patches.transpose(2, 3).contiguous()
    queries = (patches * factors.to(x.dtype)).flatten(3).flatten(1, 2)
    tokens = patches.flatten(3).flatten(1, 2)
    weights = (queries @ tokens.mT / math.sqrt(tokens.shape[-1])).softmax(dim=-1)
    found = (weights.to(tokens.dtype) @ tokens).view(patches.shape)
    found = found.transpose(2, 3).flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)
    return found[:, :, : size[0], : size[1]]


class Decoder(nn.Module):
    """From the deepest features and the fused levels to one logit a position of the first level.

    Args:
        deepest: channels of the deepest features.
        skips: channels of the levels, large to small.
        widths: channels after each level, likewise.
    """

    def __init__(self, deepest: int, skips: Sequence[int], widths: Sequence[int]):
        super().__init__()
        self.ups, self.blocks = nn.ModuleList(), nn.ModuleList()
        for skip, width in zip(skips[::-1], widths[::-1], strict=True):
            self.ups.append(nn.Sequential(*_conv(deepest, width)))
            self.blocks.append(nn.Sequential(*_conv(skip + width, width), *_conv(width, width)))
            deepest = width
        self.head = nn.Conv2d(deepest, 1, 3, padding=1)

    def forward(self, x: Tensor, levels: Sequence[Tensor]) -> Tensor:
        for up, block, level in zip(self.ups, self.blocks, levels[::-1], strict=True):
            x = resized(up(x), level.shape[-2:])
            x = block(torch.cat([level, x], dim=1))
        return self.head(x)[:, 0]


def _conv(before: int, after: int) -> list[nn.Module]:
    return [
        nn.Conv2d(before, after, 3, padding=1, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU(inplace=True),
    ]
