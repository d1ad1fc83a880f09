"""How far a point lies from those that were seen: the nearest neighbours in a bank."""

import torch
from torch import Tensor, nn


class LatentBank(nn.Module):
    """Points (size, L) of normal images, of which the first ``count`` are filled.

    Its size does not depend on the number of images, so that a state fits every model of the same
    options.
    """

    points: Tensor
    count: Tensor

    def __init__(self, size: int, length: int):
        super().__init__()
        self.register_buffer("points", torch.zeros(size, length))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def fill(self, points: Tensor) -> None:
        """Keep points (n, L), of more than there is room for evenly spread ones."""
        size = len(self.points)
        if len(points) > size:
            points = points[torch.arange(size, device=points.device) * len(points) // size]
        self.points.zero_()
        self.points[: len(points)] = points
        self.count.fill_(len(points))

    def distances(self, points: Tensor, neighbours: int, *, leave_out: bool = False) -> Tensor:
        """Mean Euclidean distance of points (N, L) to their nearest in the bank: (N,).

        To all of them where there are fewer than ``neighbours``, 0 where there are none.
        ``leave_out``: the points are the bank's own in order, and do not count as near themselves.
        """
        size = len(self.points)
        squares = (points[:, None] - self.points.to(points.dtype)).square().sum(dim=2)
        places = torch.arange(size, device=points.device)
        absent = (places >= self.count)[None]
        if leave_out:
            absent = absent | (places == places[: len(points), None])
        nearest = squares.masked_fill(absent, torch.inf)
        nearest = nearest.topk(min(neighbours, size), dim=1, largest=False).values
        there = nearest < torch.inf
        distances = nearest.masked_fill(~there, 0).sqrt()
        return distances.sum(dim=1) / there.sum(dim=1).clamp_min(1)
