"""Options of PatchCore."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from fastad._values import is_integer
from fastad.models.patches import PatchOptions


@dataclass
class PatchCoreConfig(PatchOptions):
    """Options of `PatchCore`.

    Attributes:
        backbone: network whose features are compared: "auto", "resnet18", "resnet34", "resnet50",
            "wide_resnet50_2", "resnet50_caffe" or "efficientnet_lite0" to "efficientnet_lite2".
            "auto" is ResNet-18 where its weights are at hand, else an EfficientNet-Lite whose
            weights are (`fastad.backbones.availability`). Of a built model it is that name. In
            Python also any module that returns a list of feature maps. It gets images of ImageNet's
            mean and deviation. ``layers`` and ``teacher_weights`` are then unused, and the detector
            cannot be saved.
        layers: stages whose feature maps are taken, of "layer1" to "layer4".
        teacher_weights: "auto", "embedded", a path, or None ("random") for a network that is loaded
            later. Of a built model it is "embedded" where "auto" came to that.
        joint: True is the paper: a patch is described by all layers at once, on the grid of the
            first one. False compares the patches of each layer with a memory of its own, and
            multiplies the distances.
        unit: whether features are scaled to length 1 at each place first. Contrast then counts
            less. The score is of the distances of their means over 3x3 places. The anomaly map is
            of the distances of the directions of these.
        memory: number of patch features that are kept of each memory. Time and file size grow with
            it.
        neighbours: b of the paper's factor of the image score, of at least 2. 0 leaves the factor
            out: the score is then the largest distance of a patch. Of ``joint``.
        smoothing: standard deviation, in pixels, of the Gaussian over the anomaly map. 0 for none.
        scale_maps: what the distance map is divided by for the anomaly map: "none" (the paper), its
            mean over good images, of the "level" or at each "position", or "auto": what finds more
            synthesised defects on held-out good images.
        scale_score: likewise for the score of an image, which often wants another one.
        map_levels: names of the layers whose distances are multiplied for the anomaly map, at both
            scales. "auto" chooses as above, () takes all. Layers of a module are named "level1",
            "level2" ...
        score_levels: likewise for the score of an image.
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
    layers: Sequence[str] = ("layer1", "layer2", "layer3")
    teacher_weights: str | None = "auto"
    joint: bool = False
    unit: bool = True
    memory: int = 2048
    neighbours: int = 9
    smoothing: float = 4.0
    scale_maps: str = "auto"
    scale_score: str = "auto"
    pooling: str | float = "auto"
    composition: bool = False
    overview: int = 0
    map_levels: str | Sequence[str] = "auto"
    score_levels: str | Sequence[str] = "auto"

    def __post_init__(self) -> None:
        self._check()
        self._require("memory", is_integer(self.memory, 1), "an integer of at least 1")
        for field in ("joint", "unit"):
            self._require(field, isinstance(getattr(self, field), bool), "True or False")
        for field in ("map_levels", "score_levels"):
            self._check_levels(field)
        count = self.neighbours
        self._require(
            "neighbours", is_integer(count, 0) and count != 1, "0, or an integer of at least 2"
        )

    def _check_levels(self, field: str) -> None:
        levels = getattr(self, field)
        if self.joint:  # one memory has no levels to choose from
            holds = levels in ("auto", ()) or levels == []
            self._require(field, holds, "left out where joint is True")
            return setattr(self, field, ())
        if levels != "auto":
            names = isinstance(levels, (list, tuple)) and all(isinstance(n, str) for n in levels)
            holds = names and len(set(levels)) == len(levels)
            self._require(field, holds, "'auto' or a sequence of different names of layers")
            setattr(self, field, tuple(levels))
