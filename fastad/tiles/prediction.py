"""The map of a whole image from its tiles."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from fastad.models import AnomalyModel, Prediction
from fastad.models.map_model import Evidence, MapModel
from fastad.tiles.reach import maps_of, reach_of, require_local
from fastad.tiles.windows import Window, windows


class Tiling:
    """How images of a size are predicted in tiles.

    The networks' memory grows with a tile, not with the image. Of the image its pixels are held,
    its levels' distances and its map.

    Args:
        model: in eval mode, as it was trained. What runs may be a faster copy of it.
        size: (height, width) of the images.
        tile: (height, width) that a tile keeps, about. It sees more around that.

    Attributes:
        rows, columns: the tiles along both sides.

    Raises:
        ValueError: the model cannot predict tiles of such an image. The message says why.
    """

    def __init__(self, model: AnomalyModel, size: tuple[int, int], tile: tuple[int, int]):
        require_local(model)
        self.size = size
        self._reach = reach_of(model, size[0]), reach_of(model, size[1], across=True)
        self.rows, self.columns = (
            windows(*sides) for sides in zip(size, tile, self._reach, strict=True)
        )

    @property
    def halo(self) -> float:
        """Pixels that the networks see for each pixel of the image."""
        seen = math.prod(sum(w.last - w.first for w in one) for one in (self.rows, self.columns))
        return seen / math.prod(self.size)

    @property
    def strides(self) -> list[tuple[int, int]]:
        """Pixels a step of each map of `maps_of`, down and across."""
        down, across = (reach.strides for reach in self._reach)
        return list(zip(down, across, strict=True))

    def evidence(self, look: Callable[[Tensor], Evidence], images: Tensor) -> Evidence:
        """The local evidence of a model for images (N, 3, H, W), tile by tile.

        ``look`` gives that of a tile (N, 3, h, w).
        """
        rows: list[list[Tensor]] = []
        for row in self.rows:
            parts = []
            for column in self.columns:
                tile = images[:, :, row.first : row.last, column.first : column.last]
                found = look(tile.contiguous())
                parts.append(self._kept(found, row, column))
            rows.append([torch.cat(each, dim=2) for each in zip(*parts, strict=True)])
        joined = [torch.cat(each, dim=1) for each in zip(*rows, strict=True)]
        ends = len(found.maps), len(found.maps) + len(found.score_maps)
        return Evidence(
            joined[: ends[0]], score_maps=joined[ends[0] : ends[1]], memory_maps=joined[ends[1] :]
        )

    def predict(
        self, network: AnomalyModel, prepare: Callable[[Tensor], Tensor], images: Tensor
    ) -> Prediction:
        """What ``network`` says of images (N, 3, H, W).

        ``prepare`` makes of a tile what the network takes.
        """
        assert isinstance(network, MapModel)
        found = self.evidence(lambda tile: network.local_evidence({"image": prepare(tile)}), images)
        return network.judge(network.completed(found), self.size)

    def _kept(self, found: Evidence, row: Window, column: Window) -> list[Tensor]:
        kept = []
        for level, (down, across) in zip(maps_of(found), self.strides, strict=True):
            level = level[:, _part(row, self.size[0], down)]
            kept.append(level[:, :, _part(column, self.size[1], across)].clone())
        return kept


def _part(window: Window, length: int, stride: int) -> slice:
    """What is kept of a level of what a tile sees; to the end of the image all that there is."""
    begin = (window.begin - window.first) // stride
    if window.end == length:
        return slice(begin, None)
    return slice(begin, begin + (window.end - window.begin) // stride)
