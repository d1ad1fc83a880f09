"""Which directions patch features of normal images hardly vary in, and how far one goes there.

The residual of principal components, as in SubspaceAD (CVPR 2026), here on the features of a
convolutional network. Or the Mahalanobis distance of one normal distribution, as in PaDiM (Defard
et al., 2021), here one for all places. Both are closed forms of mean and covariance.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

LEAST_VARIANCE = 0.01  # of the mean: directions that vary less would drown the others
VARIANCE = 0.99  # share of the variance that the components explain


def patch_features(levels: Sequence[Tensor]) -> Tensor:
    """Levels (N, C_l, H_l, W_l), large to small -> patch features (N, D, h, w) on the first's grid.

    Every level is averaged over 3 x 3 places, resized to that grid and put behind it. Places beyond
    the edge count as zeros, as in PatchCore's code.
    """
    first, *others = (functional.avg_pool2d(level, 3, 1, 1) for level in levels)
    grid = first.shape[-2:]
    resized = [functional.interpolate(x, grid, mode="bilinear") for x in others]
    return torch.cat([first, *resized], dim=1)


def as_rows(features: Tensor) -> Tensor:
    """(N, D, h, w) -> (N * h * w, D)."""
    return features.permute(0, 2, 3, 1).flatten(0, 2)


@dataclass
class Moments:
    """Number, sum and products of patch features, in float64. They add, and are taken out again.

    Attributes:
        count: how many.
        total: (D,) their sum.
        products: (D, D) sum of their outer products.
    """

    count: int
    total: Tensor
    products: Tensor

    @classmethod
    def empty(cls, width: int, device: torch.device) -> "Moments":
        """Of no features of this width."""
        total = torch.zeros(width, dtype=torch.float64, device=device)
        return cls(0, total, total.outer(total))

    def add(self, features: Tensor) -> None:
        """Count patch features (N, D, h, w)."""
        rows = as_rows(features).double()
        self.count, self.total = self.count + len(rows), self.total + rows.sum(dim=0)
        self.products = self.products + rows.mT @ rows

    def __add__(self, other: "Moments") -> "Moments":
        total, products = self.total + other.total, self.products + other.products
        return Moments(self.count + other.count, total, products)

    def __sub__(self, other: "Moments") -> "Moments":
        total, products = self.total - other.total, self.products - other.products
        return Moments(self.count - other.count, total, products)


class SubspaceResidual(nn.Module):
    """The distance ‖A x - b‖ of patch features x: (N, D, h, w) -> (N, h, w).

    Attributes:
        directions: A, (R, D), R from 1 to D. Before `fit` there are none, and x itself is measured.
        offset: b, (R,), A times the mean.
    """

    directions: Tensor
    offset: Tensor

    def __init__(self, width: int):
        super().__init__()
        self.register_buffer("directions", torch.empty(0, width))
        self.register_buffer("offset", torch.empty(0))

    @torch.no_grad()
    def fit(
        self, batches: Iterable[Tensor], distance: str = "residual", variance: float = VARIANCE
    ) -> None:
        """Take mean and covariance of patch features (N, D, h, w), in float64.

        Args:
            distance: "residual" is the length of what the principal components do not explain,
                "mahalanobis" counts every direction in units of its standard deviation.
            variance: share of the variance that the components explain. Of "residual".
        """
        moments = Moments.empty(self.directions.shape[1], self.offset.device)
        for features in batches:
            moments.add(features)
        self.fit_moments(moments, distance, variance)

    @torch.no_grad()
    def fit_moments(
        self, moments: Moments, distance: str = "residual", variance: float = VARIANCE
    ) -> None:
        """As `fit`, of features that were counted before."""
        mean = moments.total / moments.count
        covariance = moments.products / moments.count - mean.outer(mean)
        variances, axes = torch.linalg.eigh(covariance)  # least first
        variances = variances.clamp_min(0)
        if distance == "residual":
            directions = axes.mT[: unexplained(variances, variance)]
        else:
            least = LEAST_VARIANCE * variances.mean()
            deviations = (variances + least).sqrt() if least > 0 else torch.ones_like(variances)
            directions = axes.mT / deviations[:, None]
        self.directions = directions.to(self.directions)
        self.offset = (directions @ mean).to(self.offset)

    def forward(self, features: Tensor) -> Tensor:
        # Half precision would round away what little is left of a normal patch.
        with torch.autocast(features.device.type, enabled=False):
            rows = as_rows(features.to(self.directions.dtype))
            left = rows
            if len(self.directions):
                left = functional.linear(rows, self.directions, -self.offset)
        distances = left.square().sum(dim=1).sqrt()
        # len() would fix the number of images in an exported graph.
        return distances.view(features.shape[0], features.shape[-2], features.shape[-1])

    def _load_from_state_dict(self, state: Mapping[str, Tensor], prefix: str, *rest: Any) -> None:
        # How many directions there are is for the training images to say.
        found = state.get(f"{prefix}directions")
        if found is not None and found.shape[1:] == self.directions.shape[1:]:
            self.directions = self.directions.new_empty(found.shape)
            self.offset = self.offset.new_empty(len(found))
        super()._load_from_state_dict(state, prefix, *rest)


def unexplained(variances: Tensor, share: float) -> int:
    """How many of the axes, of variances (D,) from the least up, are no components: at least 1.

    The components are the fewest that have ``share`` of the variance, none where there is none.
    """
    total = variances.sum()
    if total == 0:
        return len(variances)
    left = variances.cumsum(dim=0)  # by all axes up to this one
    return max(int((left <= (1 - share) * total).sum()), 1)
