"""Subspace: how much of a patch feature is none of what normal images vary in.

The closed forms are those of `fastad.models.residual`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from fastad._values import is_number
from fastad.models.base import Batches
from fastad.models.map_model import Evidence
from fastad.models.patches import PatchModel, PatchOptions
from fastad.models.residual import VARIANCE, Moments, SubspaceResidual, patch_features


@dataclass
class SubspaceConfig(PatchOptions):
    """Options of `Subspace`.

    Attributes:
        backbone: network whose features are compared: "auto", "resnet18", "resnet34", "resnet50",
            "wide_resnet50_2", "resnet50_caffe" or "efficientnet_lite0" to "efficientnet_lite2".
            "auto" is ResNet-18 where its weights are at hand, else an EfficientNet-Lite whose
            weights are (`fastad.backbones.availability`). Of a built model it is that name. In
            Python also any module that returns a list of feature maps. It gets images of ImageNet's
            mean and deviation. ``layers`` and ``teacher_weights`` are then unused, and the detector
            cannot be saved.
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
            "60px" takes an area of original pixels, "maximum" the highest patch alone (the
            paper). "auto" chooses as above.
        composition: also judge what an image is composed of, for parts that are missing, doubled or
            in another place (`fastad.models.composition`). The higher of both scores counts, equal
            at the quantile of 0.95 of held-out good images. The anomaly map does not show it.
        overview: also look at the image reduced by this factor, 2 or 4, for defects that show at a
            low resolution, such as missing parts. The higher map of both counts at each place,
            equal where the quantile of 0.95 of the maxima of held-out good images is. 0 looks at
            the image alone (the paper).
    """

    backbone: str | nn.Module = "auto"
    layers: Sequence[str] = ("layer2", "layer3")
    teacher_weights: str | None = "auto"
    distance: str = "residual"
    variance: float = VARIANCE
    smoothing: float = 4.0
    scale_maps: str = "auto"
    scale_score: str = "auto"
    pooling: str | float = "auto"
    composition: bool = False
    overview: int = 0

    def __post_init__(self) -> None:
        self._check()
        allowed = ("residual", "mahalanobis")
        self._require("distance", self.distance in allowed, " or ".join(map(repr, allowed)))
        share = self.variance
        self._require("variance", is_number(share) and 0 < share < 1, "above 0 and below 1")


class Subspace(PatchModel):
    """A frozen network, and mean and covariance of what it says of patches of normal images.

    Attributes:
        residual: the distance of a patch feature.
        residual_of_overview: likewise of the image's overview. None without one.
    """

    residual_of_overview: SubspaceResidual | None

    name = "subspace"
    Config = SubspaceConfig

    def __init__(self, config: SubspaceConfig):
        super().__init__(config)
        self.residual_of_overview = None
        widths = [sum(self.widths)]
        if self.overview:
            half = len(self.widths) // 2
            widths = [sum(self.widths[:half]), sum(self.widths[half:])]
            self.residual_of_overview = SubspaceResidual(widths[1])
        self.residual = SubspaceResidual(widths[0])
        self._add_maps(len(widths), widths=self.widths)

    @property
    def residuals(self) -> list[SubspaceResidual]:
        """One, or one of each scale."""
        return [one for one in (self.residual, self.residual_of_overview) if one is not None]

    def prepare_stage(self, train: Batches, unseen: Batches) -> None:
        """Take mean and covariance of the training images' patch features, in float64."""
        moments = [
            Moments.empty(one.directions.shape[1], self.mean.device) for one in self.residuals
        ]
        for batch in train():
            scales = self.of_scales(self.levels_of(batch))
            for own, levels in zip(moments, scales, strict=True):
                own.add(self.places(patch_features(levels)))
        for residual, own in zip(self.residuals, moments, strict=True):
            residual.fit_moments(own, self.config.distance, self.config.variance)
        self.fit_composition(train)

    def level_maps(self, batch: Mapping[str, Any]) -> list[Tensor]:
        """Lengths of what is left of the patch features: a map (N, h, w) of each scale."""
        return self._left(self.levels_of(batch))

    def _left(self, levels: Sequence[Tensor]) -> list[Tensor]:
        scales = self.of_scales(levels)
        pairs = zip(self.residuals, scales, strict=True)
        return [residual(patch_features(own)) for residual, own in pairs]

    def evidence(self, batch: Mapping[str, Any]) -> Evidence:
        """The maps, and what the image is composed of."""
        levels = self.levels_of(batch)
        return Evidence(self._left(levels), composition=self.composition_of(levels))
