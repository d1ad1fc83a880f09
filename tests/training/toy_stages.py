"""A model of two stages, small enough to be trained in milliseconds."""

from typing import ClassVar

import torch
from torch import nn
from toy import RandomToy, options

from fastad.models import Prediction, Stage


class TwoStages(RandomToy):
    """Students first, then a head that finds defects on the students' map.

    ``head_scores`` dictates the validation scores of the second stage.
    """

    name = "two"
    training_defaults: ClassVar = {"epochs": 4}
    stages: ClassVar = (
        Stage("students"),
        Stage(
            "head",
            {"epochs": 2, "learning_rate": 0.1, "batch_size": 16},
            pseudo_anomalies=True,
            unseen=True,
            reads_images=False,
        ),
    )

    def __init__(self, scores=None, head_scores=None):
        super().__init__(scores)
        self.head = nn.Conv2d(1, 1, 3, padding=1)
        self.register_buffer("scale", torch.zeros(()))
        self.register_buffer("prepared", torch.zeros((), dtype=torch.int64))
        self.head_scores = head_scores
        self.entered = []
        self.prepared_with = None
        self.batches = []  # of the second stage: which entries they had
        self.mapped = 0  # images whose maps were computed
        self.heads = []  # the head's weight at each validation

    def enter_stage(self, stage):
        super().enter_stage(stage)
        self.entered.append(stage and stage.name)
        second = stage is self.stages[1]
        self.student.requires_grad_(not second)
        self.head.requires_grad_(second)

    def train(self, mode=True):
        super().train(mode)
        if self.stage is self.stages[1]:
            self.student.eval()
        return self

    def prepare_stage(self, train, unseen):
        assert not self.training
        assert not torch.is_grad_enabled()
        if self.stage is self.stages[1]:
            self.prepared_with = [
                torch.cat([batch["image"] for batch in batches()]) for batches in (train, unseen)
            ]
            self.scale.fill_(1 / self._map(self.prepared_with[1]).mean())
            self.prepared += 1

    def _map(self, images):
        self.mapped += len(images)
        images = self.normalize(images)
        [teacher], [student] = self.teacher(images), self.student(images)
        return (teacher - student).float().square().mean(1, keepdim=True)

    def teacher_features(self, images):
        return {} if self.stage is self.stages[0] else {"maps": [self._map(images)]}

    def _logits(self, maps):
        return self.head(maps * self.scale)[:, 0]

    def loss(self, batch):
        if self.stage is self.stages[0]:
            return super().loss(batch)
        self.modes.add((self.head.training, self.student.norm.training))
        self.batches.append(tuple(sorted(batch)))
        maps = nn.functional.dropout(batch["maps"][0], 0.1)
        entropy = nn.functional.binary_cross_entropy_with_logits
        return {"entropy": entropy(self._logits(maps), batch["mask"].float())}

    def validation_score(self, batch):
        if self.stage is self.stages[0]:
            if self.scores is None:
                return super().validation_score(batch)
            state = {k: v.clone() for k, v in self.student.state_dict().items()}
            if not self.snapshots or not torch.equal(
                self.snapshots[-1]["conv.weight"], state["conv.weight"]
            ):  # the first batch of this epoch
                self.snapshots.append(state)
            return torch.full((len(batch["image"]),), self.scores[len(self.snapshots) - 1])
        if self.head_scores is None:
            wrong = (self._logits(batch["maps"][0]) > 0) != batch["mask"]
            return wrong.flatten(1).float().mean(1)
        if not self.heads or not torch.equal(self.heads[-1], self.head.weight):
            self.heads.append(self.head.weight.detach().clone())
        return torch.full((len(batch["mask"]),), self.head_scores[len(self.heads) - 1])

    def forward(self, images):
        maps = self._map(images)
        anomaly_map = maps[:, 0] * self._logits(maps).sigmoid() if self.prepared else maps[:, 0]
        return Prediction(anomaly_map.amax((1, 2)), anomaly_map)


def two_options(**changes):
    """Few images, read in the training's own process."""
    return options(**{"pseudo_anomalies": 32, "workers": 0, **changes})
