"""A model small enough to be trained in milliseconds."""

from dataclasses import dataclass

import torch
from torch import nn

from fastad.models import AnomalyModel, FrozenTeacher, Prediction
from fastad.training import TrainingConfig


@dataclass
class Options:
    pass


class Toy(AnomalyModel):
    """A student pixel map that learns a teacher's; ``scores`` dictates the validation scores."""

    name = "toy"
    Config = Options

    def __init__(self, scores=None):
        super().__init__(Options())
        torch.manual_seed(0)
        self.teacher = FrozenTeacher(Features())
        self.student = Features()
        self.scores = scores
        self.snapshots = []  # the student's weight at each validation
        self.modes = set()
        self.dtypes = set()
        self.seen = []

    def loss(self, batch):
        self.modes.add((self.training, self.student.norm.training, self.teacher.backbone.training))
        images = self.normalize(batch["image"])
        if torch.is_grad_enabled():  # a step, no statistics of batch norm
            self.seen.append(len(images))
        [teacher], [student] = self.teacher(images), self.student(images)
        self.dtypes.add(student.dtype)
        difference = (teacher - student).float()
        return {"squared": difference.square().mean(), "absolute": 0.1 * difference.abs().mean()}

    def forward(self, images):
        images = self.normalize(images)
        [teacher], [student] = self.teacher(images), self.student(images)
        anomaly_map = (teacher - student).float().square().mean(1)
        return Prediction(anomaly_map.amax((1, 2)), anomaly_map)

    def validation_score(self, batch):
        assert not self.training
        assert torch.is_inference_mode_enabled()
        images = batch["image"]
        if self.scores is None:
            return super().validation_score(batch)
        self.snapshots.append({k: v.clone() for k, v in self.student.state_dict().items()})
        return torch.full((len(images),), self.scores[len(self.snapshots) - 1])


class Features(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, images):
        return [self.norm(self.conv(images))]


class RandomToy(Toy):
    """A toy that draws at random in every step."""

    def loss(self, batch):
        return super().loss({"image": nn.functional.dropout(batch["image"], 0.1)})


def options(**changes):
    defaults = {"epochs": 4, "batch_size": 3, "learning_rate": 0.01, "device": "cpu"}
    return TrainingConfig(**{**defaults, "precision": "float32", **changes})
