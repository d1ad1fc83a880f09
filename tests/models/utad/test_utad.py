"""UTAD's own: what it compares, what its stages leave behind, what it shows."""

import math

import pytest
import torch
from small import UTAD as SMALL
from torch import nn

import fastad
from fastad import models, ops
from fastad.models.maps import deviation
from fastad.training import Trainer, TrainingConfig


def small(**options):
    torch.manual_seed(0)
    model = models.build("utad", **{**SMALL, **options}).eval()
    nn.init.normal_(model.impression.output.weight)  # impressions that are not all the same
    return model


def trained(**options):
    """With numbers in everything that a training sets."""
    model = small(**options)
    model.factors.copy_(torch.rand_like(model.factors) + 0.5)
    model.map_deviation.fill_(0.5)
    model.latent_deviation.fill_(2.0)
    model.bank.fill(torch.rand(6, 8))
    return model


def images(n=2, height=64, width=48):
    return torch.rand(n, 3, height, width, dtype=torch.float64)


@pytest.mark.parametrize("aggregate", ["sum", "product"])
def test_map_of_three_comparisons(aggregate):
    model, x = trained(aggregate=aggregate, smoothing=0.0, latent_weight=0.0).double(), images()
    _, m, detailed, naive = model.pictures(x)
    expected = torch.zeros(2, 64, 48, dtype=torch.float64)
    for part, (a, b) in enumerate(((x, detailed), (m, naive), (x, m))):
        features = [model.teacher(model.normalize(y)) for y in (a, b)]
        levels = []
        for level, distance in enumerate(ops.distances(*features)):
            grid = model.factors[part, level][None, None]
            factor = nn.functional.interpolate(grid, distance.shape[1:], mode="bilinear")
            levels.append(distance * factor[:, 0])
        expected += ops.aggregate_maps(levels, (64, 48), aggregate=aggregate)
    found = model(x)
    torch.testing.assert_close(found.anomaly_map, expected)
    torch.testing.assert_close(found.score, expected.amax((1, 2)) / 0.5)


def test_score_adds_the_distance_of_the_latent_code():
    model, x = trained(neighbours=2, latent_weight=0.25).double(), images()
    found = model(x)
    mean, log_variance = model.impression.latents(model.impression.encode(model._padded(x)))
    codes = torch.cat([mean, (0.5 * log_variance).exp()], dim=1)
    nearest = torch.cdist(codes, model.bank.points[:6]).sort(dim=1).values[:, :2].mean(dim=1)
    expected = found.anomaly_map.amax((1, 2)) / 0.5 + 0.25 * nearest / 2.0
    torch.testing.assert_close(found.score, expected)


@pytest.mark.parametrize("comparison", ["grey", "ssim"])
def test_comparisons_of_the_authors_code(comparison):
    from fastad.models.utad import comparison as of

    by = {"grey": of.grey_difference, "ssim": of.dissimilarity}[comparison]
    model, x = trained(comparison=comparison, smoothing=0.0).double(), images()
    assert not hasattr(model, "teacher")
    model.factors[0] = 2.0
    model.factors[1] = 0.0
    expected = 2 * of.combined(by, model.pictures(x))
    torch.testing.assert_close(model(x).anomaly_map, expected)


def test_without_an_expert_the_image_is_compared_with_its_impression():
    model, x = small(smoothing=0.0).double(), images()
    m = model.pictures(x)[1]
    features = [model.teacher(model.normalize(y)) for y in (x, m)]
    expected = ops.anomaly_map(*features, (64, 48), aggregate="sum")
    torch.testing.assert_close(model(x).anomaly_map, expected)
    with torch.no_grad():
        for parameter in model.expert.parameters():
            parameter.add_(1.0)
    torch.testing.assert_close(model(x).anomaly_map, expected)


@pytest.mark.parametrize("size", [(64, 48), (33, 47), (7, 95)])
def test_pictures_of_any_size(size):
    model, x = trained(), images(2, *size).float()
    with torch.no_grad():
        pictures, explained = model.pictures(x), model.explain(x)
    assert [p.shape for p in pictures] == [(2, 3, *size)] * 4
    assert all(p.min() >= 0 and p.max() <= 1 for p in pictures)
    torch.testing.assert_close(pictures[0], x)
    assert list(explained) == ["impression", "naive impression", "expert reconstruction"]
    for name, picture in zip(explained, (pictures[1], pictures[3], pictures[2]), strict=True):
        assert torch.equal(explained[name], picture), name


def test_without_an_expert_the_impression_is_all_that_is_shown():
    assert list(small().explain(images(1).float())) == ["impression"]


def test_one_image_is_enough_to_train_on():
    """Of a batch of one the latent means are normalised by what was seen so far."""
    detector = fastad.Detector("utad", image_size=64, device="cpu", precision="float32", **SMALL)
    detector.fit(torch.randint(0, 256, (1, 3, 64, 64)).to(torch.uint8), epochs=1)
    assert detector.predict(torch.zeros(1, 3, 64, 64)).score.shape == (1,)


def test_other_models_show_nothing():
    model = models.build("stpm", teacher_weights=None, layers=("layer1",))
    assert model.explain(torch.rand(1, 3, 32, 32)) == {}


