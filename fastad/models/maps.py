"""From an anomaly map (N, H, W) to the map and the score that a model answers with."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from fastad.models.roi import RegionOfInterest

GRID = 64  # positions along each side of an image that have a mean of their own
PRIOR_IMAGES = 2
PIECE = 2**21  # values that are ordered at once


def mean_of_highest(maps: Tensor, share: float, roi: RegionOfInterest | None = None) -> Tensor:
    """Mean of the highest ``share`` (0 to 1) of each map's pixels, at least one: (N,).

    With a region of interest the share is one of the pixels inside.
    """
    return means_of_highest(maps, [share], roi)[0]


def means_of_highest(
    maps: Tensor, shares: Sequence[float], roi: RegionOfInterest | None = None
) -> list[Tensor]:
    """`mean_of_highest` for each of several shares, (N,) each: the pixels are ordered once."""
    size = (maps.shape[1], maps.shape[2])
    pixels = size[0] * size[1]
    if roi is not None:
        pixels = roi.pixels_of(size)
        maps = maps.masked_fill(~roi.at(size), -torch.inf)
    counts = [max(round(share * pixels), 1) for share in shares]
    if not counts:
        return []
    highest = _highest(maps.flatten(1), max(counts))
    return [highest[:, :count].mean(dim=1) for count in counts]


def _highest(values: Tensor, count: int) -> Tensor:
    """The ``count`` highest of values (N, n), the highest first: (N, count).

    Of many values a piece at a time is ordered: a top-k on a CPU takes 16 bytes a value. A graph
    has no pieces.
    """
    if torch.compiler.is_compiling() or values.shape[1] <= PIECE:
        return values.topk(count).values
    found = values[:, :0]
    for piece in values.split(PIECE, dim=1):
        if len(values) == 1 and found.shape[1] == count:  # few are higher than what there is
            piece = piece[piece > found[:, -1:]][None]
        found = torch.cat([found, piece], dim=1)
        found = found.topk(min(count, found.shape[1])).values
    return found


def deviation(values: Tensor) -> Tensor:
    """The deviation of values (n,), at least a hundredth of their mean; never 0."""
    found = values.std(correction=0)
    least = values.mean() / 100
    return torch.where(least > 0, torch.maximum(found, least), torch.ones_like(least))


class PositionMeans:
    """Means of maps (N, h, w) at each position of a grid, over batches that come one by one.

    Of few images the mean at one place is uncertain: it is drawn towards that of all places, as if
    that had been seen in `PRIOR_IMAGES` more. Outside a region of interest the mean is that of all
    places inside.
    """

    def __init__(self, roi: RegionOfInterest | None = None) -> None:
        self.count, self._sum, self._roi = 0, torch.zeros(()), roi

    def add(self, maps: Tensor) -> None:
        """Count in the maps of more images; of all the same size."""
        self.count, self._sum = self.count + len(maps), self._sum + maps.sum(dim=0)

    def result(self) -> Tensor:
        """The means: (`GRID`, `GRID`)."""
        total = self._sum
        if self._roi is not None:
            total = self._roi.without_outside(total[None])[0]
        mean = total.mean() / self.count
        means = (total + PRIOR_IMAGES * mean) / (self.count + PRIOR_IMAGES)
        return functional.adaptive_avg_pool2d(means[None], GRID)[0]

    def factor(self, scale: str, least: float) -> Tensor:
        """What such maps are multiplied by, to be alike in size: (`GRID`, `GRID`).

        ``scale``: by the mean at each "position", over the whole "image", or by "none"; means below
        ``least`` are taken for that. Nothing is amplified where normal images are quieter than
        elsewhere, as on the background: where the mean is below that of the image, that is taken.
        """
        means = self.result().clamp_min(least)
        if scale == "none":
            return torch.ones_like(means)
        if scale == "image":
            return (1 / means.mean()).expand_as(means)
        return 1 / torch.maximum(means, means.mean())
