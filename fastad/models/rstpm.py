"""RSTPM: reconstructed student-teacher and discriminative networks.

Yamada, Kamiya and Hotta, "Reconstructed Student-Teacher and Discriminative Networks for Anomaly
Detection", IROS 2022, arXiv 2210.07548. Two students learn the features of two teachers on normal
images: the first as in STPM, from the image; the second only from the first teacher's deepest
features, too few to carry a defect through. A small network learns on images with synthesised
defects which of the differences matter.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from fastad import backbones, ops
from fastad.models.base import AnomalyModel, FrozenTeacher, Prediction, Stage
from fastad.models.decoder import Decoder, bottleneck_stage
from fastad.models.rstpm_teachers import build_teachers
from fastad.models.unet import UNet

LAYERS = ("layer1", "layer2", "layer3")
LEARNED_CHANNELS = 512  # of the learned bottleneck, as many as ResNet-18's layer4

Batches = Callable[[], Iterator[Mapping[str, Any]]]


@dataclass
class RSTPMConfig:
    """Options of `RSTPM`.

    Attributes:
        teacher1, teacher2: names of their networks.
        teacher_weights: Teacher1's: "auto", a file, a folder, or None ("random") for one that is
            loaded later.
        teacher2_weights: Teacher2's, likewise; "auto" looks in the folder that ``teacher_weights``
            names, where it names one.
        bottleneck: what the second student decodes: Teacher1's "layer4" (the paper), or a "learned"
            residual stage on its layer3, for weights that end there.
        attention: gate every level of the second student by Teacher2's features of it (the paper).
        attention_reduction: the gates' hidden channels are the level's divided by this.
        decoder_blocks: residual blocks of the second student's levels, the largest level first.
        scale_maps: divide every distance map by its mean over normal images that the students were
            not fitted to, before the pairs' maps are added; without, the noisier pair wins.
        aggregate: "product" of the summed maps (as STPM) or their "sum".
        discriminator: multiply by the discriminative network's map (the paper).
        discriminator_stride: pixels of the image a step of the discriminative network's map.
        discriminator_width: channels of its first block.
        focal_gamma: exponent of the focal loss (Lin et al., ICCV 2017, eq. 4, without alpha).
        l1_weight: factor of a mean absolute error beside the focal loss (as in DeSTSeg).
        smoothing: standard deviation in pixels of a Gaussian over the anomaly map; 0 for none.
        pooling: an image's score is the mean of this share of its pixels, the highest ones; 0 for
            the highest one alone (the paper).
        eps: smallest norm by which a feature vector is divided.
    """

    teacher1: str = "resnet18"
    teacher2: str = "resnet50"
    teacher_weights: str | None = "auto"
    teacher2_weights: str | None = "auto"
    bottleneck: str = "layer4"
    attention: bool = True
    attention_reduction: int = 16
    decoder_blocks: Sequence[int] = (2, 2, 2)
    scale_maps: bool = True
    aggregate: str = "product"
    discriminator: bool = True
    discriminator_stride: int = 4
    discriminator_width: int = 32
    focal_gamma: float = 2.0
    l1_weight: float = 0.0
    smoothing: float = 0.0
    pooling: float = 0.0
    eps: float = 1e-12

    def __post_init__(self):
        for field in ("teacher1", "teacher2"):
            backbones.check_names(getattr(self, field), LAYERS)
        for field, allowed in (
            ("bottleneck", ("layer4", "learned")),
            ("aggregate", ("product", "sum")),
        ):
            holds = getattr(self, field) in allowed
            self._require(field, holds, " or ".join(map(repr, allowed)))
        for field in ("attention", "scale_maps", "discriminator"):
            self._require(field, isinstance(getattr(self, field), bool), "True or False")
        for field in ("attention_reduction", "discriminator_width"):
            value = getattr(self, field)
            self._require(field, type(value) is int and value >= 1, "an integer of at least 1")
        blocks = self.decoder_blocks
        three = isinstance(blocks, (list, tuple)) and len(blocks) == len(LAYERS)
        three = three and all(type(number) is int and number >= 2 for number in blocks)
        self._require("decoder_blocks", three, "three integers of at least 2")
        self.decoder_blocks = tuple(blocks)
        self._require("discriminator_stride", self.discriminator_stride in (1, 2, 4), "1, 2 or 4")
        for field in ("focal_gamma", "l1_weight", "smoothing"):
            self._require(field, _is_number(getattr(self, field), 0), "a number of at least 0")
        self._require("smoothing", self.smoothing <= 100, "at most 100 pixels")
        pooling = self.pooling
        self._require("pooling", _is_number(pooling, 0) and pooling <= 1, "a share from 0 to 1")
        self._require("eps", _is_number(self.eps, 0) and self.eps > 0, "a number above 0")

    def _require(self, field: str, holds: bool, what: str) -> None:
        if not holds:
            raise ValueError(f"{field} must be {what}; got {getattr(self, field)!r}")


class RSTPM(AnomalyModel):
    """Two student-teacher pairs and a discriminative network.

    Teacher1 and Student1 are STPM's. Student2 rebuilds Teacher2's levels from the bottleneck alone.
    Distance maps of equal size are scaled and added; the product of the sums, upsampled, times the
    discriminative network's map is the anomaly map.

    Trained in two stages: the students on normal images, with STPM's loss; then, with the students
    frozen, the discriminative network on pseudo-anomalies, with the focal loss. A model whose
    second stage never ran answers with the pairs' map.
    """

    name = "rstpm"
    Config = RSTPMConfig
    training_defaults: ClassVar[dict[str, Any]] = {"epochs": 100, "batch_size": 16}
    stages: ClassVar[tuple[Stage, ...]] = (
        Stage("pairs", {"optimizer": "adam", "learning_rate": 5e-3, "betas": (0.5, 0.999)}),
        Stage(
            "discriminator",
            {"epochs": 40, "optimizer": "adam", "learning_rate": 1e-3},
            pseudo_anomalies=True,
            unseen=True,
            reads_images=False,
        ),
    )

    def __init__(self, config: RSTPMConfig):
        super().__init__(config)
        learned = config.bottleneck == "learned"
        first, second = build_teachers(config, LAYERS)
        self.teacher1, self.teacher2 = FrozenTeacher(first), FrozenTeacher(second)
        self.student1 = backbones.build(config.teacher1, LAYERS)
        deepest = first.channels[-1]
        channels = LEARNED_CHANNELS if learned else deepest
        self.bottleneck = bottleneck_stage(deepest, channels) if learned else nn.Identity()
        self.student2 = Decoder(
            channels,
            second.channels,
            blocks=config.decoder_blocks,
            attention=config.attention,
            attention_reduction=config.attention_reduction,
        )
        self.discriminator = UNet(len(LAYERS), config.discriminator_width)
        # Over normal images: means of the distance maps; means and deviations of the summed maps.
        self.register_buffer("distance_means", torch.ones(2 * len(LAYERS)))
        self.register_buffer("level_means", torch.zeros(len(LAYERS)))
        self.register_buffer("level_deviations", torch.ones(len(LAYERS)))

    def enter_stage(self, stage: Stage | None) -> None:
        """Train the students, or in the second stage the discriminative network alone."""
        super().enter_stage(stage)
        for module in (self.student1, self.bottleneck, self.student2):
            module.requires_grad_(not self._discriminates)
        self.discriminator.requires_grad_(self._discriminates or stage is None)

    @property
    def _discriminates(self) -> bool:
        return self.stage is not None and self.stage.name == "discriminator"

    def train(self, mode: bool = True) -> "RSTPM":
        """Training mode; in the second stage the students stay in eval mode, as at inference."""
        super().train(mode)
        if self._discriminates:
            for module in (self.student1, self.bottleneck, self.student2):
                module.eval()
        return self

    def features(
        self, images: Tensor, kept: Mapping[str, Any] | None = None
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Images (N, 3, H, W) in [0, 1] -> the six levels (N, C_l, H_l, W_l) of the teachers, first
        pair before second and large before small, and those of the students.

        ``kept``: entries of `teacher_features` that are known already.
        """
        kept = kept or {}
        images = self.normalize(images)
        first = kept.get("teacher1") or self.teacher1(images)
        second = kept.get("teacher2") or self.teacher2(images)
        deepest = first[-1].to(images.dtype)
        students = backbones.extract(self.student1, images)
        students += self.student2(self.bottleneck(deepest), second)
        return [*first[: len(LAYERS)], *second], students

    def distances(self, images: Tensor, kept: Mapping[str, Any] | None = None) -> list[Tensor]:
        """Images (N, 3, H, W) in [0, 1] -> the six distance maps (N, H_l, W_l), as `features`."""
        return ops.distances(*self.features(images, kept), eps=self.config.eps)

    def summed_maps(self, distances: Sequence[Tensor]) -> list[Tensor]:
        """The six distance maps -> both pairs' added level by level: three (N, H_l, W_l)."""
        if self.config.scale_maps:
            distances = [d / mean for d, mean in zip(distances, self.distance_means, strict=True)]
        pairs = zip(distances[: len(LAYERS)], distances[len(LAYERS) :], strict=True)
        return [first + _resized(second, first.shape[-2:]) for first, second in pairs]

    def discriminate(self, summed: Sequence[Tensor]) -> Tensor:
        """Summed maps -> probability of a defect, (N, h, w), by the discriminative network."""
        height, width = summed[0].shape[-2:]
        # The largest map has a step of 4 pixels.
        scale = 4 / self.config.discriminator_stride
        size = (max(round(height * scale), 1), max(round(width * scale), 1))
        statistics = zip(self.level_means, self.level_deviations, strict=True)
        standard = [(m - mean) / d for m, (mean, d) in zip(summed, statistics, strict=True)]
        inputs = torch.stack([_resized(m, size) for m in standard], dim=1)
        return self.discriminator(inputs).float().sigmoid()

    def forward(self, images: Tensor) -> Prediction:
        """Images (N, 3, H, W) in [0, 1] -> score (N,) and anomaly map (N, H, W)."""
        summed = self.summed_maps(self.distances(images))
        factors = [self.discriminate(summed)] if self.config.discriminator else []
        size = (images.shape[-2], images.shape[-1])
        if self.config.aggregate == "sum":
            summed = [ops.aggregate_maps(summed, size, aggregate="sum")]
        anomaly_map, score = ops.aggregate_maps([*summed, *factors], size, return_maximum=True)
        if self.config.smoothing > 0:
            anomaly_map = _smoothed(anomaly_map, self.config.smoothing)
            score = anomaly_map.flatten(1).amax(dim=1)
        if self.config.pooling > 0:
            count = max(round(self.config.pooling * size[0] * size[1]), 1)
            score = anomaly_map.flatten(1).topk(count).values.mean(dim=1)
        return Prediction(score, anomaly_map)

    def teacher_features(self, images: Tensor) -> dict[str, list[Tensor]]:
        """The teachers' levels (N, C_l, H_l, W_l); in the second stage the distance maps
        (N, 1, H_l, W_l), of which it needs nothing more."""
        if self._discriminates:
            return {"distances": [d[:, None] for d in self.distances(images)]}
        images = self.normalize(images)
        return {"teacher1": self.teacher1(images), "teacher2": self.teacher2(images)}

    def prepare_stage(self, train: Batches, unseen: Batches) -> None:
        """Take the statistics of the maps from normal images that the students were not fitted
        to: maps of those that they were are lower."""
        if not self._discriminates:
            return
        seen = [self.distances(batch["image"], batch) for batch in unseen()]
        distances = [torch.cat(maps) for maps in zip(*seen, strict=True)]
        self.distance_means.copy_(torch.stack([d.mean() for d in distances]))
        summed = self.summed_maps(distances)
        self.level_means.copy_(torch.stack([m.mean() for m in summed]))
        self.level_deviations.copy_(torch.stack([m.std() for m in summed]))

    def loss(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Of the pairs: the squared distances of normalised features, averaged per level and summed
        over the levels, with the factor of `STPM`'s loss. Of the discriminative network: the focal
        loss, and the mean absolute error where asked for.
        """
        if self._discriminates:
            focal, error = self._discriminator_errors(batch)
            losses = {"focal": focal.mean()}
            return losses | ({"l1": error.mean()} if self.config.l1_weight > 0 else {})
        teachers, students = self.features(batch["image"], batch)
        levels = ops.distillation_loss(
            teachers,
            students,
            level_weights=[2.0] * len(teachers),
            reduction="none",
            eps=self.config.eps,
        )
        return {"pair1": levels[: len(LAYERS)].sum(), "pair2": levels[len(LAYERS) :].sum()}

    def validation_score(self, batch: Mapping[str, Any]) -> Tensor:
        """The loss of each image: (N,)."""
        if self._discriminates:
            focal, error = self._discriminator_errors(batch)
            return focal + error
        distances = self.distances(batch["image"], batch)
        return torch.stack([d.flatten(1).mean(dim=1) for d in distances]).sum(dim=0)

    def _discriminator_errors(self, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """Focal loss and weighted absolute error of each image: (N,), (N,)."""
        if "distances" in batch:
            distances = [d[:, 0].float() for d in batch["distances"]]
        else:
            with torch.no_grad():
                distances = self.distances(batch["image"])
        target = batch["mask"].float()
        found = _resized(self.discriminate(self.summed_maps(distances)), target.shape[-2:])
        right = torch.where(target > 0, found, 1 - found).clamp_min(1e-6)
        focal = (1 - right) ** self.config.focal_gamma * -right.log()
        error = self.config.l1_weight * (1 - right)
        return focal.flatten(1).mean(dim=1), error.flatten(1).mean(dim=1)


def _is_number(value: object, minimum: float) -> bool:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and minimum <= value < math.inf


def _resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """(N, h, w) -> (N, *size), bilinear."""
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    resized = functional.interpolate(maps[:, None], size, mode="bilinear", align_corners=False)
    return resized[:, 0]


def _smoothed(maps: Tensor, sigma: float) -> Tensor:
    """(N, H, W) under a Gaussian of ``sigma`` pixels, cut at 3 sigma; edges are repeated."""
    radius = max(round(3 * sigma), 1)
    steps = torch.arange(-radius, radius + 1, device=maps.device, dtype=maps.dtype)
    kernel = torch.exp(-0.5 * (steps / sigma) ** 2)
    kernel = kernel / kernel.sum()
    maps = functional.pad(maps[:, None], (radius,) * 4, mode="replicate")
    maps = functional.conv2d(maps, kernel.view(1, 1, 1, -1))
    return functional.conv2d(maps, kernel.view(1, 1, -1, 1))[:, 0]
