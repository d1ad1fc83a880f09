"""The stage between a teacher and the network that reads its deepest features alone."""

from torch import nn

from fastad.backbones.resnet import BasicBlock


def bottleneck_stage(inputs: int, outputs: int) -> nn.Sequential:
    """A residual stage of stride 2: (N, inputs, H, W) -> (N, outputs, ⌈H/2⌉, ⌈W/2⌉)."""
    shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, 2, bias=False), nn.BatchNorm2d(outputs))
    return nn.Sequential(
        BasicBlock(inputs, outputs, 2, shortcut), BasicBlock(outputs, outputs, 1, None)
    )
