"""How loud the channels of feature maps are, and factors that make them equally loud."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

QUIETEST = 0.01  # of a level's mean deviation: quieter channels are taken for so loud


@torch.no_grad()
def channel_deviations(batches: Iterable[Sequence[Tensor]]) -> list[Tensor]:
    """Standard deviation of every channel over all images and places of a level: (C_l,) each.

    batches: of each its levels (N, C_l, H_l, W_l).
    """
    sums: list[Tensor] = []
    places: list[int] = []
    for levels in batches:
        if not sums:
            sums = [level.new_zeros(2, level.shape[1], dtype=torch.float64) for level in levels]
            places = [0] * len(levels)
        for index, level in enumerate(levels):
            rows = level.double().transpose(0, 1).flatten(1)
            sums[index] += torch.stack([rows.sum(dim=1), rows.square().sum(dim=1)])
            places[index] += rows.shape[1]
    means = [both / n for both, n in zip(sums, places, strict=True)]
    return [(square - mean.square()).clamp_min(0).sqrt().float() for mean, square in means]


def equalizing(deviations: Tensor) -> Tensor:
    """Factors (C,) after which all channels have the mean of their deviations (C,).

    Those quieter than `QUIETEST` of it are not amplified without bound: they stay quieter.
    """
    mean = deviations.mean()
    if mean == 0:
        return torch.ones_like(deviations)
    return mean / deviations.clamp_min(QUIETEST * mean)


class ChannelScales(nn.Module):
    """A factor for every channel of every level, ones at first.

    Input and output: levels (N, C_l, H_l, W_l).

    Args:
        channels: of every level.
    """

    def __init__(self, channels: Sequence[int]):
        super().__init__()
        for index, number in enumerate(channels):
            self.register_buffer(f"level{index}", torch.ones(number, 1, 1))

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        factors = zip(levels, self.buffers(), strict=True)
        return [level * factor.to(level.dtype) for level, factor in factors]

    def deviations(self) -> list[Tensor]:
        """What the ops take as ``deviation`` (C_l,) to scale the levels on the way."""
        return [1 / factor.flatten() for factor in self.buffers()]

    def reset(self) -> None:
        """Ones again."""
        for factor in self.buffers():
            factor.fill_(1)

    def equalize(self, deviations: Sequence[Tensor]) -> None:
        """Make channels of these deviations (C_l,) equally loud."""
        for factor, found in zip(self.buffers(), deviations, strict=True):
            factor.copy_(equalizing(found)[:, None, None])
