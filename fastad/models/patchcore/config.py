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
        layers: stages whose feature maps are taken, of "layer1" to "layer4". The first one gives
            the grid of the patches.
        teacher_weights: "auto", "embedded", a path, or None ("random") for a network that is loaded
            later. Of a built model it is "embedded" where "auto" came to that.
        memory: number of patch features that are kept. Time and file size grow with it.
        neighbours: b of the paper's factor of the image score, of at least 2. 0 leaves the factor
            out: the score is then the largest distance of a patch.
        smoothing: standard deviation, in pixels, of the Gaussian over the anomaly map. 0 for none.
        scale_maps: what the distance map is divided by for the anomaly map: "none" (the paper), its
            mean over good images, of the "level" or at each "position", or "auto": what finds more
            synthesised defects on held-out good images.
        scale_score: likewise for the score of an image, which often wants another one.
        pooling: an image's score is the mean of this share of its pixels, the highest ones.
            "maximum" takes the highest patch alone (the paper). "auto" chooses as above.
    """

    backbone: str | nn.Module = "auto"
    layers: Sequence[str] = ("layer2", "layer3")
    teacher_weights: str | None = "auto"
    memory: int = 2048
    neighbours: int = 9
    smoothing: float = 4.0
    scale_maps: str = "auto"
    scale_score: str = "auto"
    pooling: str | float = "auto"

    def __post_init__(self) -> None:
        self._check()
        self._require("memory", is_integer(self.memory, 1), "an integer of at least 1")
        count = self.neighbours
        self._require(
            "neighbours", is_integer(count, 0) and count != 1, "0, or an integer of at least 2"
        )
