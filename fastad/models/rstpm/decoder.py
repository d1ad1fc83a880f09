"""A decoder that rebuilds a backbone's feature pyramid from one small feature map.

Mirrored residual blocks after Deng and Li, "Anomaly detection via reverse distillation from
one-class embedding", CVPR 2022; the gates are those of RSTPM (`fastad.models.rstpm.model`).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from fastad.backbones.resnet import Bottleneck

MIN_PLANES = 64  # channels of a block's inner convolutions: fewer save nothing and learn badly
MIN_GATE = 8  # channels inside a gate


class Gate(nn.Module):
    """One number in (0, 1) a position, from a feature map (N, C, H, W): (N, 1, H, W).

    3x3 convolution to ``hidden`` channels, batch norm, ReLU, 1x1 convolution, sigmoid.
    """

    def __init__(self, channels: int, hidden: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, hidden, 3, padding=1, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, 1, 1),
            nn.Sigmoid(),
        )

    def forward(self, features: Tensor) -> Tensor:
        return self.layers(features)


class Block(nn.Module):
    """A bottleneck block; with a projected shortcut where the channels change.

    It may end at another size, to which nearest neighbours are repeated. A ``signed`` one ends
    without ReLU.
    """

    def __init__(self, inputs: int, outputs: int, *, projected: bool, signed: bool = False):
        super().__init__()
        self.signed = signed
        planes = max(outputs // Bottleneck.expansion, MIN_PLANES)
        self.conv1 = nn.Conv2d(inputs, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut: nn.Module = nn.Identity()
        if projected:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        # 1x1 convolutions come before the upsampling: the same result for a quarter of the work.
        shortcut = self.shortcut(x)
        x = self.relu(self.bn1(self.conv1(x)))
        if size is not None:
            shortcut, x = functional.interpolate(shortcut, size), functional.interpolate(x, size)
        x = self.relu(self.bn2(self.conv2(x)))
        x = self.bn3(self.conv3(x)) + shortcut
        return x if self.signed else self.relu(x)


class _Level(nn.Module):
    """Up to one level of the pyramid: blocks, the gate, and a last block behind it.

    Behind the gate there must be a convolution. The features that come out are normalised over
    their channels before they are compared, and a positive factor a position would cancel.
    """

    def __init__(
        self, inputs: int, outputs: int, blocks: int, gate_hidden: int | None, signed: bool
    ):
        super().__init__()
        self.up = Block(inputs, outputs, projected=True)
        self.blocks = nn.Sequential(
            *(Block(outputs, outputs, projected=False) for _ in range(blocks - 2))
        )
        self.gate = None if gate_hidden is None else Gate(outputs, gate_hidden)
        self.last = Block(outputs, outputs, projected=False, signed=signed)

    def forward(self, x: Tensor, guide: Tensor) -> Tensor:
        x = self.blocks(self.up(x, guide.shape[-2:]))
        if self.gate is not None:
            gate = self.gate(guide.to(x.dtype))
            # Nothing else holds x: in place where no gradient needs what it was.
            x = x * gate if torch.is_grad_enabled() else x.mul_(gate)
        return self.last(x)


class Decoder(nn.Module):
    """From a bottleneck (N, inputs, h, w) to the pyramid of a teacher, from its smallest level up.

    Args:
        inputs: channels of the bottleneck.
        channels: channels of the levels, as the teacher gives them (the largest level first).
        blocks: residual blocks of every level, at least 2.
        attention: gate every level by the teacher's feature map of it.
        attention_reduction: the gates' hidden channels are the level's divided by this, 8 at least.
        signed: whether the teacher's features hold values below 0; the levels then end without
            ReLU, after which these could not be met.

    ``forward`` takes the bottleneck and the teacher's levels, of which only gates and sizes see
    anything, and returns levels of the same shapes.
    """

    def __init__(
        self,
        inputs: int,
        channels: Sequence[int],
        *,
        blocks: Sequence[int],
        attention: bool,
        attention_reduction: int,
        signed: bool = False,
    ):
        super().__init__()
        levels = []
        for outputs, depth in reversed(list(zip(channels, blocks, strict=True))):
            hidden = max(outputs // attention_reduction, MIN_GATE) if attention else None
            levels.append(_Level(inputs, outputs, depth, hidden, signed))
            inputs = outputs
        self.levels = nn.ModuleList(levels)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, bottleneck: Tensor, guides: Sequence[Tensor]) -> list[Tensor]:
        x, features = bottleneck, []
        for level, guide in zip(self.levels, reversed(guides), strict=True):
            x = level(x, guide)
            features.append(x)
        return features[::-1]
