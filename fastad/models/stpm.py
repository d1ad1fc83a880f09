"""STPM: student-teacher feature pyramid matching.

Wang et al., "Student-Teacher Feature Pyramid Matching for Anomaly Detection", BMVC 2021,
arXiv 2103.04257. A student learns to reproduce a pretrained teacher's feature maps on normal
images; where it fails on a new image, there is something that the normal images did not show.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from fastad import backbones, ops
from fastad._values import is_number
from fastad.models.base import Batches, Images, Prediction, Stage
from fastad.models.channels import ChannelScales, channel_deviations
from fastad.models.checks import check_student
from fastad.models.foreign import agreement, statistics_kept
from fastad.models.map_model import Evidence, MapModel
from fastad.models.map_options import SCALES, MapOptions
from fastad.models.roi import distillation_loss, mean_inside
from fastad.models.teachers import settled_backbone

# Of the training of an EfficientNet-Lite: the optimizer is that of RSTPM.
OF_LITE: dict[str, Any] = {
    "epochs": 20,
    "batch_size": 8,
    "optimizer": "adam",
    "learning_rate": 5e-3,
    "schedule": "cosine",
    "betas": (0.5, 0.999),
    "weight_decay": 0.0,
}


@dataclass
class STPMConfig(MapOptions):
    """Options of `STPM`.

    Attributes:
        backbone: network of teacher and student: "auto", "resnet18", "resnet34", "resnet50",
            "wide_resnet50_2", "resnet50_caffe" or "efficientnet_lite0" to "efficientnet_lite2".
            "auto" is ResNet-18 where its weights are at hand, else an EfficientNet-Lite whose
            weights are (`fastad.backbones.availability`). Of a built model it is that name.
            In Python also the teacher itself: any module that returns a list of feature maps. It
            gets images of ImageNet's mean and deviation. ``layers`` and ``teacher_weights`` are
            then unused, and the detector cannot be saved.
        layers: stages whose feature maps are compared, of "layer1" to "layer4".
        teacher_weights: "auto", "embedded", a path, or None ("random") for a teacher that is loaded
            later. Of a built model it is "embedded" where "auto" came to that.
        aggregate: "product" of the levels (the paper) or their "sum".
        aggregate_size: levels are joined at the size of the "input" (the paper), or at that of the
            first "layer" and then resized (the authors' code). The latter is faster and coarser.
        weights: one number a level, at both scales: exponents of the product, factors of the sum.
            None for 1.
        standardize: "channels" divides every channel of the teacher's levels by its standard
            deviation over the training images. Channels that are quiet on good images then count as
            much as others, as in EfficientAD (Batzner et al., WACV 2024), which also subtracts the
            mean. "none" does not (the paper). "auto" is "channels" for the embedded teacher, whose
            deeper levels a student follows into defects otherwise, else "none".
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
        overview: also look at the image reduced by this factor, 2 or 4, for defects that show at a
            low resolution, such as missing parts. The higher map of both counts at each place,
            equal where the quantile of 0.95 of the maxima of held-out good images is. 0 looks at
            the image alone (the paper).
        hard: the loss counts only the distances of a level that lie at or above this quantile of
            the batch (Batzner et al., "EfficientAD", WACV 2024, sec. 3.2). The student then learns
            what is hard of good images in place of what is easy already. 0 counts all (the paper).
        eps: smallest norm by which a feature vector is divided.
        student: the student of a ``backbone`` that is a module. None for a copy of it with newly
            drawn parameters.
    """

    backbone: str | nn.Module = "auto"
    layers: Sequence[str] = ("layer1", "layer2", "layer3")
    teacher_weights: str | None = "auto"
    aggregate: str = "product"
    aggregate_size: str = "input"
    weights: Sequence[float] | None = None
    standardize: str = "auto"
    scale_maps: str = "auto"
    scale_score: str = "auto"
    pooling: str | float = "auto"
    subspace: str | bool = "auto"
    score_by: str = "auto"
    composition: bool = False
    overview: int = 0
    hard: float = 0.9
    eps: float = 1e-12
    student: nn.Module | None = None

    def __post_init__(self) -> None:
        self._make_plain()
        check_student(self.backbone, self.student)
        if isinstance(self.backbone, str):
            backbones.check_names(self.backbone, self.layers, auto=True)
            self.layers = tuple(self.layers)
        for field, allowed in (
            ("aggregate", ("product", "sum")),
            ("aggregate_size", ("input", "layer")),
            ("standardize", ("auto", "channels", "none")),
        ):
            self._require(field, getattr(self, field) in allowed, " or ".join(map(repr, allowed)))
        self._check_maps()
        self._require("hard", is_number(self.hard, 0) and self.hard < 1, "in [0, 1)")
        self._require("eps", is_number(self.eps) and self.eps > 0, "a number above 0")
        if self.weights is not None:
            are_numbers = isinstance(self.weights, (list, tuple))
            are_numbers = are_numbers and all(map(is_number, self.weights))
            self._require("weights", are_numbers, "finite numbers, one a layer")
            self.weights = [float(weight) for weight in self.weights]
            if isinstance(self.backbone, str) and len(self.weights) != len(self.layers):
                raise ValueError(
                    f"weights must have one number for each of the {len(self.layers)} layers; "
                    f"got {self.weights}"
                )


class STPM(MapModel):
    """A frozen teacher, a student of the same kind, and the distance of their feature maps.

    The training defaults are the authors': SGD with learning rate 0.4, momentum 0.9, weight decay
    1e-4, batches of 32, 100 epochs. For an EfficientNet-Lite they are Adam with learning rate
    0.005, which falls to 0 along a cosine, betas 0.5 and 0.999, batches of 8, 20 epochs.
    """

    name = "stpm"
    pair = ("teacher", "student")
    stages = (Stage(is_static=True, judged_by_defects=True, sees_past_defects=True),)
    Config = STPMConfig
    training_defaults: ClassVar[dict[str, Any]] = {
        "epochs": 100,
        "min_steps": 400,
        "batch_size": 32,
        "min_batches": 4,
        "optimizer": "sgd",
        "learning_rate": 0.4,
        "momentum": 0.9,
        "weight_decay": 1e-4,
    }

    @classmethod
    def training_defaults_for(cls, config: STPMConfig) -> dict[str, Any]:
        """The authors', or what was measured with an EfficientNet-Lite."""
        of_lite = config.backbone in backbones.FROM_PIP
        return cls.training_defaults | (OF_LITE if of_lite else {})

    def __init__(self, config: STPMConfig):
        config = settled_backbone(self.name, config, config.layers)
        super().__init__(config)
        self.teacher, self.student = self.build_pair(config.layers)
        embedded = self.teacher_origins()["teacher"] == "embedded"
        if config.standardize == "auto" and embedded:
            self.config = dataclasses.replace(self.config, standardize="channels")
        self.scales: nn.Module = nn.Identity()
        shapes = self.teacher.shapes()
        if self.config.standardize == "channels":
            self.scales = ChannelScales([shape[0] for shape in shapes])
        self._add_maps(len(shapes), [shape[0] for shape in shapes])

    def features(
        self, images: Tensor, teacher: list[Tensor] | None = None
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Images (N, 3, H, W) in [0, 1] -> the teacher's and the student's (N, C_l, H_l, W_l).

        ``teacher``: its features where they are known already.
        """
        found, student, deviation = self._pair(self.normalize(images), teacher)
        return found if deviation is None else self.scales(found), student

    def _pair(
        self, images: Images, teacher: list[Tensor] | None
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor] | None]:
        """`features` of normalised images, the teacher's not scaled yet where there are deviations
        (C_l,) to divide by.

        The ops do that on the way. It saves a pass over the features.
        """
        if teacher is not None:
            return teacher, backbones.extract(self.student, images), None
        teacher, student = self.extract_pair(images)
        scales = self.scales
        return teacher, student, scales.deviations() if isinstance(scales, ChannelScales) else None

    def teacher_features(self, images: Tensor) -> dict[str, list[Tensor]]:
        """``{"teacher": list of (N, C_l, H_l, W_l)}`` for images (N, 3, H, W) in [0, 1]."""
        return {"teacher": self.scales(self.teacher(self.normalize(images)))}

    def prepare_stage(self, train: Batches, unseen: Batches) -> None:
        """Take the deviations of the teacher's channels where they are to be divided by."""
        if isinstance(self.scales, ChannelScales):
            self.scales.reset()
            levels = ([*map(self.places, batch["teacher"])] for batch in train())
            self.scales.equalize(channel_deviations(levels))

    def level_maps(self, batch: Mapping[str, Any]) -> list[Tensor]:
        """The distances of the levels (N, H_l, W_l) of a batch as in `loss`."""
        return self._compared(batch, self.subspace is not None)[0]

    def _compared(
        self, batch: Mapping[str, Any], scaled: bool
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Level maps, and the teacher's levels, which are scaled where they have to be."""
        teacher, student, deviation = self._pair(self.seen(batch), batch.get("teacher"))
        if scaled and deviation is not None:
            teacher, deviation = self.scales(teacher), None
        distances = ops.distances(teacher, student, deviation=deviation, eps=self.config.eps)
        return [*distances, *self.subspace_maps(teacher)], teacher

    def evidence(self, batch: Mapping[str, Any]) -> Evidence:
        """The distance maps of the levels, and those from the memory."""
        return self.evidence_of(*self._compared(batch, self.asks_teacher()))

    def scalings(self) -> Sequence[str]:
        """All of a sum, whose levels differ in size."""
        return SCALES if self.config.aggregate == "sum" else super().scalings()

    def join(
        self, maps: Sequence[Tensor], factors: Sequence[Tensor], size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Scaled distance maps -> anomaly map (N, *size), and its maxima (N,)."""
        aggregate, weights = self.config.aggregate, self.config.weights or [1.0] * len(maps)
        if self.config.aggregate_size == "input" and (aggregate == "product" or not factors):
            maps, weights = [*maps, *factors], [*weights, *[1.0] * len(factors)]
            return ops.aggregate_maps(
                maps, size, aggregate=aggregate, weights=weights, return_maximum=True
            )
        of_input = self.config.aggregate_size == "input"
        at = size if of_input else (maps[0].shape[-2], maps[0].shape[-1])
        joined = ops.aggregate_maps(maps, at, aggregate=aggregate, weights=weights)
        return ops.aggregate_maps([joined, *factors], size, return_maximum=True)

    def answer(self, batch: Mapping[str, Any]) -> Prediction:
        """Score and anomaly map; in one sweep over the features where nothing is scaled."""
        choice = self.choice()
        scales = {choice.scale_maps, choice.scale_score}
        plain = scales == {"none"} and choice.pooling == 0 and not choice.subspace
        plain = plain and choice.score_by == "maps" and self.composition is None
        plain = plain and not self.scales_apart
        if not plain or self.config.aggregate_size != "input":
            return super().answer(batch)
        teacher, student, deviation = self._pair(self.seen(batch), batch.get("teacher"))
        anomaly_map, score = ops.anomaly_map(
            teacher,
            student,
            (batch["image"].shape[-2], batch["image"].shape[-1]),
            aggregate=self.config.aggregate,
            weights=self.config.weights,
            deviation=deviation,
            eps=self.config.eps,
            return_maximum=True,
        )
        anomaly_map, score = self.inside(anomaly_map, score)
        return Prediction(score, anomaly_map)

    def validation_score(self, batch: Mapping[str, Any]) -> Tensor:
        """Mean of the anomaly map of each image, not scaled, as the authors choose the epoch.

        With an overview the sum of both scales' means.
        """
        size = (batch["image"].shape[-2], batch["image"].shape[-1])
        teacher, student, deviation = self._pair(self.seen(batch), batch.get("teacher"))
        distances = ops.distances(teacher, student, deviation=deviation, eps=self.config.eps)
        maps = (self.join(own, [], size)[0] for own in self.of_scales(distances))
        first, *others = (mean_inside(each, self.roi) for each in maps)
        return sum(others, start=first)

    def loss(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Squared distances of normalised features, averaged per level and summed over levels.

        The authors' code omits the factor 1/2 of the paper's distance, and their learning rate
        belongs to that: hence a weight of 2 on each level. Where the batch has "corrupted" images,
        the student sees those. The teacher's features are of the clean ones all the same. Where it
        has "foreign" ones, their `agreement` is a second loss.
        """
        teacher, student, deviation = self._pair(
            self.normalize(batch.get("corrupted", batch["image"])), batch.get("teacher")
        )
        weights = [2.0] * len(teacher)
        distance = distillation_loss(
            teacher,
            student,
            self.roi,
            level_weights=weights,
            hard=self.config.hard,
            deviation=deviation,
            eps=self.config.eps,
        )
        losses = {"distillation": distance}
        if "foreign" in batch:
            with statistics_kept(self.student):
                pair = self.features(batch["foreign"])
            losses["foreign"] = agreement(*pair, self.config.eps)
        return losses
