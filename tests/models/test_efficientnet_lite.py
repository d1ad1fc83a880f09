"""Every model with EfficientNet-Lite: other channels than a ResNet's, features of either sign."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from fastad import backbones, models
from fastad.inference import Artifact, Predictor, load, save
from fastad.models import RSTPMConfig
from fastad.models.rstpm.config import LAYERS
from fastad.models.rstpm.teachers import resolve_auto

LITE = "efficientnet_lite0"
SMALL = {
    "stpm": ("stpm", {"backbone": LITE, "layers": ("layer1", "layer3", "layer4")}),
    "rstpm": ("rstpm", {"teacher1": LITE, "teacher2": LITE, "bottleneck": "layer4"}),
    "rstpm learned": (
        "rstpm",
        {"teacher1": "efficientnet_lite1", "teacher2": "resnet18", "bottleneck": "learned"},
    ),
    "rstpm second": (
        "rstpm",
        {"teacher1": "resnet18", "teacher2": "efficientnet_lite2", "bottleneck": "layer4"},
    ),
    "gtrans": ("gtrans", {"backbone": LITE, "token_width": 8, "smoothing": 1.0}),
    "prn": ("prn", {"backbone": LITE, "bottleneck": "layer4"}),
    "prn learned": ("prn", {"backbone": LITE, "bottleneck": "learned"}),
    "utad": (
        "utad",
        {
            "backbone": LITE,
            "impression_width": 2,
            "latents": 4,
            "expert_width": 4,
            "discriminator_width": 4,
            "bank": 8,
        },
    ),
}


@pytest.fixture(scope="module", params=SMALL)
def model(request):
    name, options = SMALL[request.param]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return models.build(name, **options, **models.without_weights(name)).eval()


def images(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(1))


def test_a_step_of_every_stage_reaches_its_parameters(model):
    own = copy.deepcopy(model)
    mask = torch.zeros(2, 64, 64, dtype=torch.bool)
    mask[0, 8:24, 16:32] = True
    for stage in own.stages:
        own.enter_stage(stage)
        own.train()
        batch = {"image": images(2, 3, 64, 64), "mask": mask}
        for step in stage.steps:
            own.zero_grad()
            losses = own.step_loss(batch, step)
            assert all(loss.isfinite() for loss in losses.values())
            sum(losses.values()).backward()
            for group in own.step_parameter_groups(step):
                for parameter in group["params"]:
                    assert parameter.grad is not None
                    assert parameter.grad.isfinite().all()


@pytest.mark.parametrize("size", [(64, 64), (33, 47)])
def test_shapes(model, size):
    with torch.no_grad():
        prediction = model(images(2, 3, *size))
    assert prediction.anomaly_map.shape == (2, *size)
    assert prediction.anomaly_map.isfinite().all()


def test_what_serves_says_the_same_and_so_does_what_is_loaded(model, tmp_path):
    pictures = torch.randint(0, 256, (2, 3, 48, 64), dtype=torch.uint8)
    options = {"device": "cpu", "precision": "float32"}
    plain = Predictor(copy.deepcopy(model), (48, 64), **options, fused=False)
    expected = plain.predict(pictures)
    fused = Predictor(copy.deepcopy(model), (48, 64), **options).predict(pictures)
    # Distances of vectors that nearly agree lose digits in float32.
    close = {"rtol": 1e-3, "atol": 1e-4 * expected.anomaly_map.max()}
    np.testing.assert_allclose(fused.anomaly_map, expected.anomaly_map, **close)
    scores = np.array([0.1, 0.2, 0.3])
    artifact = Artifact(copy.deepcopy(model), (48, 64), scores, 0.5, 0.2, {}, 2 * scores, 0.4)
    save(tmp_path / "x.fastad", artifact)
    again = load(tmp_path / "x.fastad").predictor(**options).predict(pictures)
    assert np.array_equal(again.anomaly_map, fused.anomaly_map)


def test_the_decoder_reaches_values_below_zero():
    guides = {"resnet18": False, LITE: True}
    for teacher, signed in guides.items():
        options = {"teacher1": "resnet18", "teacher2": teacher, "bottleneck": "learned"}
        model = models.build("rstpm", **options, **models.without_weights("rstpm")).eval()
        with torch.no_grad():
            _, students = model.features(images(1, 3, 64, 64))
            teachers = model.teacher2(model.normalize(images(1, 3, 64, 64)))
        for feature, teacher_feature in zip(students[len(LAYERS) :], teachers, strict=True):
            assert (feature.min() < 0) == (teacher_feature.min() < 0) == signed


class Signed(nn.Module):
    signed = True

    def __init__(self):
        super().__init__()
        self.convolutions = nn.ModuleList(
            nn.Conv2d(3, c, 1, 2**s) for s, c in ((2, 4), (3, 5), (4, 6))
        )

    def forward(self, x):
        return [convolution(x) for convolution in self.convolutions]


def test_a_module_says_that_its_features_are_signed():
    options = {"teacher1": "resnet18", "bottleneck": "learned", "teacher_weights": None}
    model = models.build("rstpm", teacher2=Signed(), **options).eval()
    with torch.no_grad():
        _, students = model.features(images(1, 3, 64, 64))
    assert all(level.min() < 0 for level in students[len(LAYERS) :])


@pytest.mark.usefixtures("offline")
def test_auto_takes_the_published_bottleneck_where_the_file_is_whole(tmp_path, monkeypatch):
    layers = (*LAYERS, "layer4")
    state = backbones.build(LITE, layers).state_dict()
    torch.save(state, tmp_path / "efficientnet-lite0-57934424.pth")
    config = resolve_auto(RSTPMConfig(teacher1=LITE, teacher_weights=tmp_path))
    assert (config.bottleneck, config.teacher2) == ("layer4", LITE)
    built = models.build("prn", backbone=LITE, teacher_weights=tmp_path)
    assert built.config.bottleneck == "layer4"
    assert built.teacher_origins() == {"teacher": "efficientnet-lite0-57934424.pth"}


@pytest.mark.slow
@pytest.mark.parametrize("size", [(64, 48), (37, 51)])
def test_the_backbone_exports_for_any_batch(size):
    backbone = backbones.build(LITE, ("layer1", "layer4")).eval()
    dynamic = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(backbone, (images(2, 3, *size),), dynamic_shapes=dynamic)
    with torch.no_grad():
        for n in (1, 3):
            x = images(n, 3, *size)
            for found, expected in zip(program.module()(x), backbone(x), strict=True):
                torch.testing.assert_close(found, expected)
