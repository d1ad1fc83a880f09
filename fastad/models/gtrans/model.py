"""GTrans: a student that a transformer guides by the teacher's tokens.

Yan et al., "Multiresolution feature guidance based transformer for anomaly detection", Applied
Intelligence 2024, arXiv 2305.14880. A frozen network (the authors' "anomaly guided network") and a
student of its kind give three levels of features each. Both are summed up as a few tokens a level;
a transformer brings the student's tokens and the teacher's together, and every position of the
student's feature maps takes from the result what it asks for. The guided maps learn the teacher's.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from fastad import backbones, ops
from fastad.models.base import Stage
from fastad.models.gtrans.config import LAYERS, GTransConfig
from fastad.models.gtrans.tokens import Projector, TokenBlock, Tokenizer, channel_cosines
from fastad.models.map_model import Evidence, MapModel
from fastad.models.roi import RegionOfInterest, distillation_loss, mean_inside
from fastad.models.teachers import settled_backbone

PUBLISHED = ("resnet34", "resnet18")  # the paper's, and the next one to it
ROUNDS = 2  # encoder and decoder are applied twice, with the same weights


class GTrans(MapModel):
    """A frozen teacher, a student, and a transformer between their tokens.

    The training defaults are the authors': Adam with learning rate 0.001, which falls to 0.9 of
    that, betas 0.9 and 0.99, weight decay 1e-4, batches of 32, 100 epochs. They crop images of
    256x256 to 224x224, which is not done here.
    """

    name = "gtrans"
    pair = ("teacher", "student")
    stages = (Stage(is_static=True, judged_by_defects=True),)
    Config = GTransConfig
    training_defaults: ClassVar[dict[str, Any]] = {
        "epochs": 100,
        "min_steps": 400,
        "batch_size": 32,
        "min_batches": 4,
        "optimizer": "adam",
        "learning_rate": 1e-3,
        "schedule": "exponential",
        "betas": (0.9, 0.99),
        "weight_decay": 1e-4,
    }

    def __init__(self, config: GTransConfig):
        config = settled_backbone(self.name, config, LAYERS, PUBLISHED)
        super().__init__(config)
        self.teacher, self.student = self.build_pair(LAYERS)
        channels = [shape[0] for shape in self.teacher.shapes()]
        if len(channels) != len(LAYERS):
            raise ValueError(
                f"backbone must return three feature maps; it returned {len(channels)}"
            )
        tokens, width = config.tokens, config.token_width
        self._add_maps(len(LAYERS), channels)
        self.tokenizers = nn.ModuleList(Tokenizer(c, tokens, width) for c in channels)
        self.encoder, self.decoder = (TokenBlock(len(LAYERS) * tokens, width) for _ in range(2))
        self.projectors = nn.ModuleList(Projector(c, width) for c in channels)

    def features(
        self, images: Tensor, teacher: list[Tensor] | None = None
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Images (N, 3, H, W) in [0, 1] -> (N, C_l, H_l, W_l) of teacher and guided student.

        ``teacher``: its features where they are known already.
        """
        images = self.normalize(images)
        if teacher is None:
            teacher, student = self.extract_pair(images)
        else:
            student = backbones.extract(self.student, images)
        encoded = self._tokens(student)
        for _ in range(ROUNDS):
            encoded = self.encoder(encoded, encoded)
        decoded = self._tokens(teacher)
        for _ in range(ROUNDS):
            decoded = self.decoder(decoded, encoded)
        levels = zip(self.projectors, student, decoded.split(self.config.tokens, 1), strict=True)
        return teacher, [projector(level, tokens) for projector, level, tokens in levels]

    def _tokens(self, levels: Sequence[Tensor]) -> Tensor:
        found = [tokenizer(x) for tokenizer, x in zip(self.tokenizers, levels, strict=True)]
        return torch.cat(found, dim=1)

    def teacher_features(self, images: Tensor) -> dict[str, list[Tensor]]:
        """``{"teacher": list of (N, C_l, H_l, W_l)}`` for images (N, 3, H, W) in [0, 1]."""
        return {"teacher": self.teacher(self.normalize(images))}

    def level_maps(self, batch: Mapping[str, Any]) -> list[Tensor]:
        """The distances of the levels (N, H_l, W_l), each times the index of its image.

        See `guidance_index`. The authors' code takes the index of the whole batch, by which an
        image's score depends on its neighbours.
        """
        return self._compared(*self.features(batch["image"], batch.get("teacher")))

    def _compared(self, teacher: list[Tensor], student: list[Tensor]) -> list[Tensor]:
        maps = ops.distances(teacher, student, eps=self.config.eps)
        guided = [
            level * guidance_index(t, s, level, self.config.eps, self.roi)[:, None, None]
            for level, t, s in zip(maps, teacher, student, strict=True)
        ]
        return [*guided, *self.subspace_maps(teacher)]

    def evidence(self, batch: Mapping[str, Any]) -> Evidence:
        """The distance maps of the levels, and those from the memory."""
        teacher, student = self.features(batch["image"], batch.get("teacher"))
        return self.evidence_of(self._compared(teacher, student), teacher)

    def falls_with_roi(self) -> bool:
        """Never: the indices are other ones then."""
        return False

    def join(
        self, maps: Sequence[Tensor], factors: Sequence[Tensor], size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Scaled distance maps -> anomaly map (N, *size), and its maxima (N,).

        The product of the levels, the third level twice as in the authors' code. Constant factors,
        which change no order, are left out.
        """
        weights = [1.0, 1.0, 2.0] + [1.0] * len(factors)
        return ops.aggregate_maps(
            [*maps, *factors],
            size,
            weights=weights,
            smoothing=self.config.smoothing,
            return_maximum=True,
        )

    def validation_score(self, batch: Mapping[str, Any]) -> Tensor:
        """The loss of each image, as the authors choose the epoch: (N,)."""
        teacher, student = self.features(batch["image"], batch.get("teacher"))
        maps = ops.distances(teacher, student, eps=self.config.eps)
        return torch.stack([mean_inside(level, self.roi) for level in maps]).mean(dim=0)

    def loss(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Half the squared distances of normalised features, mean over positions and levels."""
        teacher, student = self.features(batch["image"], batch.get("teacher"))
        weights = [1 / len(teacher)] * len(teacher)
        distance = distillation_loss(
            teacher, student, self.roi, level_weights=weights, eps=self.config.eps
        )
        return {"distillation": distance}


def guidance_index(
    teacher: Tensor,
    student: Tensor,
    distances: Tensor,
    eps: float,
    roi: RegionOfInterest | None = None,
) -> Tensor:
    """How far a level of each image is off, in distance and in direction: (N,).

    2 a b / (a + b) with a, 100 times the mean squared difference of the normalised features, and
    b, 10 times the channels' mean of 1 - cos of their two maps. ``teacher`` and ``student`` are
    (N, C_l, H_l, W_l), ``distances`` (N, H_l, W_l) those of `fastad.ops.distances`. With a region
    of interest places count in means and cosines as it weighs them.

    a takes no pass over the features. b does: a cosine of two maps sums over the places for each
    channel, and no distance of `fastad.ops`, whose sums run over the channels, holds that.
    """
    wide = distances.dtype
    normalized = [functional.normalize(x.to(wide), dim=1, eps=eps) for x in (teacher, student)]
    if roi is not None:
        weights = roi.weights((distances.shape[-2], distances.shape[-1])).to(wide)
        normalized = [x * weights.sqrt() for x in normalized]
    a = 100 * 2 * mean_inside(distances, roi) / teacher.shape[1]
    b = 10 * (1 - channel_cosines(*normalized)).mean(dim=1)
    return 2 * a * b / (a + b).clamp_min(torch.finfo(wide).tiny)
