"""``--set KEY=VALUE``."""

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from torch import nn

from fastad.commands.settings import parse_settings


@dataclass
class ModelOptions:
    backbone: str | nn.Module = "resnet18"
    layers: Sequence[str] = ("layer1",)
    weights: Sequence[float] | None = None
    student: nn.Module | None = None
    source: str | None = "auto"
    eps: float = 1e-12


@dataclass
class TrainingOptions:
    epochs: int = 1
    betas: tuple[float, float] = (0.9, 0.999)
    channels_last: bool = True


def parse(*settings):
    return parse_settings(settings, ModelOptions, TrainingOptions)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("backbone=resnet50", "resnet50"),
        ("layers=layer1,layer3", ("layer1", "layer3")),
        ("layers=layer2", ("layer2",)),
        ("weights=1, 0.5,2", (1.0, 0.5, 2.0)),
        ("weights=none", None),
        ("student=none", None),
        ("source=None", None),
        ("source=a=b.pth", "a=b.pth"),
        ("eps=1e-6", 1e-6),
    ],
)
def test_model_fields(setting, value):
    options, others = parse(setting)
    assert options == {setting.partition("=")[0]: value}
    assert others == {}


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("epochs=7", 7),
        (" betas = 0.5,0.9 ", (0.5, 0.9)),
        ("channels_last=no", False),
        ("channels_last=TRUE", True),
    ],
)
def test_training_fields(setting, value):
    others, options = parse(setting)
    assert options == {setting.partition("=")[0].strip(): value}
    assert others == {}


def test_the_last_of_two_counts_and_both_configs_are_reached():
    assert parse("epochs=1", "eps=1", "epochs=2") == ({"eps": 1.0}, {"epochs": 2})


@pytest.mark.parametrize(
    ("setting", "match"),
    [
        ("epochs", "--set takes KEY=VALUE; got 'epochs'"),
        ("=3", "--set takes KEY=VALUE"),
        (
            "epoch=3",
            r"unknown key 'epoch' \(did you mean epochs\?\); the model has: backbone, eps, .*; "
            "the training has: betas",
        ),
        ("epochs=many", "epochs takes an integer; got 'many'"),
        ("epochs=1.5", "epochs takes an integer"),
        ("eps=x", "eps takes a number; got 'x'"),
        ("channels_last=maybe", "channels_last takes true or false"),
        ("weights=1,x", "weights takes a number, several with commas or none; got '1,x'"),
        ("student=resnet18", "student takes none; got 'resnet18'"),
    ],
)
def test_errors(setting, match):
    with pytest.raises(ValueError, match=match):
        parse(setting)
