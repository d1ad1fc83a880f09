"""A model whose distance maps are what a test makes up, and a network that trains in no time."""

from dataclasses import dataclass

import torch
from torch import nn

from fastad import ops
from fastad.models.map_model import Evidence, MapModel
from fastad.models.map_options import SCALES, MapOptions
from fastad.models.memory import LevelMemories


@dataclass
class Options(MapOptions):
    scale_maps: str = "none"
    scale_score: str = "none"
    pooling: str | float = "maximum"
    pair_weights: str | tuple[float, ...] = ()
    subspace: str | bool = False
    map_levels: str | tuple[str, ...] = ()
    score_levels: str | tuple[str, ...] = ()
    score_by: str = "maps"


class MadeUp(MapModel):
    """Distance maps come with the batch; pairs are added, levels multiplied."""

    name = "made up"
    Config = Options

    def __init__(self, maps=1, pairs=1, **options):
        super().__init__(Options(**options))
        self.pairs = pairs
        self._add_maps(maps, [2, 2])

    def remember(self):
        """Have a memory that is filled; its maps come with the batch, too."""
        self.memory = LevelMemories([2, 2])
        for memory in self.memory.memories:
            memory.vectors = torch.zeros(1, 2)

    def evidence(self, batch):
        return Evidence(self.level_maps(batch), memory_maps=batch.get("memory", ()))

    def level_maps(self, batch):
        return batch["maps"] if self.subspace is not None else batch["maps"][: self._levels]

    def scalings(self):
        return SCALES if self.pairs > 1 else super().scalings()

    def join(self, maps, factors, size):
        each = len(maps) // self.pairs
        levels = [sum(maps[level::each]) for level in range(each)]
        return ops.aggregate_maps([*levels, *factors], size, return_maximum=True)


class Net(nn.Module):
    """Two levels of 4 and 6 channels, at a quarter and an eighth of an image."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 5, 4, 2), nn.Conv2d(4, 6, 3, 2, 1)

    def forward(self, images):
        first = self.first(images).relu()
        return [first, self.second(first)]


def good_and_bad(good, bad, masks):
    """Batches of made-up maps: lists of (N, h, w), and masks (M, H, W) of the bad ones."""
    images = torch.zeros(len(good[0]), 3, *masks.shape[1:])
    return [{"maps": good, "image": images}], [{"maps": bad, "mask": masks}]
