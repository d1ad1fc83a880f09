"""UTAD: unsupervised two-stage anomaly detection.

Liu, Zhuang and Lu, "Unsupervised Two-Stage Anomaly Detection", arXiv 2103.11671. A first network
makes a coarse impression of an image, without its defects and without its details. A second one
adds the details of a good image to the impression, and takes them off the image, where the defect
stays. The four pictures are compared, and can be shown: they tell why an image is anomalous.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from fastad import ops
from fastad.models.base import AnomalyModel, Batches, FrozenTeacher, Prediction, Stage, Step
from fastad.models.maps import GRID, PositionMeans, deviation
from fastad.models.teachers import settled_backbone
from fastad.models.utad.adversarial import Discriminators, discriminator_loss, generator_loss
from fastad.models.utad.comparison import combined, dissimilarity, grey_difference
from fastad.models.utad.config import EXPERT_LOSSES, LAYERS, LOSSES, UTADConfig
from fastad.models.utad.expert import ExpertNet
from fastad.models.utad.expert_losses import translation_losses
from fastad.models.utad.impression import STRIDE, ImpressionNet
from fastad.models.utad.impression_losses import (
    MutualInformation,
    coding_losses,
    edge_difference,
    squared_difference,
    widened,
)
from fastad.models.utad.nearest import LatentBank

IMPRESSION, EXPERT = "impression", "expert"
OUTSIDE = 0.5  # of a region of interest: what the networks see there


class UTAD(AnomalyModel):
    """An impression network, an expert network, and the comparison of their pictures.

    Trained in two stages, each with a step of the networks that make pictures and one of the
    discriminators that judge them: the impression network on normal images; then, with that
    frozen, the expert. A model whose second stage never ran compares images with their
    impressions.

    With a region of interest everything outside is grey: the networks, their losses and the latent
    code know nothing else of it.

    Attributes:
        impression, expert: IE-Net and Expert-Net of the paper.
        discriminators, expert_discriminators: what tells their pictures from images.
        information: estimates what the latent code says of the features.
        teacher: frozen, where ``comparison`` is "perceptual".
        bank: latent codes of training images.
        factors: (parts, levels, 64, 64), by which the parts of the map are multiplied, at each
            position of a grid over the image; the last part compares image and impression.
        map_deviation, latent_deviation: of training images' scores, by which those are divided.
    """

    name = "utad"
    learns_roi = True
    Config = UTADConfig
    training_defaults: ClassVar[dict[str, Any]] = {
        "epochs": 12,
        "min_steps": 250,
        "batch_size": 8,
        "min_batches": 4,
        "optimizer": "adam",
        "learning_rate": 1e-3,
        "schedule": "cosine",
    }
    stages: ClassVar[tuple[Stage, ...]] = (
        Stage(
            IMPRESSION,
            steps=(Step("autoencoder"), Step("discriminators", {"learning_rate": 1e-4})),
        ),
        Stage(
            EXPERT,
            {
                "epochs": 10,
                "batch_size": 4,
                "learning_rate": 1e-3,
                "betas": (0.5, 0.999),
                "weight_decay": 1e-4,
            },
            steps=(Step("generator"), Step("discriminators", {"learning_rate": 1e-4})),
        ),
    )

    factors: Tensor
    map_deviation: Tensor
    latent_deviation: Tensor

    def __init__(self, config: UTADConfig):
        if config.comparison == "perceptual":
            config = settled_backbone(self.name, config, LAYERS)
        super().__init__(config)
        self.impression = ImpressionNet(config.impression_width, config.latents)
        self.discriminators = Discriminators(config.discriminator_width)
        channels = self.impression.head.inner.in_channels
        self.information = MutualInformation(config.latents, channels)
        self.expert = ExpertNet(config.expert_width, config.details)
        self.expert_discriminators = Discriminators(config.discriminator_width)
        self.bank = LatentBank(config.bank, 2 * config.latents)
        parts, levels = 2, 1
        if config.comparison == "perceptual":
            backbone = config.backbone
            if not isinstance(backbone, nn.Module):
                backbone = self.build_backbone(LAYERS)
            self.teacher = FrozenTeacher(backbone)
            parts, levels = 3, len(self.teacher.shapes())
        factors = torch.zeros(parts, levels, GRID, GRID)
        factors[-1] = 1
        self.register_buffer("factors", factors)
        self.register_buffer("map_deviation", torch.ones(()))
        self.register_buffer("latent_deviation", torch.ones(()))

    def pictures(self, images: Tensor) -> list[Tensor]:
        """Images (N, 3, H, W) in [0, 1] -> four of that shape: the images, their impressions, the
        impressions with details, the images without (naive impressions)."""
        return self._pictures(images)[0]

    def _pictures(self, images: Tensor) -> tuple[list[Tensor], Tensor]:
        """Those, and the features of the impression network's middle."""
        height, width = images.shape[-2:]
        padded = self._padded(images)
        features = self.impression.encode(padded)
        impression = self.impression.decode(features)
        found = [padded, impression, *self.expert(padded, impression)]
        return [x[..., :height, :width].to(padded.dtype) for x in found], features

    def _padded(self, images: Tensor) -> Tensor:
        """Images with their last row and column repeated up to sides that the networks take."""
        # Through `normalize`, which checks the images, and replaces bytes where a copy takes them.
        images = self.normalize(images) * self.std + self.mean
        if self.roi is not None:
            images = self.roi.fill(images, OUTSIDE)
        down, right = (-side % STRIDE for side in images.shape[-2:])
        return functional.pad(images, (0, right, 0, down), mode="replicate")

    def explain(self, images: Tensor) -> dict[str, Tensor]:
        """The impression, the image without details, and the impression with details; the former
        alone of a model whose second stage never ran."""
        _, impression, detailed, naive = self.pictures(images)
        if not self.factors[:-1].any():
            return {"impression": impression}
        return {
            "impression": impression,
            "naive impression": naive,
            "expert reconstruction": detailed,
        }

    def forward(self, images: Tensor) -> Prediction:
        """Images (N, 3, H, W) in [0, 1] -> score (N,) and anomaly map (N, H, W).

        The score is the maximum of the map over the deviation that it has on training images, plus
        the distance of the latent code from its nearest neighbours over that one's deviation.
        """
        pictures, features = self._pictures(images)
        anomaly_map = self._map(pictures)
        score = anomaly_map.amax(dim=(1, 2)) / self.map_deviation
        if self.config.latent_weight > 0:
            distance = self.bank.distances(self._latents(features), self.config.neighbours)
            score = score + self.config.latent_weight * distance / self.latent_deviation
        return Prediction(score, anomaly_map)

    def differences(self, pictures: Sequence[Tensor]) -> list[list[Tensor]]:
        """Four `pictures` -> the parts of the map, each a list of levels (N, h, w).

        The image against the expert's, the impression against the naive one, and the image against
        the impression, of which a model without expert makes its map; or the combination of the
        authors' code, and the latter.
        """
        image, impression, _, _ = pictures
        if self.config.comparison != "perceptual":
            by = grey_difference if self.config.comparison == "grey" else dissimilarity
            return [[combined(by, list(pictures))], [by(image, impression)]]
        normalized = (torch.cat(list(pictures)) - self.mean) / self.std
        levels = (level.unflatten(0, (4, -1)).unbind(0) for level in self.teacher(normalized))
        x, m, x_made, m_made = zip(*levels, strict=True)
        pairs = ((x, x_made), (m, m_made), (x, m))
        return [ops.distances(list(a), list(b), eps=self.config.eps) for a, b in pairs]

    def _map(self, pictures: Sequence[Tensor]) -> Tensor:
        size = (pictures[0].shape[-2], pictures[0].shape[-1])
        found: list[Tensor] = []
        for levels, factors in zip(self.differences(pictures), self.factors, strict=True):
            scaled = [
                level * ops.aggregate_maps([factor[None]], (level.shape[-2], level.shape[-1]))
                for level, factor in zip(levels, factors, strict=True)
            ]
            found.append(ops.aggregate_maps(scaled, size, aggregate=self.config.aggregate))
        joined = ops.aggregate_maps(found, size, aggregate="sum", smoothing=self.config.smoothing)
        return joined if self.roi is None else self.roi.keep(joined)

    def _latents(self, features: Tensor) -> Tensor:
        """The middle's features -> mean and deviation of the latent code, (N, 2 * latents)."""
        mean, log_variance = map(widened, self.impression.latents(features))
        return torch.cat([mean, (0.5 * log_variance).exp()], dim=1)

    @property
    def _is_expert(self) -> bool:
        return self.stage is not None and self.stage.name == EXPERT

    def _modules_of(self, stage: str) -> list[nn.Module]:
        if stage == EXPERT:
            return [self.expert, self.expert_discriminators]
        return [self.impression, self.information, self.discriminators]

    def enter_stage(self, stage: Stage | None) -> None:
        """Train the networks of the stage alone."""
        super().enter_stage(stage)
        for name in (IMPRESSION, EXPERT):
            for module in self._modules_of(name):
                module.requires_grad_(stage is None or stage.name == name)
        self.train(self.training)

    def train(self, mode: bool = True) -> "UTAD":
        """Training mode; in the second stage the impression network stays in eval mode."""
        super().train(mode)
        if self._is_expert:
            self.impression.eval()
        return self

    def step_parameter_groups(self, step: Step) -> list[dict[str, Any]]:
        """Of a step of discriminators theirs, of the other everything else of the stage."""
        assert self.stage is not None  # steps are those of a stage
        *others, discriminators = self._modules_of(self.stage.name)
        modules = [discriminators] if step.name == "discriminators" else others
        return [{"params": [p for module in modules for p in module.parameters()]}]

    def step_loss(self, batch: dict[str, Any], step: Step) -> dict[str, Tensor]:
        """The losses of the paper, each with its weight.

        Pictures go from the step that makes them to the discriminators' in ``batch["made"]``.
        """
        images = self._padded(batch["image"])
        judges = self.expert_discriminators if self._is_expert else self.discriminators
        if step.name == "discriminators":
            if "made" not in batch:
                with torch.no_grad():
                    batch["made"] = self.impression(images)
                    if self._is_expert:
                        batch["made"] = self.expert(images, batch["made"])[0]
            return {"discriminators": discriminator_loss(judges(images), judges(batch["made"]))}
        if self._is_expert:
            with torch.no_grad():
                impressions = self.impression(images)
            losses, made = translation_losses(self.expert, images, impressions)
            weights = dict(zip(EXPERT_LOSSES, self.config.expert_factors, strict=True))
        else:
            losses, made = coding_losses(self.impression, self.information, images)
            weights = dict(zip(LOSSES, self.config.impression_factors, strict=True))
        batch["made"] = made.detach()
        losses["adversarial"] = generator_loss(judges(made))
        return {name: weights[name] * loss for name, loss in losses.items()}

    def loss(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Those of all steps of the stage."""
        assert self.stage is not None  # outside training there is no loss
        own = dict(batch)
        found: dict[str, Tensor] = {}
        for step in self.stage.steps:
            found |= self.step_loss(own, step)
        return found

    def validation_score(self, batch: Mapping[str, Any]) -> Tensor:
        """How far pictures are from what they shall be, without what discriminators say: (N,)."""
        images = self._padded(batch["image"])
        impressions = self.impression(images)
        if not self._is_expert:
            return squared_difference(images, impressions) + edge_difference(images, impressions)
        made, naive = self.expert(images, impressions)
        wrong, naively = widened(made - images).abs(), widened(naive - impressions).abs()
        return wrong.flatten(1).mean(dim=1) + naively.flatten(1).mean(dim=1)

    def finish_stage(self, train: Batches) -> None:
        """Take from training images what the maps and scores are divided by, and latent codes."""
        used = range(len(self.factors))
        used = used[:-1] if self._is_expert else used[-1:]
        means = {part: [PositionMeans(self.roi) for _ in self.factors[part]] for part in used}
        latents = []
        for batch in train():
            pictures, features = self._pictures(batch["image"])
            latents.append(self._latents(features))
            differences = self.differences(pictures)
            for part in used:
                for mean, level in zip(means[part], differences[part], strict=True):
                    mean.add(level)
        self.factors.zero_()
        for part, of_part in means.items():
            for index, mean in enumerate(of_part):
                self.factors[part, index] = mean.factor(self.config.scale_maps, self.config.eps)
        codes = torch.cat(latents)
        self.bank.fill(codes)
        codes = self.bank.points[: int(self.bank.count)]
        distances = self.bank.distances(codes, self.config.neighbours, leave_out=True)
        self.latent_deviation.copy_(deviation(distances))
        maps = (self._map(self.pictures(batch["image"])) for batch in train())
        self.map_deviation.copy_(deviation(torch.cat([x.amax(dim=(1, 2)) for x in maps])))
