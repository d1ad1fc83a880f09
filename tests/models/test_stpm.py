"""STPM against its definition, and how it is built."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fastad import backbones, models
from fastad.ops import reference
from fastad.training import TrainingConfig


@pytest.fixture
def model():
    torch.manual_seed(0)
    return models.build("stpm", teacher_weights=None).eval()


def plain_features(network, images):
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    return network((images - mean) / std)


def test_the_map_is_the_product_at_the_size_of_the_input(model):
    images = torch.rand(2, 3, 64, 48)
    with torch.no_grad():
        prediction = model(images)
        teacher = plain_features(model.teacher.backbone, images)
        student = plain_features(model.student, images)
    expected = torch.ones(2, 64, 48)
    for t, s in zip(teacher, student, strict=True):
        distance = 1 - F.cosine_similarity(t.double(), s.double(), dim=1)
        up = F.interpolate(distance[:, None], (64, 48), mode="bilinear", align_corners=False)
        expected = expected * up[:, 0]
    assert isinstance(prediction, models.Prediction)
    torch.testing.assert_close(prediction.anomaly_map, expected.float(), rtol=1e-4, atol=1e-6)
    assert torch.equal(prediction.score, prediction.anomaly_map.amax((1, 2)))


def test_the_authors_variant_multiplies_at_the_first_level(model):
    images = torch.rand(2, 3, 64, 64)
    model.config.aggregate_size = "layer"
    with torch.no_grad():
        prediction = model(images)
        joined = reference.anomaly_map(*model.features(images), (16, 16))
    expected = F.interpolate(joined[:, None], (64, 64), mode="bilinear", align_corners=False)[:, 0]
    torch.testing.assert_close(prediction.anomaly_map, expected, rtol=1e-4, atol=1e-6)
    assert torch.equal(prediction.score, prediction.anomaly_map.amax((1, 2)))


def test_weights_and_sum_reach_the_map(model):
    images = torch.rand(1, 3, 32, 32)
    model.config.aggregate, model.config.weights = "sum", [0.5, 2.0, 0.0]
    with torch.no_grad():
        expected = reference.anomaly_map(
            *model.features(images), (32, 32), aggregate="sum", weights=[0.5, 2.0, 0.0]
        )
        torch.testing.assert_close(model(images).anomaly_map, expected, rtol=1e-4, atol=1e-6)


def test_the_loss_is_the_authors_without_the_half(model, monkeypatch):
    monkeypatch.setattr(model.config, "hard", 0.0)
    model.train()
    images = torch.rand(3, 3, 32, 32)
    losses = model.loss({"image": images})
    teacher, student = model.features(images)
    expected = sum(
        (F.normalize(t) - F.normalize(s)).square().sum(1).mean()
        for t, s in zip(teacher, student, strict=True)
    )
    assert list(losses) == ["distillation"]
    torch.testing.assert_close(losses["distillation"], expected, rtol=1e-4, atol=1e-6)
    losses["distillation"].backward()
    assert all(p.grad is not None for p in model.student.parameters())
    assert all(p.grad is None for p in model.teacher.parameters())


def test_a_perfect_student_scores_nothing(model):
    model.student = copy.deepcopy(model.teacher.backbone)
    with torch.no_grad():
        assert model(torch.rand(1, 3, 32, 32)).score.item() == 0


def test_training_defaults_are_the_authors():
    config = TrainingConfig.for_model(models.STPM)
    assert (config.epochs, config.batch_size, config.optimizer) == (100, 32, "sgd")
    assert (config.learning_rate, config.momentum, config.weight_decay) == (0.4, 0.9, 1e-4)


def test_a_state_dict_carries_the_teacher(model):
    torch.manual_seed(1)
    other = models.build("stpm", teacher_weights="random").eval()
    images = torch.rand(1, 3, 32, 32)
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(model(images).anomaly_map, other(images).anomaly_map)


def test_teacher_weights_are_loaded_and_the_students_are_not(tmp_path):
    source = backbones.build("resnet18", ("layer1",))
    torch.save(source.state_dict(), tmp_path / "w.pth")
    model = models.build("stpm", layers=["layer1"], teacher_weights=str(tmp_path / "w.pth"))
    assert torch.equal(model.teacher.backbone.conv1.weight, source.conv1.weight)
    assert not torch.equal(model.student.conv1.weight, source.conv1.weight)


class Pyramid(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, 2, 1)
        self.second = nn.Conv2d(4, 6, 3, 2, 1)

    def forward(self, images):
        first = self.first(images)
        return first, self.second(first)


def test_any_module_may_be_the_backbone():
    backbone = Pyramid()
    model = models.build("stpm", backbone=backbone)
    assert model.teacher.backbone is backbone
    assert not torch.equal(model.student.first.weight, backbone.first.weight)
    model.loss({"image": torch.rand(2, 3, 16, 16)})["distillation"].backward()
    assert model(torch.rand(2, 3, 16, 16)).anomaly_map.shape == (2, 16, 16)
    student = Pyramid()
    assert models.build("stpm", backbone=backbone, student=student).student is student


def test_standardized_teachers_say_as_much_with_every_channel():
    torch.manual_seed(2)
    backbone = Pyramid()
    backbone.first.weight.data[0] *= 20
    model = models.build("stpm", backbone=backbone, standardize="channels").eval()
    images = torch.rand(5, 3, 16, 12)

    def batches():
        for part in images.split(2):
            yield {"image": part, **model.teacher_features(part)}

    plain = plain_features(backbone, images)
    for _ in range(2):  # nothing is left of an earlier time
        model.prepare_stage(batches, batches)
        found = model.teacher_features(images)["teacher"]
        for level, before in zip(found, plain, strict=True):
            deviation = before.double().transpose(0, 1).flatten(1).std(dim=1, correction=0)
            expected = before * (deviation.mean() / deviation)[:, None, None].float()
            torch.testing.assert_close(level, expected, rtol=1e-4, atol=1e-6)
    features, _ = model.features(images)
    assert all(torch.equal(a, b) for a, b in zip(features, found, strict=True))
    # They belong to what training makes: a checkpoint and a detector carry them.
    assert any(name.startswith("scales.") for name in model.trained_state())


@pytest.mark.parametrize("subspace", [False, True])
def test_a_standardized_teacher_is_scaled_by_the_ops(subspace):
    options = {"standardize": "channels", "subspace": subspace, "pooling": "maximum"}
    options |= {"score_by": "maps", "scale_maps": "none", "scale_score": "none"}
    model = models.build("stpm", backbone=Pyramid(), **options).eval()
    for factor in model.scales.buffers():
        factor.copy_(torch.rand_like(factor) + 0.5)
    images = torch.rand(3, 3, 16, 12)
    kept = model.teacher_features(images)  # scaled by a pass of their own
    if subspace:
        model.fit_subspace([kept["teacher"]])
    found = []
    for batch in ({"image": images}, {"image": images, **kept}):
        with torch.no_grad():
            answer = model.answer(batch)
            of_batch = [answer.score, answer.anomaly_map, model.validation_score(batch)]
            of_batch += model.level_maps(batch)
        loss = model.loss(batch)["distillation"]
        of_batch += [loss, *torch.autograd.grad(loss, next(model.student.parameters()))]
        found.append(of_batch)
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=2e-5, atol=1e-7)
    teacher, student = model.features(images)
    expected = reference.distances(teacher, student)
    for a, b in zip(model.level_maps({"image": images}), expected, strict=False):
        torch.testing.assert_close(a, b, rtol=2e-5, atol=1e-7)


def test_only_the_embedded_teacher_is_standardized_unless_asked_for(tmp_path):
    def standardized(**options):
        return any(
            name.startswith("scales.") for name in models.build("stpm", **options).state_dict()
        )

    torch.save(backbones.build("resnet18").state_dict(), tmp_path / "resnet18.pth")
    assert standardized(teacher_weights="embedded")
    assert not standardized(teacher_weights="embedded", standardize="none")
    assert not standardized(teacher_weights=str(tmp_path / "resnet18.pth"))
    assert not standardized(backbone=Pyramid())
    assert standardized(teacher_weights=None, standardize="channels")
    # What a file says does not depend on where it is opened: there the teacher has no origin.
    config = models.build("stpm", teacher_weights="embedded").config
    assert config.standardize == "channels"


def test_unknown_names_options_and_values_are_named(model):
    with pytest.raises(ValueError, match=r"unknown model 'stmp' \(did you mean stpm\?\); there a"):
        models.build("stmp")
    unknown = r"unknown option 'layer' of stpm \(did you mean layers\?\); there are: backbone, lay"
    with pytest.raises(TypeError, match=unknown):
        models.build("stpm", layer="layer1")
    with pytest.raises(ValueError, match="aggregate must be 'product' or 'sum'; got 'mean'"):
        models.build("stpm", aggregate="mean")
    with pytest.raises(ValueError, match="aggregate_size must be 'input' or 'layer'; got 64"):
        models.build("stpm", aggregate_size=64)
    with pytest.raises(ValueError, match="standardize must be 'auto' or 'channels' or 'none'"):
        models.build("stpm", standardize=True)
    with pytest.raises(ValueError, match="eps must be a number above 0; got 0"):
        models.build("stpm", eps=0)
    with pytest.raises(ValueError, match=r"for each of the 3 layers; got \[1.0\]"):
        models.build("stpm", weights=[1])
    with pytest.raises(ValueError, match="student goes with a backbone that is a module"):
        models.build("stpm", teacher_weights=None, student=Pyramid())
    with pytest.raises(ValueError, match=r"got shape \(1, 1, 32, 32\)"):
        model(torch.rand(1, 1, 32, 32))


def test_it_exports_as_one_graph(model):
    images = torch.rand(2, 3, 32, 32)
    exported = torch.export.export(model, (images,)).module()
    with torch.no_grad():
        expected, result = model(images), exported(images)
    assert isinstance(result, models.Prediction)
    torch.testing.assert_close(result.anomaly_map, expected.anomaly_map)
    torch.testing.assert_close(result.score, expected.score)
