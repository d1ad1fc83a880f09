"""Options of GTrans."""

import math
from dataclasses import dataclass

from torch import nn

from fastad import backbones
from fastad._values import is_integer, is_number
from fastad.models.checks import check_student
from fastad.models.map_options import MapOptions

LAYERS = ("layer1", "layer2", "layer3")


@dataclass
class GTransConfig(MapOptions):
    """Options of `GTrans`.

    Attributes:
        backbone: name of the network of teacher and student (those of STPM), or "auto": the paper's
            ResNet-34 where its weights are at hand, else ResNet-18 or an EfficientNet-Lite whose
            weights are (`fastad.backbones.availability`). Of a built model it is that name. In
            Python also the teacher itself: any module that returns a list of three feature maps. It
            gets images of ImageNet's mean and deviation, and ``teacher_weights`` is then unused.
        teacher_weights: "auto", "embedded", a path, or None ("random") for a teacher that is loaded
            later. Of a built model it is "embedded" where "auto" came to that.
        tokens: for each of the three levels.
        token_width: numbers in a token.
        smoothing: standard deviation in pixels of a Gaussian over the anomaly map. 0 for none.
        scale_maps: what the distance maps are divided by for the anomaly map: "none" (the paper),
            their mean over good images, of the "level" or at each "position", or "auto": what finds
            more synthesised defects on held-out good images.
        scale_score: likewise for the score of an image, which often wants another one.
        pooling: an image's score is the mean of this share of its pixels, the highest ones.
            "60px" takes an area of original pixels, "maximum" the highest one alone (the
            paper). "auto" chooses as above.
        subspace: multiply by the map of what the principal components of good images leave of the
            teacher's features (the model `subspace`). Its errors are others than the student's.
            "auto" chooses as above. No paper of this model has it.
        score_by: "maps" pools an image's score from the distance maps (the paper). "memory" takes
            the distances of the teacher's features from the nearest ones of good images (the model
            `patchcore`). The anomaly map stays that of the student. "auto" chooses as above.
        composition: also judge what an image is composed of, for parts that are missing, doubled or
            in another place (`fastad.models.composition`). The higher of both scores counts, equal
            at the quantile of 0.95 of held-out good images. The anomaly map does not show it.
        eps: smallest norm by which a feature vector is divided.
        student: the student of a ``backbone`` that is a module. None for a copy of it with newly
            drawn parameters.
    """

    backbone: str | nn.Module = "auto"
    teacher_weights: str | None = "auto"
    tokens: int = 8
    token_width: int = 256
    smoothing: float = 4.0
    scale_maps: str = "auto"
    scale_score: str = "auto"
    pooling: str | float = "auto"
    subspace: str | bool = "auto"
    score_by: str = "auto"
    composition: bool = False
    eps: float = 1e-12
    student: nn.Module | None = None

    def __post_init__(self) -> None:
        self._make_plain()
        check_student(self.backbone, self.student)
        if isinstance(self.backbone, str):
            backbones.check_names(self.backbone, LAYERS, auto=True)
        self._check_maps()
        for field in ("tokens", "token_width"):
            holds = is_integer(getattr(self, field), 1)
            self._require(field, holds, "an integer of at least 1")
        for field, least, most in (("smoothing", 0, 100), ("eps", 1e-38, math.inf)):
            value = getattr(self, field)
            limits = "from 0 to 100 pixels" if field == "smoothing" else "above 0"
            self._require(field, is_number(value, least) and value <= most, f"a number {limits}")
