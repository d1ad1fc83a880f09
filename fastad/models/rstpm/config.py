"""The options of RSTPM, and what they may be."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from fastad import backbones
from fastad._values import is_integer, is_number
from fastad.models.map_options import MapOptions

LAYERS = ("layer1", "layer2", "layer3")


@dataclass
class RSTPMConfig(MapOptions):
    """Options of `RSTPM`.

    Attributes:
        teacher1: network of the first teacher: "auto", "resnet18", "resnet34", "resnet50",
            "wide_resnet50_2", "resnet50_caffe" or "efficientnet_lite0" to "efficientnet_lite2".
            "auto" is ResNet-18 where its weights are at hand, else an EfficientNet-Lite whose
            weights are (`fastad.backbones.availability`). Student1 has the same architecture. In
            Python also the network itself: any module that returns a list of three feature maps,
            large to small, and a fourth where ``bottleneck`` is "layer4". It gets images of
            ImageNet's mean and deviation. Its weights' option is then unused, and the detector
            cannot be saved.
        teacher2: network of the second teacher: the same names, or a module of three feature maps.
            "auto" is ResNet-50 (the paper) where its weights are at hand, else the nearest whose
            weights are. Another network than Teacher1 looks at other regions, so Teacher1's own
            comes last. With EfficientNet-Lite0 alone both teachers are that. A module whose feature
            maps hold values below 0 says so by an attribute ``signed = True``: Student2 then ends
            without ReLU.
        teacher_weights: Teacher1's: "auto", "embedded", a file, a folder, or None ("random") for
            one that is loaded later.
        teacher2_weights: Teacher2's, likewise. "auto" looks in the folder that ``teacher_weights``
            names, and is "embedded" where that is.
        bottleneck: what the second student decodes: Teacher1's "layer4" (the paper), or a "learned"
            residual stage of stride 2 on its layer3, trained with Student2. "auto" is "layer4"
            where there are weights for it, or where a module returns a fourth feature map.
        attention: gate every level of the second student by Teacher2's features of it (the paper).
            Without, Student2 sees nothing but the bottleneck.
        attention_reduction: the gates' hidden channels are the level's divided by this, 8 at least.
        bottleneck_dropout: share of the bottleneck's values that training sets to 0, drawn anew in
            each step (after Guo et al., "Dinomaly", CVPR 2025, sec. 3.2). Student2 then learns to
            rebuild the levels from less. 0 for none (the paper).
        decoder_blocks: residual blocks of the second student's levels, the largest level first,
            each at least 2. More take longer and rebuild finer detail.
        scale_maps: what the pairs' distance maps are divided by before they are added: their mean
            over good images that the students were not fitted to, of the "level" or at each
            "position". By position, edges where students err on every image stand out no more. No
            position is divided by less than the level's mean. "none" adds the maps as they are.
            "auto" is what finds more synthesised defects on held-out good images. The
            discriminative network then sees them by position. The paper says nothing of it.
        scale_score: likewise for the score of an image, which often wants another one.
        pair_weights: factors of the first and the second pair's maps before they are added. 0
            leaves a pair out that only adds noise. "auto" chooses as above.
        aggregate: "product" of the summed maps (as STPM) or their "sum". A product is low wherever
            one level is low. A sum forgives a level that misses the defect.
        discriminator: multiply by the discriminative network's map (the paper). The second stage of
            the training takes place all the same: the means of ``scale_maps`` are taken there.
        discriminator_stride: pixels of the image for each step of that map: 1, 2 or 4. 2 or 1 give
            finer outlines for four or sixteen times the work.
        discriminator_width: channels of its first block.
        focal_gamma: exponent of the focal loss (Lin et al., ICCV 2017, eq. 4, without alpha). The
            larger, the less easy pixels count.
        l1_weight: factor of a mean absolute error beside the focal loss (as in DeSTSeg).
        smoothing: standard deviation in pixels of a Gaussian over the anomaly map. 0 for none.
        pooling: an image's score is the mean of this share of its pixels, the highest ones.
            "60px" takes an area of original pixels, "maximum" the highest one alone.
            "auto" chooses as above.
        subspace: multiply by the map of what the principal components of good images leave of the
            teacher's features (the model `subspace`). Its errors are others than the student's.
            "auto" chooses as above. The paper has no such thing.
        score_by: "maps" pools an image's score from the distance maps (the paper). "memory" takes
            the distances of Teacher1's features from the nearest ones of good images (the model
            `patchcore`). The anomaly map stays that of the students. "auto" chooses as above.
        composition: also judge what an image is composed of, for parts that are missing, doubled or
            in another place (`fastad.models.composition`). The higher of both scores counts, equal
            at the quantile of 0.95 of held-out good images. The anomaly map does not show it.
        hard: the loss counts only the distances of a level that lie at or above this quantile of
            the batch (Batzner et al., "EfficientAD", WACV 2024, sec. 3.2). 0 counts all (the
            paper).
        eps: smallest norm by which a feature vector is divided.
        student1: the student of a ``teacher1`` that is a module. None for a copy of it with newly
            drawn parameters.
    """

    teacher1: str | nn.Module = "auto"
    teacher2: str | nn.Module = "auto"
    teacher_weights: str | None = "auto"
    teacher2_weights: str | None = "auto"
    bottleneck: str = "auto"
    attention: bool = True
    attention_reduction: int = 16
    bottleneck_dropout: float = 0.0
    decoder_blocks: Sequence[int] = (2, 2, 2)
    scale_maps: str = "auto"
    scale_score: str = "auto"
    pair_weights: str | Sequence[float] = "auto"
    aggregate: str = "product"
    discriminator: bool = True
    discriminator_stride: int = 4
    discriminator_width: int = 32
    focal_gamma: float = 2.0
    l1_weight: float = 0.0
    smoothing: float = 0.0
    pooling: str | float = "auto"
    subspace: str | bool = "auto"
    score_by: str = "auto"
    composition: bool = False
    hard: float = 0.0
    eps: float = 1e-12
    student1: nn.Module | None = None

    def __post_init__(self) -> None:
        self._make_plain()
        for field in ("teacher1", "teacher2"):
            teacher = getattr(self, field)
            self._require(field, isinstance(teacher, (str, nn.Module)), "a name or a module")
            if isinstance(teacher, str):
                try:
                    backbones.check_names(teacher, LAYERS, auto=True)
                except ValueError as error:
                    raise ValueError(f"{field}: {error}") from None
        if self.student1 is not None and isinstance(self.teacher1, str):
            raise ValueError(
                f"student1 goes with a teacher1 that is a module, not {self.teacher1!r}"
            )
        for field, allowed in (
            ("bottleneck", ("auto", "layer4", "learned")),
            ("aggregate", ("product", "sum")),
        ):
            holds = getattr(self, field) in allowed
            self._require(field, holds, " or ".join(map(repr, allowed)))
        for field in ("attention", "discriminator"):
            self._require(field, isinstance(getattr(self, field), bool), "True or False")
        for field in ("attention_reduction", "discriminator_width"):
            holds = is_integer(getattr(self, field), 1)
            self._require(field, holds, "an integer of at least 1")
        blocks = self.decoder_blocks
        three = isinstance(blocks, (list, tuple)) and len(blocks) == len(LAYERS)
        three = three and all(is_integer(number, 2) for number in blocks)
        self._require("decoder_blocks", three, "three integers of at least 2")
        self.decoder_blocks = tuple(blocks)
        stride = self.discriminator_stride
        holds = is_integer(stride, 1) and stride in (1, 2, 4)
        self._require("discriminator_stride", holds, "1, 2 or 4")
        for field in ("focal_gamma", "l1_weight", "smoothing"):
            self._require(field, is_number(getattr(self, field), 0), "a number of at least 0")
        self._require("smoothing", self.smoothing <= 100, "at most 100 pixels")
        for field in ("bottleneck_dropout", "hard"):
            share = getattr(self, field)
            self._require(field, is_number(share, 0) and share < 1, "in [0, 1)")
        self._check_maps()
        if self.pair_weights != "auto":
            weights = self.pair_weights
            two = isinstance(weights, (list, tuple)) and len(weights) == 2
            two = two and all(is_number(weight, 0) for weight in weights) and any(weights)
            self._require("pair_weights", two, "'auto' or two numbers of at least 0, not both 0")
            self.pair_weights = tuple(map(float, weights))
        self._require("eps", is_number(self.eps, 0) and self.eps > 0, "a number above 0")
