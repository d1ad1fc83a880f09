"""What RSTPM may be built from, and what it says about the rest."""

import json

import pytest
import torch
from torch import nn

from fastad import backbones, models

SMALL = {
    "teacher_weights": None,
    "teacher2_weights": None,
    "teacher2": "resnet18",
    "bottleneck": "learned",
    "discriminator_width": 8,
}


class Pyramid(nn.Module):
    def __init__(self, *channels):
        super().__init__()
        inputs = (3, *channels)
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 3, 2, 1), nn.BatchNorm2d(b), nn.ReLU())
            for a, b in zip(inputs, channels, strict=False)
        )

    def forward(self, x):
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return tuple(features)


@pytest.mark.parametrize(
    ("channels", "bottleneck", "deepest"),
    [
        ((4, 6, 8), "learned", 512),
        ((4, 6, 8, 10), "layer4", 10),
        ((4, 6, 8), "auto", 512),
        ((4, 6, 8, 10), "auto", 10),
    ],
)
def test_any_modules_may_be_the_teachers(channels, bottleneck, deepest):
    first, second = Pyramid(*channels).train(), Pyramid(5, 7, 9)
    before = {k: v.clone() for k, v in first.state_dict().items()}
    model = models.build("rstpm", teacher1=first, teacher2=second, bottleneck=bottleneck)
    assert model.config.bottleneck == ("learned" if deepest == 512 else "layer4")
    assert model.teacher1.backbone is first
    assert model.teacher2.backbone is second
    assert all(torch.equal(v, before[k]) for k, v in first.state_dict().items())
    assert model.student1.training
    assert not torch.equal(model.student1.stages[0][0].weight, first.stages[0][0].weight)
    assert model.student2.levels[0].up.conv1.in_channels == deepest
    images = torch.rand(2, 3, 32, 40)
    losses = model.loss({"image": images})
    sum(losses.values()).backward()
    assert model.student1.stages[2][0].weight.grad.isfinite().all()
    model.eval()
    with torch.no_grad():
        distances = model.distances(images)
        assert [d.shape for d in distances] == 2 * [(2, 16, 20), (2, 8, 10), (2, 4, 5)]
        assert model(images).anomaly_map.shape == (2, 32, 40)
        # Levels of stride 2, a network of stride 4.
        assert model.discriminate(model.summed_maps(distances)).shape == (2, 8, 10)


def test_teachers_of_other_sizes_meet_at_the_first_ones():
    first = Pyramid(4, 6, 8)
    second = nn.Sequential(nn.AvgPool2d(2), Pyramid(5, 7, 9))
    model = models.build("rstpm", teacher1=first, teacher2=second, bottleneck="learned").eval()
    with torch.no_grad():
        summed = model.summed_maps(model.distances(torch.rand(1, 3, 32, 32)))
    assert [m.shape for m in summed] == [(1, 16, 16), (1, 8, 8), (1, 4, 4)]


def test_a_student_of_your_own():
    student = Pyramid(4, 6, 8)
    options = {"teacher2": Pyramid(5, 7, 9), "bottleneck": "learned", "student1": student}
    assert models.build("rstpm", teacher1=Pyramid(4, 6, 8), **options).student1 is student
    with pytest.raises(
        ValueError, match="student1 goes with a teacher1 that is a module, not 'auto'"
    ):
        models.build("rstpm", **options)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"teacher1": Pyramid(4, 6)}, "teacher1 must return 3 feature maps .*; Pyramid returned 2"),
        (
            {"teacher1": Pyramid(4, 6, 8), "bottleneck": "layer4"},
            "teacher1 must return 4 .* returned 3",
        ),
        ({"teacher2": Pyramid(4, 6, 8, 9)}, "teacher2 must return 3 .* returned 4"),
    ],
)
def test_another_number_of_feature_maps_is_named(options, match):
    with pytest.raises(ValueError, match=match):
        models.build("rstpm", **{**SMALL, **options})


