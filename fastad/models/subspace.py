"""Subspace: how much of a patch feature is none of what normal images vary in.

The residual of principal components, as in SubspaceAD (CVPR 2026), here on the features of a
convolutional network. Or the Mahalanobis distance of one normal distribution, as in PaDiM (Defard
et al., 2021), here one for all places. Both are closed forms of mean and covariance.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fastad._values import is_number
from fastad.models.base import Batches
from fastad.models.patches import PatchModel, PatchOptions, as_rows

LEAST_VARIANCE = 0.01  # of the mean: directions that vary less would drown the others


@dataclass
class SubspaceConfig(PatchOptions):
    """Options of `Subspace`.

    Attributes:
        backbone: network whose features are compared: "resnet18", "resnet34", "resnet50",
            "wide_resnet50_2" or "resnet50_caffe". In Python also any module that returns a list of
            feature maps. It gets images of ImageNet's mean and deviation. ``layers`` and
            ``teacher_weights`` are then unused, and the detector cannot be saved.
        layers: stages whose feature maps are taken, of "layer1" to "layer4". The first one gives
            the grid of the patches.
        teacher_weights: "auto", "embedded", a path, or None ("random") for a network that is loaded
            later. Of a built model it is "embedded" where "auto" came to that.
        distance: "residual" is the length of what the principal components do not explain.
            "mahalanobis" counts every direction, in units of its standard deviation.
        variance: share of the variance that the components explain, between 0 and 1. Of "residual".
        smoothing: standard deviation, in pixels, of the Gaussian over the anomaly map. 0 for none.
        scale_maps: what the distance map is divided by for the anomaly map: "none" (the paper), its
            mean over good images, of the "level" or at each "position", or "auto": what finds more
            synthesised defects on held-out good images.
        scale_score: likewise for the score of an image, which often wants another one.
        pooling: an image's score is the mean of this share of its pixels, the highest ones.
            "maximum" takes the highest patch alone (the paper). "auto" chooses as above.
    """

    backbone: str | nn.Module = "resnet18"
    layers: Sequence[str] = ("layer2", "layer3")
    teacher_weights: str | None = "auto"
    distance: str = "residual"
    variance: float = 0.99
    smoothing: float = 4.0
    scale_maps: str = "auto"
    scale_score: str = "auto"
    pooling: str | float = "auto"

    def __post_init__(self) -> None:
        self._check()
        allowed = ("residual", "mahalanobis")
        self._require("distance", self.distance in allowed, " or ".join(map(repr, allowed)))
        share = self.variance
        self._require("variance", is_number(share) and 0 < share < 1, "above 0 and below 1")


class Subspace(PatchModel):
    """A frozen network, and mean and covariance of what it says of patches of normal images.

    The distance of a patch feature x is ‖A x - b‖.

    Attributes:
        directions: A, (R, D), R at most D. The identity in a new model.
        offset: b, (R,), A times the mean.
    """

    name = "subspace"
    Config = SubspaceConfig
    learned = ("directions", "offset")
    directions: Tensor
    offset: Tensor

    def __init__(self, config: SubspaceConfig):
        super().__init__(config)
        self.register_buffer("directions", torch.eye(self.width))
        self.register_buffer("offset", torch.zeros(self.width))

    def prepare_stage(self, train: Batches, unseen: Batches) -> None:
        """Take mean and covariance of the training images' patch features, in float64."""
        count, total = 0, self.mean.new_zeros(self.width, dtype=torch.float64)
        products = total.outer(total)
        for rows in self.rows_of(train):
            rows = rows.double()
            count, total = count + len(rows), total + rows.sum(dim=0)
            products = products + rows.mT @ rows
        mean = total / count
        covariance = products / count - mean.outer(mean)
        variances, axes = torch.linalg.eigh(covariance)  # from the least variance up
        variances = variances.clamp_min(0)
        if self.config.distance == "residual":
            directions = axes.mT[: unexplained(variances, self.config.variance)]
        else:
            least = LEAST_VARIANCE * variances.mean()
            deviations = (variances + least).sqrt() if least > 0 else torch.ones_like(variances)
            directions = axes.mT / deviations[:, None]
        self.directions = directions.to(self.directions)
        self.offset = (directions @ mean).to(self.offset)

    def level_maps(self, batch: Mapping[str, Any]) -> list[Tensor]:
        """Lengths of what is left of the patch features: one map (N, h, w)."""
        patches = self.patches(batch["image"])
        # Half precision would round away what little is left of a normal patch.
        with torch.autocast(patches.device.type, enabled=False):
            left = functional.linear(as_rows(patches), self.directions, -self.offset)
        distances = left.square().sum(dim=1).sqrt()
        return [distances.view(len(patches), patches.shape[-2], patches.shape[-1])]


def unexplained(variances: Tensor, share: float) -> int:
    """How many of the axes, of variances (D,) from the least up, are no components: at least 1.

    The components are the fewest that have ``share`` of the variance, none where there is none.
    """
    total = variances.sum()
    if total == 0:
        return len(variances)
    left = variances.cumsum(dim=0)  # by all axes up to this one
    return max(int((left <= (1 - share) * total).sum()), 1)
