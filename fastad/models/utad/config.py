"""The options of UTAD, and what they may be."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from fastad import backbones
from fastad._values import Options, is_integer, is_number

LAYERS = ("layer1", "layer2", "layer3")
LOSSES = ("squared", "edge", "adversarial", "information", "divergence")
EXPERT_LOSSES = ("adversarial", "image", "detail", "content")


@dataclass
class UTADConfig(Options):
    """Options of `UTAD`.

    Attributes:
        impression_width: channels of each branch of the impression network's first block. The
            paper's is 32.
        latents: numbers of the latent code.
        expert_width: channels of the expert network's first layers. The paper's is 64.
        details: numbers of the code of an image's details.
        discriminator_width: channels of the discriminators.
        impression_factors: of the impression network's losses: squared difference, edges,
            adversarial, mutual information, divergence of the latent code.
        expert_factors: of the expert network's losses: adversarial, image, detail code, content.
        comparison: "perceptual": distances of a frozen network's features, of the image to its
            expert reconstruction, and of the impression to the naive one. Or the combination of the
            authors' code, of "grey" squared differences or of "ssim".
        aggregate: how the levels of "perceptual" are joined: "sum" or "product".
        scale_maps: divide the parts of a map, before they are added, by their means over training
            images: at each "position" of the image, or over the whole "image". Or "none".
        backbone: the network of "perceptual": a name or "auto", as of STPM, or in Python any
            module that returns a list of feature maps of images of ImageNet's mean and deviation.
        teacher_weights: "auto", "embedded", a path, or None ("random") for one that is loaded
            later. Of a built model it is "embedded" where "auto" came to that.
        smoothing: standard deviation in pixels of a Gaussian over the anomaly map. 0 for none.
        latent_weight: how much the latent code counts in an image's score, beside the maximum of
            the map: its distance from those of training images. 0 for nothing.
        neighbours: nearest training images that this distance is taken to.
        bank: codes of at most so many training images, evenly spread, are kept.
        eps: smallest norm by which a feature vector is divided.
    """

    impression_width: int = 16
    latents: int = 128
    expert_width: int = 8
    details: int = 8
    discriminator_width: int = 32
    impression_factors: Sequence[float] = (10.0, 1.0, 0.01, 0.1, 0.01)
    expert_factors: Sequence[float] = (1.0, 10.0, 1.0, 1.0)
    comparison: str = "perceptual"
    aggregate: str = "sum"
    scale_maps: str = "position"
    backbone: str | nn.Module = "auto"
    teacher_weights: str | None = "auto"
    smoothing: float = 4.0
    latent_weight: float = 1.0
    neighbours: int = 5
    bank: int = 256
    eps: float = 1e-12

    def __post_init__(self) -> None:
        self._make_plain()
        for field in (
            "impression_width",
            "latents",
            "expert_width",
            "details",
            "discriminator_width",
            "neighbours",
            "bank",
        ):
            holds = is_integer(getattr(self, field), 1)
            self._require(field, holds, "an integer of at least 1")
        for field, names in (("impression_factors", LOSSES), ("expert_factors", EXPERT_LOSSES)):
            weights = getattr(self, field)
            right = isinstance(weights, (list, tuple)) and len(weights) == len(names)
            right = right and all(is_number(weight, 0) for weight in weights)
            self._require(field, right, f"{len(names)} numbers of at least 0 ({', '.join(names)})")
            setattr(self, field, tuple(weights))
        for field, allowed in (
            ("comparison", ("perceptual", "grey", "ssim")),
            ("aggregate", ("sum", "product")),
            ("scale_maps", ("position", "image", "none")),
        ):
            self._require(field, getattr(self, field) in allowed, " or ".join(map(repr, allowed)))
        if isinstance(self.backbone, str):
            backbones.check_names(self.backbone, LAYERS, auto=True)
        else:
            self._require("backbone", isinstance(self.backbone, nn.Module), "a name or a module")
        for field in ("smoothing", "latent_weight"):
            self._require(field, is_number(getattr(self, field), 0), "a number of at least 0")
        self._require("smoothing", self.smoothing <= 100, "at most 100 pixels")
        self._require("eps", is_number(self.eps, 0) and self.eps > 0, "a number above 0")