@pytest.mark.parametrize(
    ("option", "value", "match"),
    [
        ("teacher1", None, "teacher1 must be a name or a module; got None"),
        ("teacher2", ["resnet18"], r"teacher2 must be a name or a module; got \['resnet18'\]"),
        ("teacher2", "resnet19", "teacher2: unknown backbone 'resnet19'; there are resnet18, "),
        ("bottleneck", "layer3", "must be 'auto' or 'layer4' or 'learned'; got 'layer3'"),
        ("aggregate", "mean", "aggregate must be 'product' or 'sum'; got 'mean'"),
        ("attention", 1, "attention must be True or False; got 1"),
        (
            "scale_maps",
            True,
            "scale_maps must be 'auto' or 'none' or 'level' or 'position'; got True",
        ),
        ("discriminator", None, "discriminator must be True or False; got None"),
        ("attention_reduction", 0, "attention_reduction must be an integer of at least 1; got 0"),
        (
            "discriminator_width",
            1.5,
            "discriminator_width must be an integer of at least 1; got 1.5",
        ),
        ("discriminator_width", True, "discriminator_width must be an integer"),
        (
            "decoder_blocks",
            (2, 2),
            r"decoder_blocks must be three integers of at least 2; got \(2, 2",
        ),
        ("decoder_blocks", (1, 2, 2), "decoder_blocks must be three integers of at least 2"),
        ("decoder_blocks", "222", "decoder_blocks must be three integers of at least 2; got '222'"),
        ("discriminator_stride", 3, "discriminator_stride must be 1, 2 or 4; got 3"),
        ("discriminator_stride", 2.0, "discriminator_stride must be 1, 2 or 4; got 2.0"),
        ("discriminator_stride", True, "discriminator_stride must be 1, 2 or 4; got True"),
        ("focal_gamma", -1, "focal_gamma must be a number of at least 0; got -1"),
        ("l1_weight", float("nan"), "l1_weight must be a number of at least 0; got nan"),
        ("smoothing", "4", "smoothing must be a number of at least 0; got '4'"),
        ("smoothing", 1000, "smoothing must be at most 100 pixels; got 1000"),
        ("pooling", 1.1, "pooling must be 'auto', 'maximum', a share from 0 to 1 or an area"),
        ("eps", 0, "eps must be a number above 0; got 0"),
    ],
)
def test_values_that_cannot_be_are_named(option, value, match):
    with pytest.raises(ValueError, match=match):
        models.build("rstpm", **{**SMALL, option: value})


def test_options_survive_json():
    config = models.RSTPMConfig(decoder_blocks=(3, 2, 2), smoothing=1.5)
    assert models.RSTPMConfig(**json.loads(json.dumps(vars(config)))) == config


@pytest.fixture
def folder(tmp_path, monkeypatch, offline):
    """FASTAD_WEIGHTS with weights that end at layer3; no other source."""
    monkeypatch.setenv("FASTAD_WEIGHTS", str(tmp_path))
    for name in ("resnet18", "resnet50_caffe"):
        torch.save(backbones.build(name).state_dict(), tmp_path / f"{name}.pth")
    return tmp_path


def test_weights_that_end_at_layer3_are_told_the_cure(folder):
    match = r"resnet18\.pth: missing key 'layer4.*needed by resnet18.*--set bottleneck=learned$"
    with pytest.raises(ValueError, match=match) as caught:
        models.build("rstpm", teacher2="resnet50_caffe", bottleneck="layer4")
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, backbones.IncompleteWeightsError)
    model = models.build("rstpm", teacher2="resnet50_caffe", bottleneck="learned")
    stored = torch.load(folder / "resnet50_caffe.pth")
    assert torch.equal(model.teacher2.backbone.conv1.weight, stored["conv1.weight"])


def test_a_missing_teacher2_is_told_the_cure(folder):
    match = r"teacher2: no .* for resnet50: .*teacher2_weights.*--set teacher2=resnet50_caffe$"
    with pytest.raises(backbones.WeightsNotFoundError, match=match) as caught:
        models.build("rstpm", teacher2="resnet50", bottleneck="learned")
    assert "\n" not in str(caught.value)


def test_a_missing_teacher1_is_told_as_ever(folder):
    with pytest.raises(backbones.WeightsNotFoundError, match=r"weights for resnet34") as caught:
        models.build("rstpm", teacher1="resnet34", bottleneck="learned")
    assert "teacher2" not in str(caught.value)


def test_dropout_of_the_bottleneck_is_of_training_alone():
    torch.manual_seed(0)
    model = models.build("rstpm", **SMALL, bottleneck_dropout=0.5)
    model.enter_stage(model.stages[0])
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        seen = []
        model.student2.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
        model.train()
        model.features(images)
        model.eval()
        model.features(images)
        model.enter_stage(model.stages[1])  # Student2 rests, as in a prediction
        model.train()
        model.features(images)
    dropped = [(x == 0).double().mean().item() for x in seen]
    assert dropped[0] > dropped[1] + 0.1
    assert torch.equal(seen[1], seen[2])
    with pytest.raises(ValueError, match=r"bottleneck_dropout must be in \[0, 1\)"):
        models.build("rstpm", **SMALL, bottleneck_dropout=1.0)
