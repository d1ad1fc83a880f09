"""A model whose stage has two steps, small enough to be trained in milliseconds."""

from typing import ClassVar

import torch
from torch import nn
from toy import RandomToy

from fastad.models import Stage, Step

MAKER, JUDGE = Step("maker"), Step("judge", {"learning_rate": 0.05, "optimizer": "sgd"})


class TwoSteps(RandomToy):
    """The student learns to pass for the teacher with a judge, which learns to tell them apart."""

    name = "steps"
    stages: ClassVar = (Stage("both", steps=(MAKER, JUDGE)),)

    def __init__(self, scores=None):
        super().__init__(scores)
        self.judge = nn.Conv2d(4, 1, 1)
        self.calls = []  # the step, whose parameters take gradients, and whose have some

    def step_parameter_groups(self, step):
        module = self.student if step is MAKER else self.judge
        return [{"params": list(module.parameters())}]

    def step_loss(self, batch, step):
        parts = {"student": self.student, "judge": self.judge}
        taking = {n for n, part in parts.items() if all(p.requires_grad for p in part.parameters())}
        having = {
            n for n, part in parts.items() if any(p.grad is not None for p in part.parameters())
        }
        if torch.is_grad_enabled():  # no statistics of batch norm
            self.calls.append((step.name, taking, having))
        if step is MAKER:
            losses = super().loss(batch)
            images = self.normalize(batch["image"])
            [batch["made"]] = self.student(images)
            losses["passing"] = 0.1 * (self.judge(batch["made"]).float() - 1).square().mean()
            batch["made"] = batch["made"].detach()
            return losses
        [real] = self.teacher(self.normalize(batch["image"]))
        judged = self.judge(real).float() - 1, self.judge(batch["made"]).float()
        return {"judging": sum(x.square().mean() for x in judged) * torch.rand(())}

    def finish_stage(self, train):
        self.finished = [batch["image"] for batch in train()]
