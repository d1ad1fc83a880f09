"""GTrans' own: its score, what its parts share, which network it takes."""

import logging
import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from fastad import backbones, models
from fastad.backbones import WeightsNotFoundError, embedded
from fastad.models.gtrans.model import guidance_index


def small(**options):
    torch.manual_seed(0)
    options = {"backbone": "resnet18", "token_width": 16} | options
    return models.build("gtrans", teacher_weights=None, **options).eval()


def images(n=2, height=64, width=48):
    return torch.rand(n, 3, height, width, dtype=torch.float64)


def test_index_of_each_image_by_hand():
    teacher, student = (torch.rand(3, 5, 4, 6, dtype=torch.float64) for _ in range(2))
    t, s = teacher / teacher.norm(dim=1, keepdim=True), student / student.norm(dim=1, keepdim=True)
    distances = (t - s).square().sum(dim=1) / 2
    found = guidance_index(teacher, student, distances, 1e-12)
    for n in range(3):
        a = 100 * functional.mse_loss(t[n], s[n])
        cosines = [
            functional.cosine_similarity(t[n, c].flatten(), s[n, c].flatten(), dim=0)
            for c in range(5)
        ]
        b = 10 * (1 - torch.stack(cosines)).mean()
        torch.testing.assert_close(found[n], 2 * a * b / (a + b))
    assert (guidance_index(teacher, teacher, torch.zeros(3, 4, 6), 1e-12) == 0).all()


def test_map_by_the_published_formula():
    model, x = small(smoothing=0.0).double(), images()
    found = model(x)
    teacher, student = model.features(x)
    levels = []
    for t, s in zip(teacher, student, strict=True):
        t, s = functional.normalize(t), functional.normalize(s)
        distances = (t - s).square().sum(dim=1) / 2
        index = guidance_index(t, s, distances, 1e-12)
        level = (index[:, None, None] * distances)[:, None]
        levels.append(functional.interpolate(level, x.shape[2:], mode="bilinear")[:, 0])
    first, second, third = levels
    expected = (first * third) * (second * third)
    torch.testing.assert_close(found.anomaly_map, expected)
    torch.testing.assert_close(found.score, expected.amax((1, 2)))


def test_smoothing_comes_before_the_maximum():
    x = images()
    rough, smooth = (small(smoothing=sigma).double()(x) for sigma in (0.0, 4.0))
    assert (smooth.score < rough.score).all()
    assert torch.equal(smooth.score, smooth.anomaly_map.amax((1, 2)))


def test_an_image_s_score_does_not_depend_on_its_neighbours():
    model, x = small().double(), images(3)
    x[1] = 0  # another kind of image, whose index differs
    alone = torch.cat([model(x[i : i + 1]).score for i in range(3)])
    torch.testing.assert_close(model(x).score, alone, rtol=1e-9, atol=0)


def test_guidance_reaches_the_student_s_maps():
    model, x = small().double(), images()
    teacher, student = model.features(x)
    other = [level.flip(0) for level in teacher]
    _, changed = model.features(x, other)
    assert all(not torch.allclose(a, b) for a, b in zip(student, changed, strict=True))
    plain = backbones.extract(model.student, model.normalize(x))
    assert [level.shape for level in student] == [level.shape for level in plain]


def test_encoder_and_decoder_are_applied_twice():
    model, x = small().double(), images()
    normalized = model.normalize(x)
    levels, taught = model.student(normalized), model.teacher(normalized)

    def tokens(maps):
        return torch.cat([f(m) for f, m in zip(model.tokenizers, maps, strict=True)], dim=1)

    own = tokens(levels)
    memory = model.encoder(own, own)
    memory = model.encoder(memory, memory)
    decoded = model.decoder(model.decoder(tokens(taught), memory), memory)
    _, guided = model.features(x)
    for i, (level, found) in enumerate(zip(levels, guided, strict=True)):
        expected = model.projectors[i](level, decoded[:, 8 * i : 8 * i + 8])
        torch.testing.assert_close(found, expected)


