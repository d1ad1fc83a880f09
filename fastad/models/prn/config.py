"""Options of PRN."""

from dataclasses import dataclass

from torch import nn

from fastad import backbones
from fastad._values import Options, is_integer, is_number

LAYERS = ("layer1", "layer2", "layer3")


@dataclass
class PRNConfig(Options):
    """Options of `PRN`.

    Attributes:
        backbone: name of the frozen network: "auto", "resnet18", "resnet34", "resnet50",
            "wide_resnet50_2", "resnet50_caffe" or "efficientnet_lite0" to "efficientnet_lite2".
            "auto" is ResNet-18 where its weights are at hand, else an EfficientNet-Lite whose
            weights are (`fastad.backbones.availability`). Of a built model it is that name.
            In Python also the network itself: any module that returns a list of three feature maps,
            or four, large to small, each of half of the size of the one before it. It gets images
            of ImageNet's mean and deviation. ``teacher_weights`` is then unused.
        teacher_weights: "auto", "embedded", a path, or None ("random") for a network whose weights
            are loaded later. Of a built model it is "embedded" where "auto" came to that.
        bottleneck: what the decoder begins with: the network's "layer4" (the paper, the fourth
            feature map of a module), or a "learned" residual stage on its layer3. "auto" is
            "layer4" where there are weights for it.
        prototypes: of a level, for each training image: 0.1 is one for ten.
        max_prototypes: of a level at most. One of all levels takes 1.8 MB at 256x256 with
            ResNet-18, in memory and in the detector's file. With the residuals' scales it is 90 MB
            at most.
        residuals: "scaled", the logarithm of squared differences over what they are for normal
            images: log(1 + r / s). Or the "squared" differences r themselves (the paper).
        focal_weight: factor of the focal loss beside the smooth L1 loss.
        focal_alpha: alpha of the focal loss (Lin et al., ICCV 2017, eq. 5), the same for both
            classes.
        focal_gamma: exponent of the focal loss.
        pooling: an image's score is the mean of this share of its pixels, the highest ones: 100 of
            256x256. 0 takes the highest one alone.
    """

    backbone: str | nn.Module = "auto"
    teacher_weights: str | None = "auto"
    bottleneck: str = "auto"
    prototypes: float = 0.1
    max_prototypes: int = 48
    residuals: str = "scaled"
    focal_weight: float = 5.0
    focal_alpha: float = 0.5
    focal_gamma: float = 4.0
    pooling: float = 0.001526

    def __post_init__(self) -> None:
        self._make_plain()
        if isinstance(self.backbone, str):
            backbones.check_names(self.backbone, LAYERS, auto=True)
        self._require(
            "bottleneck",
            self.bottleneck in ("auto", "layer4", "learned"),
            "'auto' or 'layer4' or 'learned'",
        )
        known = self.residuals in ("scaled", "squared")
        self._require("residuals", known, "'scaled' or 'squared'")
        holds = is_integer(self.max_prototypes, 1)
        self._require("max_prototypes", holds, "an integer of at least 1")
        for field, limit, what in (
            ("prototypes", 1, "a share from 0 to 1"),
            ("pooling", 1, "a share from 0 to 1"),
            ("focal_weight", 1e6, "a number from 0 to 1e6"),
            ("focal_alpha", 1, "a number from 0 to 1"),
            ("focal_gamma", 100, "a number from 0 to 100"),
        ):
            value = getattr(self, field)
            self._require(field, is_number(value, 0) and value <= limit, what)
