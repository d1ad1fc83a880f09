"""PRN: residuals to prototypes of normal features, and a network that segments by them.

Zhang et al., "Prototypical Residual Networks for Anomaly Detection and Localization", CVPR 2023,
arXiv 2212.02031. Whole feature maps of normal images are clustered into prototypes; what a new
image's features differ by from the nearest one goes, with the features, through a network that
learns on images with synthesised defects, and on a few real ones where there are any.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from fastad import backbones
from fastad.models.base import AnomalyModel, Batches, FrozenTeacher, Prediction, Stage
from fastad.models.bottleneck import bottleneck_stage
from fastad.models.maps import mean_of_highest
from fastad.models.prn.config import LAYERS, PRNConfig
from fastad.models.prn.network import Decoder, Fusion, PatchAttention, resized
from fastad.models.prn.prototypes import Prototypes
from fastad.models.roi import mean_inside
from fastad.models.teachers import settled_backbone

DEEPEST = 512  # channels of a learned bottleneck


class PRN(AnomalyModel):
    """Frozen features, their residuals to prototypes, and a segmenting network.

    Trained on normal images with synthesised defects, half of which stay clean; with ``defects``
    in the training's options half of the others get real ones, whole or cut out and pasted (the
    paper's mixture, 2 : 1 : 1). The defects are drawn on the product where it stands out from its
    background, and half of the synthesised ones are made of the image's own patches.

    The map is the probability of a defect. The authors' training (Adam with learning rate 1e-4 and
    weight decay 1e-2, batches of 48, 700 epochs, by the public code of others) takes days on a CPU;
    the defaults see fewer images at a larger rate that falls to zero: minutes.

    Attributes:
        teacher: frozen.
        prototypes: of the training images' features; see `fastad.models.prn.prototypes.Prototypes`.
    """

    name = "prn"
    Config = PRNConfig
    training_defaults: ClassVar[dict[str, Any]] = {
        "epochs": 3,
        "batch_size": 8,
        "min_batches": 4,
        "optimizer": "adamw",
        "learning_rate": 5e-4,
        "schedule": "cosine",
        "weight_decay": 1e-2,
        "pseudo_anomalies": 4000,
        "own_patches": 0.5,
        "on_foreground": True,
    }
    stages: ClassVar[tuple[Stage, ...]] = (
        Stage(pseudo_anomalies=True, reads_images=False, is_static=True),
    )

    def __init__(self, config: PRNConfig):
        config = _settled(settled_backbone(self.name, config, LAYERS))
        super().__init__(config)
        learned = config.bottleneck == "learned"
        if isinstance(config.backbone, nn.Module):
            self.teacher = FrozenTeacher(config.backbone)
        else:
            layers = LAYERS if learned else (*LAYERS, "layer4")
            self.teacher = FrozenTeacher(self.build_backbone(layers))
        channels = [shape[0] for shape in self.teacher.shapes()]
        if len(channels) != len(LAYERS) + (not learned):
            raise ValueError(
                "backbone must return three feature maps, and a fourth where bottleneck is "
                f"'layer4'; it returned {len(channels)}"
            )
        self.bottleneck = bottleneck_stage(channels[-1], DEEPEST) if learned else nn.Identity()
        deepest = DEEPEST if learned else channels[-1]
        widths = channels[: len(LAYERS)]
        both = [2 * width for width in widths]
        self.prototypes = Prototypes(widths, config.residuals == "scaled")
        # Features and residuals have scales of their own.
        self.norms = nn.ModuleList(
            nn.ModuleList(nn.BatchNorm2d(width) for width in widths) for _ in range(2)
        )
        self.fusions = nn.ModuleList(Fusion(widths) for _ in range(2))
        self.attention = nn.ModuleList(PatchAttention(width) for width in both)
        self.fusion = Fusion(both)
        self.decoder = Decoder(deepest, both, widths)

    def set_roi(self, mask: Tensor | None) -> None:
        """As of every model; the prototypes, where there are any, lose what lies outside."""
        super().set_roi(mask)
        if self.roi is not None:
            self.prototypes.narrow(self.roi)

    def forward(self, images: Tensor) -> Prediction:
        """Images (N, 3, H, W) in [0, 1] -> score (N,) and anomaly map (N, H, W) in [0, 1]."""
        logits = self.segment(self.teacher(self.normalize(images)))
        return self.judge(logits, (images.shape[-2], images.shape[-1]))

    def segment(self, levels: list[Tensor]) -> Tensor:
        """Frozen levels (N, C_l, H_l, W_l) -> a logit a position of the first: (N, H_1, W_1)."""
        if not torch.is_autocast_enabled(levels[0].device.type):
            levels = [level.to(self.mean.dtype) for level in levels]  # may be kept ones
        features = levels[: len(LAYERS)]
        kinds = (features, self.prototypes(features, self.roi))
        norms = cast(Iterable[nn.ModuleList], self.norms)
        fused = [
            fusion([norm(level) for norm, level in zip(own, kind, strict=True)])
            for fusion, own, kind in zip(self.fusions, norms, kinds, strict=True)
        ]
        pairs = [torch.cat(pair, dim=1) for pair in zip(*fused, strict=True)]
        pairs = [attend(pair) for attend, pair in zip(self.attention, pairs, strict=True)]
        return self.decoder(self.bottleneck(levels[-1]), self.fusion(pairs))

    def judge(self, logits: Tensor, size: tuple[int, int]) -> Prediction:
        """Logits (N, h, w) -> score (N,) and anomaly map (N, *size)."""
        anomaly_map = self._probabilities(logits, size)
        if self.roi is not None:
            anomaly_map = self.roi.keep(anomaly_map)
        if self.config.pooling == 0:
            return Prediction(anomaly_map.flatten(1).amax(dim=1), anomaly_map)
        score = mean_of_highest(anomaly_map, self.config.pooling, self.roi)
        return Prediction(score, anomaly_map)

    def _probabilities(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        # Half precision under autocast is too coarse for probabilities.
        return resized(logits[:, None].to(self.mean.dtype), size)[:, 0].sigmoid()

    def teacher_features(self, images: Tensor) -> dict[str, list[Tensor]]:
        """``{"teacher": list of (N, C_l, H_l, W_l)}`` for images (N, 3, H, W) in [0, 1]."""
        return {"teacher": self.teacher(self.normalize(images))}

    def prepare_stage(self, train: Batches, unseen: Batches) -> None:
        """Cluster the training images' features into prototypes."""
        share, most = self.config.prototypes, self.config.max_prototypes
        self.prototypes.fit(train, "teacher", share, most, roi=self.roi)

    def loss(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Smooth L1 between map and mask, and the weighted focal loss, means over the pixels."""
        smooth, focal = self._errors(batch)
        return {"smooth_l1": smooth.mean(), "focal": focal.mean()}

    def validation_score(self, batch: Mapping[str, Any]) -> Tensor:
        """The loss of each image: (N,)."""
        smooth, focal = self._errors(batch)
        return smooth + focal

    def _errors(self, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """Smooth L1 and weighted focal loss of each image: (N,), (N,)."""
        levels = batch.get("teacher")
        if levels is None:
            levels = self.teacher(self.normalize(batch["image"]))
        mask, config = batch["mask"], self.config
        found = self._probabilities(self.segment(levels), tuple(mask.shape[-2:]))
        smooth = functional.smooth_l1_loss(found, mask.to(found.dtype), reduction="none")
        # Off the ends, where the logarithm or the gradient of the power is infinite.
        right = torch.where(mask > 0, found, 1 - found).clamp(1e-6, 1 - 1e-6)
        factor = config.focal_weight * config.focal_alpha
        focal = factor * (1 - right) ** config.focal_gamma * -right.log()
        return mean_inside(smooth, self.roi), mean_inside(focal, self.roi)


def _settled(config: PRNConfig) -> PRNConfig:
    """The config with what ``bottleneck`` "auto" comes to."""
    if config.bottleneck != "auto":
        return config
    if isinstance(config.backbone, nn.Module):
        has = len(FrozenTeacher(config.backbone).shapes()) > len(LAYERS)
    else:
        with_last = (*LAYERS, "layer4")
        has = backbones.can_be_had(config.backbone, with_last, config.teacher_weights)
    return dataclasses.replace(config, bottleneck="layer4" if has else "learned")
