"""RSTPM: reconstructed student-teacher and discriminative networks.

Yamada, Kamiya and Hotta, "Reconstructed Student-Teacher and Discriminative Networks for Anomaly
Detection", IROS 2022, arXiv 2210.07548. Two students learn the features of two teachers on normal
images: the first as in STPM, from the image; the second only from the first teacher's deepest
features, too few to carry a defect through. A small network learns on images with synthesised
defects which of the differences matter.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from fastad import backbones, ops
from fastad.models.base import PROBE, Batches, FrozenTeacher, Stage
from fastad.models.bottleneck import bottleneck_stage
from fastad.models.foreign import agreement, statistics_kept
from fastad.models.map_model import Evidence, MapModel
from fastad.models.map_options import SCALES, MapChoice
from fastad.models.roi import distillation_loss, mean_inside
from fastad.models.rstpm.config import LAYERS, RSTPMConfig
from fastad.models.rstpm.decoder import Decoder
from fastad.models.rstpm.teachers import build_teachers, resolve_auto
from fastad.models.rstpm.unet import UNet

LEARNED_CHANNELS = 512  # of the learned bottleneck, as many as ResNet-18's layer4


class RSTPM(MapModel):
    """Two student-teacher pairs and a discriminative network.

    Teacher1 and Student1 are STPM's. Student2 rebuilds Teacher2's levels from the bottleneck alone.
    Distance maps of equal size are scaled and added; the product of the sums, upsampled, times the
    discriminative network's map is the anomaly map.

    Trained in two stages: the students on normal images, with STPM's loss; then, with the students
    frozen, the discriminative network on pseudo-anomalies, with the focal loss. A model whose
    second stage never ran answers with half the pairs' map.

    The recipe is not published: the students' optimizer is that of reverse distillation.

    Attributes:
        teacher1, teacher2: frozen.
        student1, student2, bottleneck: trained in the first stage.
        discriminator: trained in the second stage.
        distance_means: (6, 64, 64) means of the distance maps over held-out normal images, at each
            position of a grid over the image. Before the second stage it takes them anew, from the
            half of these images that it trains on (`prepare_stage`).
        level_means, level_deviations: (3,) of the summed maps, from that half.
    """

    name = "rstpm"
    pair = ("teacher1", "student1")
    pairs = 2
    unchosen = MapChoice("position", "position", 0.003, (1.0, 1.0))
    Config = RSTPMConfig
    training_defaults: ClassVar[dict[str, Any]] = {
        "epochs": 20,
        "min_steps": 400,
        "batch_size": 8,
        "min_batches": 4,
        "optimizer": "adam",
        "learning_rate": 5e-3,
        "schedule": "cosine",
        "betas": (0.5, 0.999),
    }
    stages: ClassVar[tuple[Stage, ...]] = (
        Stage("pairs", is_static=True, judged_by_defects=True, sees_past_defects=True),
        Stage(
            "discriminator",
            {"epochs": 6, "min_steps": 0, "learning_rate": 1e-3},
            pseudo_anomalies=True,
            unseen=True,
            reads_images=False,
            is_static=True,
        ),
    )

    level_means: Tensor
    level_deviations: Tensor

    def __init__(self, config: RSTPMConfig):
        config = resolve_auto(config)
        super().__init__(config)
        first, second = build_teachers(config)
        if isinstance(config.teacher1, nn.Module):
            self.student1 = config.student1 or backbones.fresh_copy(first)
        else:
            self.student1 = backbones.build(config.teacher1, LAYERS)
        self.teacher1, self.teacher2 = FrozenTeacher(first), FrozenTeacher(second)
        shapes = self.teacher1.shapes()
        if config.bottleneck == "auto":  # of a module
            bottleneck = "layer4" if len(shapes) > len(LAYERS) else "learned"
            self.config = dataclasses.replace(config, bottleneck=bottleneck)
        learned = self.config.bottleneck == "learned"
        _require_levels("teacher1", self.teacher1, shapes, len(LAYERS) + (not learned))
        self._stride = round(PROBE / shapes[0][-1])  # pixels of the image a step of the largest map
        deepest = shapes[-1][0]
        channels = LEARNED_CHANNELS if learned else deepest
        self.bottleneck = bottleneck_stage(deepest, channels) if learned else nn.Identity()
        second_shapes = self.teacher2.shapes()
        _require_levels("teacher2", self.teacher2, second_shapes, len(LAYERS))
        self.student2 = Decoder(
            channels,
            [shape[0] for shape in second_shapes],
            blocks=config.decoder_blocks,
            attention=config.attention,
            attention_reduction=config.attention_reduction,
            signed=getattr(second, "signed", False),
        )
        self.discriminator = UNet(len(LAYERS), config.discriminator_width)
        # Over normal images: means of the distance maps; means and deviations of the summed maps.
        self._add_maps(2 * len(LAYERS), [shape[0] for shape in shapes[: len(LAYERS)]])
        self.register_buffer("level_means", torch.zeros(len(LAYERS)))
        self.register_buffer("level_deviations", torch.ones(len(LAYERS)))

    def enter_stage(self, stage: Stage | None) -> None:
        """Train the students, or in the second stage the discriminative network alone."""
        super().enter_stage(stage)
        for module in (self.student1, self.bottleneck, self.student2):
            module.requires_grad_(not self._discriminates)
        self.discriminator.requires_grad_(self._discriminates or stage is None)
        self.train(self.training)

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
        if "teacher1" in kept:
            first, students = kept["teacher1"], backbones.extract(self.student1, images)
        else:
            first, students = self.extract_pair(images)
        second = kept.get("teacher2") or self.teacher2(images)
        deepest = first[-1].to(images.dtype)
        students = students[: len(LAYERS)]
        given = functional.dropout(
            self.bottleneck(deepest), self.config.bottleneck_dropout, self.student2.training
        )
        students += self.student2(given, second)
        return [*first[: len(LAYERS)], *second], students

    def distances(self, images: Tensor, kept: Mapping[str, Any] | None = None) -> list[Tensor]:
        """Images (N, 3, H, W) in [0, 1] -> the six distance maps (N, H_l, W_l), as `features`."""
        return self._maps(images, kept)[: 2 * len(LAYERS)]

    def _maps(self, images: Tensor, kept: Mapping[str, Any] | None = None) -> list[Tensor]:
        return self._compared(*self.features(images, kept))

    def _compared(self, teachers: Sequence[Tensor], students: Sequence[Tensor]) -> list[Tensor]:
        distances = ops.distances(teachers, students, eps=self.config.eps)
        return [*distances, *self.subspace_maps(teachers)]

    def summed_maps(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Six scaled maps (N, H_l, W_l), those of both pairs added: three of (N, H_l, W_l)."""
        pairs = zip(maps[: len(LAYERS)], maps[len(LAYERS) :], strict=True)
        return [first + ops.aggregate_maps([second], first.shape[-2:]) for first, second in pairs]

    def inputs(self, distances: Sequence[Tensor]) -> list[Tensor]:
        """What the discriminative network sees of the six distance maps: three summed ones.

        A map of the subspace behind them is left out.
        """
        return self.summed_maps(self.scaled(distances[: 2 * len(LAYERS)], self._scale_of_inputs()))

    def _scale_of_inputs(self) -> str:
        # What the maps are scaled by in the end is chosen later.
        return self.config.given().get("scale_maps", self.unchosen.scale_maps)

    def discriminate(self, summed: Sequence[Tensor]) -> Tensor:
        """Summed maps -> probability of a defect, (N, h, w), by the discriminative network, at its
        own size (``discriminator_stride``)."""
        size = [
            max(length * self._stride // self.config.discriminator_stride, 1)
            for length in summed[0].shape[-2:]
        ]
        statistics = zip(self.level_means, self.level_deviations, strict=True)
        standard = [(m - mean) / d for m, (mean, d) in zip(summed, statistics, strict=True)]
        inputs = torch.stack([ops.aggregate_maps([m], size) for m in standard], dim=1)
        # Half precision under autocast is too coarse for probabilities.
        return self.discriminator(inputs).to(inputs.dtype).sigmoid()

    def level_maps(self, batch: Mapping[str, Any]) -> list[Tensor]:
        """The six distance maps (N, H_l, W_l) of a batch as in `loss`, kept ones if there are."""
        if "distances" in batch:
            return [d[:, 0].to(self.distance_means.dtype) for d in batch["distances"]]
        return self._maps(batch["image"], batch)

    def finish_stage(self, train: Batches) -> None:
        """After the first stage, take subspace and memory of Teacher1's features."""
        if not self._discriminates:
            super().finish_stage(train)

    def evidence(self, batch: Mapping[str, Any]) -> Evidence:
        """The distance maps and, but while the pairs are trained, the discriminative network's."""
        return self.completed(self.local_evidence(batch))

    def local_evidence(self, batch: Mapping[str, Any]) -> Evidence:
        """As `evidence`, without the discriminative network, which looks further."""
        teachers: Sequence[Tensor] = []
        if "distances" not in batch:
            teachers, students = self.features(batch["image"], batch)
            maps = self._compared(teachers, students)
        else:
            maps = self.level_maps(batch)
            asks = self.asks_memory() or self.composition is not None
            if "image" in batch and asks:
                teachers = self.teacher1(self.normalize(batch["image"]))
        memory = self.memory_maps(teachers) if teachers else []
        composition = self.composition_of(teachers[: len(LAYERS)]) if teachers else None
        return Evidence(maps, memory_maps=memory, composition=composition)

    def completed(self, found: Evidence) -> Evidence:
        """With the map of the discriminative network, but while the pairs are trained."""
        if not self.config.discriminator or not (self.stage is None or self._discriminates):
            return found
        return found._replace(factors=[self.discriminate(self.inputs(found.maps))])

    def scalings(self) -> Sequence[str]:
        """All: pairs of different size are added."""
        return SCALES

    def join(
        self, maps: Sequence[Tensor], factors: Sequence[Tensor], size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Six scaled distance maps -> anomaly map (N, *size), and its maxima (N,)."""
        summed = self.summed_maps(maps)
        if self.config.aggregate == "sum":
            summed = [ops.aggregate_maps(summed, size, aggregate="sum")]
        return ops.aggregate_maps(
            [*summed, *factors], size, smoothing=self.config.smoothing, return_maximum=True
        )

    def teacher_features(self, images: Tensor) -> dict[str, list[Tensor]]:
        """The teachers' levels (N, C_l, H_l, W_l); in the second stage the distance maps
        (N, 1, H_l, W_l), of which it needs nothing more."""
        if self._discriminates:
            return {"distances": [d[:, None] for d in self._maps(images)]}
        images = self.normalize(images)
        return {"teacher1": self.teacher1(images), "teacher2": self.teacher2(images)}

    def can_renew_means(self) -> bool:
        """Not where the discriminative network has learned from maps that were divided by them."""
        is_known = self.config.discriminator and self._scale_of_inputs() != "none"
        return super().can_renew_means() and not is_known

    def calibrate_maps(self, good: Batches) -> None:
        """As of every such model, but of the first stage alone: the discriminative network knows
        the means that its stage was prepared with."""
        if not self._discriminates:
            super().calibrate_maps(good)

    def prepare_stage(self, train: Batches, unseen: Batches) -> None:
        """Before the second stage, take the statistics of the maps from images that the students
        were not fitted to: on those that they were fitted to, distances are smaller."""
        if not self._discriminates:
            return
        super().calibrate_maps(unseen)
        batches = [self.inputs(self.level_maps(batch)) for batch in unseen()]
        summed = [self.places(torch.cat(maps)[:, None]) for maps in zip(*batches, strict=True)]
        self.level_means.copy_(torch.stack([m.mean() for m in summed]))
        deviations = torch.stack([m.std(correction=0) for m in summed])
        self.level_deviations.copy_(deviations.clamp_min(self.config.eps))

    def loss(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Of the pairs: the squared distances of normalised features, averaged per level and summed
        over the levels, with the factor of `STPM`'s loss. Of the discriminative network: the focal
        loss, and the mean absolute error where asked for. Where the batch has "corrupted" images,
        Student1 sees those. All else is of the clean ones. Where it has "foreign" ones, the
        `agreement` of pair 1 on them is a third loss.
        """
        if self._discriminates:
            focal, error = self._discriminator_errors(batch)
            losses = {"focal": focal.mean()}
            return losses | ({"l1": error.mean()} if self.config.l1_weight > 0 else {})
        teachers, students = self.features(batch.get("corrupted", batch["image"]), batch)
        levels = distillation_loss(
            teachers,
            students,
            self.roi,
            level_weights=[2.0] * len(teachers),
            reduction="none",
            hard=self.config.hard,
            eps=self.config.eps,
        )
        losses = {"pair1": levels[: len(LAYERS)].sum(), "pair2": levels[len(LAYERS) :].sum()}
        if "foreign" in batch:
            with statistics_kept(self.student1):
                pair = self.extract_pair(self.normalize(batch["foreign"]))
            first, second = (levels[: len(LAYERS)] for levels in pair)
            losses["foreign"] = agreement(first, second, self.config.eps)
        return losses

    def validation_score(self, batch: Mapping[str, Any]) -> Tensor:
        """The loss of each image: (N,)."""
        if self._discriminates:
            focal, error = self._discriminator_errors(batch)
            return focal + error
        distances = self.distances(batch["image"], batch)
        return torch.stack([mean_inside(d, self.roi) for d in distances]).sum(dim=0)

    def _discriminator_errors(self, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """Focal loss and weighted absolute error of each image: (N,), (N,)."""
        mask = batch["mask"]
        with torch.no_grad():
            inputs = self.inputs(self.level_maps(batch))
        found = self.discriminate(inputs)
        found = ops.aggregate_maps([found], mask.shape[-2:])
        # Off the ends, where the logarithm or the gradient of the power is infinite.
        right = torch.where(mask > 0, found, 1 - found).clamp(1e-6, 1 - 1e-6)
        focal = (1 - right) ** self.config.focal_gamma * -right.log()
        error = self.config.l1_weight * (1 - right)
        return mean_inside(focal, self.roi), mean_inside(error, self.roi)


def _require_levels(option: str, teacher: FrozenTeacher, shapes: Sequence, levels: int) -> None:
    if len(shapes) != levels:
        raise ValueError(
            f"{option} must return {levels} feature maps (three levels, and a fourth where "
            f"bottleneck is 'layer4'); {type(teacher.backbone).__name__} returned {len(shapes)}"
        )