def test_the_naive_impression_keeps_what_the_impression_loses():
    """A network that always gives the same impression, and an expert that learned to blur."""
    model = small(expert_width=4)
    torch.manual_seed(1)
    normal = torch.full((1, 3, 64, 64), 0.3)
    model.impression.decode = lambda features: normal.expand(features.shape[0], -1, -1, -1)
    expert = model.expert
    optimizer = torch.optim.Adam(expert.parameters(), 5e-3)
    for _ in range(150):  # images are the impression and noise: the expert learns to take that off
        x = normal + 0.3 * torch.randn(4, 3, 8, 8).repeat_interleave(8, 2).repeat_interleave(8, 3)
        blurred = nn.functional.avg_pool2d(x, 5, 1, 2)
        loss = (expert.to_impression(expert.image_content(2 * x - 1)) - blurred).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    defect = normal.clone()
    defect[..., 24:40, 24:40] = 0.9
    with torch.no_grad():
        _, impression, _, naive = model.pictures(defect)
    inside = (slice(None), slice(None), slice(28, 36), slice(28, 36))
    assert torch.equal(impression, normal)
    assert naive[inside].mean() > naive[..., :16, :].mean() + 0.2


def test_gradients_reach_their_step_alone():
    model, batch = small().train(), {"image": images().float()}
    for stage in model.stages:
        model.enter_stage(stage)
        own = dict(batch)
        for step in stage.steps:
            model.zero_grad(set_to_none=True)
            losses = model.step_loss(own, step)
            wanted = {id(p) for g in model.step_parameter_groups(step) for p in g["params"]}
            if step.name == "discriminators":
                assert set(losses) == {"discriminators"}
                sum(losses.values()).backward()
                found = {id(p) for p in model.parameters() if p.grad is not None}
                assert found <= wanted  # what was made is not taught by the discriminators' loss
    model.enter_stage(None)


def test_losses_carry_their_factors():
    factors = (2.0, 3.0, 5.0, 7.0, 11.0)
    plain = small(impression_factors=(1.0,) * 5, expert_factors=(1.0,) * 4)
    scaled = small(impression_factors=factors, expert_factors=(2.0, 3.0, 5.0, 7.0))
    names = (models.utad.config.LOSSES, models.utad.config.EXPERT_LOSSES)
    for stage, of, by in zip(plain.stages, names, (factors, (2.0, 3.0, 5.0, 7.0)), strict=True):
        found = []
        for model in (plain, scaled):
            model.enter_stage(stage)
            model.eval()
            found.append(model.loss({"image": images().float() * 0 + 0.3}))
            assert set(found[-1]) == {*of, "discriminators"}
        for name, factor in zip(of, by, strict=True):
            torch.testing.assert_close(found[1][name], factor * found[0][name])


def test_a_training_leaves_scales_of_training_images():
    torch.manual_seed(0)
    model = models.build("utad", **SMALL, neighbours=2)
    data = (255 * images(8, 32, 32)).to(torch.uint8)
    options = {"epochs": 1, "batch_size": 4, "device": "cpu", "precision": "float32"}
    config = TrainingConfig.for_model(model, **options)
    record = Trainer(model, config).fit(data, held_out=[0, 1])
    assert [stage.name for stage in record.stages] == ["impression", "expert"]
    assert model.bank.count == 6
    assert (model.factors[:2] > 0).all()
    assert (model.factors[2] == 0).all()
    train = data[2:] / 255
    with torch.no_grad():
        distances = model.differences(model.pictures(train))
        for part in (0, 1):
            for level, factor in zip(distances[part], model.factors[part], strict=True):
                assert factor.max() == pytest.approx(float(1 / level.mean()), rel=0.02)
        maxima = model(train).anomaly_map.amax((1, 2))
    assert float(model.map_deviation) == pytest.approx(float(maxima.std(correction=0)), rel=0.05)


def test_deviations_are_never_zero():
    assert deviation(torch.tensor([1.0, 3.0])) == 1
    assert deviation(torch.tensor([5.0, 5.0])) == pytest.approx(0.05)
    assert deviation(torch.zeros(3)) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"impression_width": 0}, "impression_width must be an integer of at least 1; got 0"),
        ({"bank": 2.5}, "bank must be an integer of at least 1; got 2.5"),
        ({"details": True}, "details must be an integer of at least 1; got True"),
        (
            {"expert_factors": (1.0, 2.0)},
            r"expert_factors must be 4 numbers of at least 0 \(adversarial, image, detail, con",
        ),
        ({"impression_factors": (1, 1, 1, 1, -1)}, "impression_factors must be 5 numbers"),
        ({"comparison": "rgb"}, "comparison must be 'perceptual' or 'grey' or 'ssim'; got 'rgb'"),
        ({"aggregate": "mean"}, "aggregate must be 'sum' or 'product'; got 'mean'"),
        ({"scale_maps": "level"}, "scale_maps must be 'position' or 'image' or 'none'"),
        ({"backbone": "vgg"}, "unknown backbone 'vgg'"),
        ({"backbone": 3}, "backbone must be a name or a module; got 3"),
        ({"smoothing": 101}, "smoothing must be at most 100 pixels; got 101"),
        ({"latent_weight": math.nan}, "latent_weight must be a number of at least 0; got nan"),
        ({"eps": 0}, "eps must be a number above 0; got 0"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        models.build("utad", **{**SMALL, **options})
