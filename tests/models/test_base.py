"""What all models share: normalisation, checks, frozen teachers, the state that is trained."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from fastad.models import AnomalyModel, FrozenTeacher, Prediction


@dataclass
class Options:
    pass


class Toy(AnomalyModel):
    name = "toy"
    Config = Options

    def __init__(self):
        super().__init__(Options())
        self.teacher = FrozenTeacher(Pyramid())
        self.student = Pyramid()

    def forward(self, images):
        return Prediction(images.amax((1, 2, 3)), images[:, 0])


class Pyramid(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, images):
        return [self.norm(self.conv(images))]


def test_normalisation_is_imagenets():
    images = torch.rand(2, 3, 5, 7)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    expected = (images.permute(0, 2, 3, 1) - mean) / std
    torch.testing.assert_close(Toy().normalize(images), expected.permute(0, 3, 1, 2))


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 1, 8, 8), (2, 8, 8, 3)])
def test_other_shapes_are_named(shape):
    with pytest.raises(
        ValueError, match=rf"\(N, 3, H, W\); got shape \({', '.join(map(str, shape))}"
    ):
        Toy().normalize(torch.rand(shape))


def test_integers_are_refused_with_the_cure():
    with pytest.raises(TypeError, match=r"torch\.uint8 of shape \(1, 3, 8, 8\) \(divide"):
        Toy().normalize(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))


def test_a_teacher_stays_as_it_is():
    model = Toy()
    before = {k: v.clone() for k, v in model.teacher.state_dict().items()}
    model.train()
    assert model.student.norm.training
    assert not any(m.training for m in model.teacher.modules())
    assert not any(p.requires_grad for p in model.teacher.parameters())
    images = torch.rand(2, 3, 4, 4, requires_grad=True)
    [feature] = model.teacher(images)
    assert not feature.requires_grad
    for key, value in model.teacher.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_the_trained_state_is_all_but_the_teacher():
    model = Toy()
    trained = model.trained_state()
    assert set(model.state_dict()) - set(trained) == {
        f"teacher.backbone.{k}" for k in Pyramid().state_dict()
    }
    assert "student.norm.running_mean" in trained
    parameters = list(model.student_parameters())
    assert {id(p) for p in parameters} == {id(p) for p in model.student.parameters()}
    [group] = model.parameter_groups()
    assert len(group["params"]) == len(parameters) == 4


def test_the_validation_score_is_the_mean_of_the_map():
    images = torch.rand(3, 3, 4, 5)
    torch.testing.assert_close(Toy().validation_score({"image": images}), images[:, 0].mean((1, 2)))