def test_loss_is_the_mean_of_the_levels_and_of_the_validation_scores():
    model, x = small().double(), images()
    teacher, student = model.features(x)
    levels = [
        (functional.normalize(t) - functional.normalize(s)).square().sum(dim=1).mean() / 2
        for t, s in zip(teacher, student, strict=True)
    ]
    expected = sum(levels) / 3
    torch.testing.assert_close(model.loss({"image": x})["distillation"], expected)
    torch.testing.assert_close(model.validation_score({"image": x}).mean(), expected)


def test_rounds_share_their_weights():
    model = small()
    width, tokens = 16, 24
    block = 5 * width * width + 2 * tokens * width
    levels = sum(8 * c + width * c + c * c + 2 * width * c for c in (64, 128, 256))
    own = sum(
        p.numel()
        for name, p in model.named_parameters()
        if not name.startswith(("teacher.", "student."))
    )
    assert own == 2 * block + levels


def test_auto_takes_the_network_that_there_are_weights_for(offline, caplog):
    with caplog.at_level(logging.WARNING, "fastad"):
        model = models.build("gtrans")
    assert (model.config.backbone, model.config.teacher_weights) == ("resnet18", "embedded")
    assert "gtrans takes backbone=resnet18: there are no weights for backbone=resnet34" in (
        caplog.text
    )
    with pytest.raises(WeightsNotFoundError, match="resnet34"):
        models.build("gtrans", backbone="resnet34")
    assert models.build("gtrans", teacher_weights=None).config.backbone == "resnet34"


def test_auto_takes_the_network_of_a_file(tmp_path):
    model = models.build("gtrans", teacher_weights=str(embedded.PATH))
    assert model.config.backbone == "resnet18"
    (tmp_path / "other.pth").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"other\.pth"):
        models.build("gtrans", teacher_weights=str(tmp_path / "other.pth"))


class Levels(nn.Module):
    """Three levels, or another number."""

    def __init__(self, count=3):
        super().__init__()
        self.stages = nn.ModuleList(
            nn.Conv2d(3 if i == 0 else 4 + i - 1, 4 + i, 3, stride=2, padding=1)
            for i in range(count)
        )

    def forward(self, x):
        found = []
        for stage in self.stages:
            x = stage(x).relu()
            found.append(x)
        return found


def test_a_network_of_one_s_own():
    model = models.build("gtrans", backbone=Levels(), token_width=8).eval()
    with torch.no_grad():
        assert model(torch.rand(2, 3, 40, 32)).anomaly_map.shape == (2, 40, 32)
    with pytest.raises(ValueError, match="backbone must return three feature maps; it returned 2"):
        models.build("gtrans", backbone=Levels(2))
    student = Levels()
    assert models.build("gtrans", backbone=Levels(), student=student).student is student


@pytest.mark.parametrize("backbone", ["resnet34", "resnet50_caffe", "wide_resnet50_2"])
def test_every_named_backbone_learns(backbone):
    model = small(backbone=backbone).train()
    batch = images(2, 32, 64).float()
    model.loss({"image": batch})["distillation"].backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
    with torch.no_grad():
        assert model.eval()(batch).anomaly_map.shape == (2, 32, 64)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backbone": "vgg"}, "unknown backbone 'vgg'"),
        ({"tokens": 0}, "tokens must be an integer of at least 1; got 0"),
        ({"token_width": True}, "token_width must be an integer of at least 1; got True"),
        ({"smoothing": -1}, "smoothing must be a number from 0 to 100 pixels; got -1"),
        ({"smoothing": math.nan}, "smoothing must be a number from 0 to 100 pixels; got nan"),
        ({"eps": 0}, "eps must be a number above 0; got 0"),
        ({"student": nn.Identity()}, "student goes with a backbone that is a module, not 'auto'"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        models.build("gtrans", **options)
