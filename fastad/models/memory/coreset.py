"""Few vectors that stand for many: a sample of bounded size, and the farthest ones of that."""

import torch
from torch import Tensor

GROUP = 256  # of the farthest points, of which the next ones are chosen


class Sample:
    """Rows drawn from batches that come one by one, each as likely as any other.

    At most 2 · ``size`` rows and one batch are held. Random numbers are torch's.

    Args:
        size: rows at most; all, where there are no more.
    """

    def __init__(self, size: int):
        self.size, self.seen = size, 0
        self._rows: list[Tensor] = []
        self._keys: list[Tensor] = []
        self._limit = torch.inf  # keys above it are not among the lowest

    def add(self, rows: Tensor) -> None:
        """Count in more rows (n, D)."""
        self.seen += len(rows)
        keys = torch.rand(len(rows), dtype=torch.float64)
        kept = (keys < self._limit).nonzero()[:, 0]
        self._keys.append(keys[kept])
        self._rows.append(rows[kept.to(rows.device)])
        if sum(map(len, self._keys)) > 2 * self.size:
            self._cut()

    def rows(self) -> Tensor:
        """The sample, in the order in which its rows came: (n, D)."""
        self._cut()
        return self._rows[0]

    def _cut(self) -> None:
        keys, rows = torch.cat(self._keys), torch.cat(self._rows)
        if len(keys) > self.size:
            lowest = keys.topk(self.size, largest=False)
            self._limit = lowest.values.max().item()
            chosen = lowest.indices.sort().values
            keys, rows = keys[chosen], rows[chosen.to(rows.device)]
        self._keys, self._rows = [keys], [rows]


def projected(points: Tensor, length: int) -> Tensor:
    """Points (n, D) in ``length`` random directions: (n, length). As they are where D is no longer.

    Distances stay about the same (Johnson and Lindenstrauss, 1984), up to a common factor.
    """
    if points.shape[1] <= length:
        return points
    directions = torch.randn(points.shape[1], length).to(points)
    return points @ directions


def farthest_first(points: Tensor, count: int) -> Tensor:
    """Indices of ``count`` of the points (n, D), at most n, each the farthest from those before it.

    The greedy k-centre coreset of Sener and Savarese (ICLR 2018). The first one is the farthest
    from the mean.

    Done step by step it reads all points for each one that it chooses: count·n·D·4 bytes. Here the
    `GROUP` farthest points are compared among themselves first. Those chosen before one of them
    falls below all other points are the right ones, as distances only fall. Then all points are
    read once. 2,048 of 50,000 patches of a bottle take 25 rounds, so the products are what is left:
    2·count·n·D operations.
    """
    points = points - points.mean(dim=0)  # short vectors round less
    squares = points.square().sum(dim=1)
    distances, chosen = squares.clone(), points.new_empty(0, dtype=torch.int64)
    count = min(count, len(points))
    while len(chosen) < count:
        farthest = distances.topk(min(GROUP + 1, len(points)))
        limit = -torch.inf if len(points) <= GROUP else farthest.values[-1].item()
        group = farthest.indices[:GROUP]
        own, length = points[group], squares[group]
        apart = torch.addmm(length[:, None] + length, own, own.mT, alpha=-2)
        # Small steps that wait for each other: nothing for a device, or for several threads.
        picked = _first_ones(farthest.values[:GROUP].cpu(), apart.cpu(), limit, count - len(chosen))
        new = group[picked.to(group.device)]
        # ‖x - c‖² but for ‖x‖², which is the same for all c.
        to_new = torch.addmm(squares[new], points, points[new].mT, alpha=-2).amin(dim=1)
        torch.minimum(distances, to_new.add_(squares), out=distances)
        distances[new] = -torch.inf  # not again, whatever rounding makes of 0
        chosen = torch.cat([chosen, new])
    return chosen


def _first_ones(distances: Tensor, apart: Tensor, limit: float, count: int) -> Tensor:
    """The greedy choice in a group, up to ``count`` points or until all are below the limit.

    distances: of each to what was chosen before, (g,). It is changed. apart: between them, (g, g).
    """
    picked: list[int] = []
    while len(picked) < count:
        index = int(distances.argmax())
        if distances[index] < limit:
            break
        picked.append(index)
        torch.minimum(distances, apart[index], out=distances)
        distances[index] = -torch.inf
    return torch.tensor(picked)
