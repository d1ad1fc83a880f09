"""The map of a whole image from its tiles."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fastad.backbones import reduced
from fastad.models import AnomalyModel, Prediction
from fastad.models.map_model import Evidence, MapModel
from fastad.tiles.reach import Reach, maps_of, of_overview, reach_of, reaches_apart, require_local
from fastad.tiles.windows import Window, windows, windows_of_overview

BAND = 256  # rows of an image, a multiple of each factor

Prepare = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Grid:
    """Where the tiles lie in an image, or in its overview.

    Attributes:
        factor: how many times smaller it is than the image; all else is in pixels of it.
        size: (height, width).
        rows, columns: the tiles along both sides.
        strides: of each of its maps, down and across.
    """

    factor: int
    size: tuple[int, int]
    rows: list[Window]
    columns: list[Window]
    strides: list[tuple[int, int]]

    @property
    def seen(self) -> int:
        """Pixels that the tiles see together."""
        return math.prod(sum(w.last - w.first for w in one) for one in (self.rows, self.columns))

    def cut(self, images: Tensor, row: int, column: int) -> Tensor:
        """What a tile sees of images (N, 3, H, W), or of their overviews: (N, 3, h, w)."""
        down, across = self.rows[row], self.columns[column]
        return images[:, :, down.first : down.last, across.first : across.last].contiguous()

    def kept(self, level: Tensor, strides: tuple[int, int], row: int, column: int) -> Tensor:
        """What is kept of a level (N, h, w) of what a tile sees."""
        level = level[:, _part(self.rows[row], self.size[0], strides[0])]
        return level[:, :, _part(self.columns[column], self.size[1], strides[1])].clone()


class Tiling:
    """How images of a size are predicted in tiles.

    The networks' memory grows with a tile, not with the image. Of the image its pixels are held,
    those of its overview, its levels' distances and its map.

    Args:
        model: in eval mode, as it was trained. What runs may be a faster copy of it.
        size: (height, width) of the images.
        tile: (height, width) that a tile keeps, about. It sees more around that.
        apart: where the model has an overview, let that alone see as far as it must. Otherwise the
            tile sees as far in full resolution, and its overview is made of the tile.

    Attributes:
        rows, columns: the tiles along both sides.

    Raises:
        ValueError: the model cannot predict tiles of such an image. The message says why.
    """

    def __init__(
        self,
        model: AnomalyModel,
        size: tuple[int, int],
        tile: tuple[int, int],
        *,
        apart: bool = True,
    ):
        require_local(model)
        self.size = size
        which = of_overview(model) if apart else None
        down, across = (
            _along(model, size[axis], tile[axis], which, across=axis == 1) for axis in range(2)
        )
        factors = (1, model.overview)[: len(down)]
        self._grids = [
            Grid(
                factor,
                (-(-size[0] // factor), -(-size[1] // factor)),
                rows,
                columns,
                list(zip(of_rows.strides, of_columns.strides, strict=True)),
            )
            for factor, (rows, of_rows), (columns, of_columns) in zip(
                factors, down, across, strict=True
            )
        ]
        self.rows, self.columns = self._grids[0].rows, self._grids[0].columns
        strides = [iter(grid.strides) for grid in self._grids]
        of_maps = which or [False] * len(self._grids[0].strides)
        self._of_maps = [(self._grids[other], next(strides[other])) for other in of_maps]

    @property
    def halo(self) -> float:
        """Pixels that the networks see for each pixel of the image."""
        return sum(grid.seen for grid in self._grids) / math.prod(self.size)

    @property
    def strides(self) -> list[tuple[int, int]]:
        """Pixels of the image a step of each map of `maps_of`, down and across."""
        return [
            (grid.factor * down, grid.factor * across) for grid, (down, across) in self._of_maps
        ]

    def evidence(
        self,
        look: Callable[[dict[str, Tensor]], Evidence],
        images: Tensor,
        prepare: Prepare = lambda tile: tile,
    ) -> Evidence:
        """The local evidence of a model for images (N, 3, H, W), tile by tile.

        ``look`` gives that of a batch with a tile as "image" (N, 3, h, w), and as "overview" what
        that sees, where it is apart. ``prepare`` makes of a cut what the network takes.
        """
        overviews = [_overview(images, grid.factor, prepare) for grid in self._grids[1:]]
        rows: list[list[Tensor]] = []
        for row in range(len(self.rows)):
            parts = []
            for column in range(len(self.columns)):
                batch = {"image": prepare(self._grids[0].cut(images, row, column))}
                for grid, overview in zip(self._grids[1:], overviews, strict=True):
                    batch["overview"] = grid.cut(overview, row, column)
                found = look(batch)
                parts.append(
                    [
                        grid.kept(level, strides, row, column)
                        for level, (grid, strides) in zip(
                            maps_of(found), self._of_maps, strict=True
                        )
                    ]
                )
            rows.append([torch.cat(each, dim=2) for each in zip(*parts, strict=True)])
        joined = [torch.cat(each, dim=1) for each in zip(*rows, strict=True)]
        ends = len(found.maps), len(found.maps) + len(found.score_maps)
        return Evidence(
            joined[: ends[0]], score_maps=joined[ends[0] : ends[1]], memory_maps=joined[ends[1] :]
        )

    def predict(self, network: AnomalyModel, prepare: Prepare, images: Tensor) -> Prediction:
        """What ``network`` says of images (N, 3, H, W); ``prepare`` as in `evidence`."""
        assert isinstance(network, MapModel)
        found = self.evidence(network.local_evidence, images, prepare)
        return network.judge(network.completed(found), self.size)


def _overview(images: Tensor, factor: int, prepare: Prepare) -> Tensor:
    """Images (N, 3, H, W), a band at a time -> (N, 3, ⌈H / factor⌉, ⌈W / factor⌉)."""
    parts = []
    for band in images.split(BAND, dim=2):
        band = prepare(band.contiguous())
        band = band.float() / 255 if band.dtype == torch.uint8 else band
        parts.append(reduced(band, factor))
    return torch.cat(parts, dim=2)


def _along(
    model: AnomalyModel, length: int, tile: int, which: list[bool] | None, *, across: bool
) -> list[tuple[list[Window], Reach]]:
    """The tiles along a side, and in its overview where that is apart, with what they need."""
    if which is None:
        reach = reach_of(model, length, across=across)
        return [(windows(length, tile, reach), reach)]
    own, other = reaches_apart(model, which, length, across=across)
    found = windows(length, tile, own, math.lcm(own.step, model.overview * other.step))
    return [(found, own), (windows_of_overview(found, length, model.overview, other), other)]


def _part(window: Window, length: int, stride: int) -> slice:
    """What is kept of a level of what a tile sees; to the end of the image all that there is."""
    begin = (window.begin - window.first) // stride
    if window.end == length:
        return slice(begin, None)
    return slice(begin, begin + (window.end - window.begin) // stride)
