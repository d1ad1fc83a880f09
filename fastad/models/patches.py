"""What the models without training share: patch features of a frozen network, and their maps.

A patch feature describes a place of an image and what is around it. The features of normal images
are learned in one pass. Nothing has a gradient.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from fastad import ops
from fastad._values import is_number
from fastad.backbones import check_names
from fastad.models.base import Batches, FrozenTeacher, Stage
from fastad.models.map_model import MapModel
from fastad.models.map_options import MapOptions
from fastad.models.residual import patch_features
from fastad.models.teachers import settled_backbone


class PatchOptions(MapOptions):
    """What the options of these models have in common; ``backbone`` may be a module."""

    backbone: str | nn.Module
    layers: Sequence[str]
    smoothing: float

    def _check(self) -> None:
        self._make_plain()
        if isinstance(self.backbone, str):
            check_names(self.backbone, self.layers, auto=True)
            self.layers = tuple(self.layers)
        self._check_maps()
        self._require("smoothing", is_number(self.smoothing, 0), "a number of at least 0")
        self._require("smoothing", self.smoothing <= 300, "at most 300 pixels")


class PatchModel(MapModel):
    """A model of one stage that trains nothing: subclasses give ``prepare_stage`` and its map.

    It looks at two copies of each image under other conditions, too
    (`fastad.data.synthesis.varied`). Otherwise a little less light, blur or noise makes every image
    an anomaly.

    Attributes:
        widths: channels of each level.
        width: D, the length of a patch feature of all levels.
    """

    stages = (Stage(steps=()),)
    training_defaults: ClassVar[dict[str, Any]] = {"variants": 2}

    def __init__(self, config: Any):
        config = settled_backbone(self.name, config, config.layers)
        super().__init__(config)
        backbone = config.backbone
        if not isinstance(backbone, nn.Module):
            backbone = self.build_backbone(config.layers)
        self.teacher = FrozenTeacher(self.at_scales(backbone))
        self.widths = [shape[0] for shape in self.teacher.shapes()]
        self.width = sum(self.widths)

    def patches(self, images: Tensor) -> Tensor:
        """Images (N, 3, H, W) in [0, 1] -> patch features (N, D, h, w), in float32."""
        return patch_features(self.levels(images))

    def levels(self, images: Tensor) -> list[Tensor]:
        """Images (N, 3, H, W) in [0, 1] -> levels (N, C_l, H_l, W_l) of the network, in float32."""
        return self.levels_of({"image": images})

    def levels_of(self, batch: Mapping[str, Any]) -> list[Tensor]:
        """`levels` of what `seen` takes of a batch."""
        levels = self.teacher(self.seen(batch))
        return [level.to(self.mean.dtype) for level in levels]

    def fit_composition(self, train: Batches) -> None:
        """Take the composition of training images, where it is asked for."""
        if self.composition is not None:
            self.composition.fit(lambda: map(self.levels_of, train()), self.roi)

    def join(
        self, maps: Sequence[Tensor], factors: Sequence[Tensor], size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Scaled distance maps (N, h, w) -> their product (N, *size), smoothed; its maxima (N,)."""
        return ops.aggregate_maps(maps, size, smoothing=self.config.smoothing, return_maximum=True)
