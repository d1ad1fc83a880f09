"""RSTPM against its definition, recomputed with plain torch and numpy."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import nn

from fastad import models
from fastad.training import TrainingConfig

SMALL = {
    "teacher_weights": None,
    "teacher2_weights": None,
    "teacher2": "resnet18",
    "bottleneck": "learned",
    "discriminator_width": 8,
    "subspace": False,
}
PAIRS, DISCRIMINATOR = models.RSTPM.stages


def build(**options):
    torch.manual_seed(0)
    return models.build("rstpm", **{**SMALL, **options}).eval()


@pytest.fixture(scope="module")
def trained():
    """As after a training: batch norms with shifts, a network that says something. Shared."""
    model = build()
    generator = torch.Generator().manual_seed(1)
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        if name.endswith(("bn1.bias", "bn2.bias", "bn3.bias", "running_mean", "head.weight")):
            value.data += 0.1 * torch.randn(value.shape, generator=generator)
    means = torch.tensor([0.5, 0.4, 0.3, 0.9, 1.1, 0.2])
    model.distance_means.copy_(means[:, None, None] * (0.5 + torch.rand(6, 64, 64)))
    model.level_means.copy_(torch.tensor([2.0, 2.5, 3.0]))
    model.level_deviations.copy_(torch.tensor([0.5, 0.7, 1.3]))
    return model


@pytest.fixture
def model(trained):
    return copy.deepcopy(trained)


def random_images(*shape, seed=2):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def plain_distances(model, images):
    """float64 distances, of the six pairs of feature maps made step by step."""
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    x = (images - mean) / std
    first, second = model.teacher1.backbone(x), model.teacher2.backbone(x)
    students = model.student1(x) + model.student2(model.bottleneck(first[-1]), second)
    pairs = zip([*first[:3], *second], students, strict=True)
    directions = [(F.normalize(t.double()), F.normalize(s.double())) for t, s in pairs]
    return [(t - s).square().sum(1) / 2 for t, s in directions]


def upsampled(maps, size):
    return F.interpolate(maps[:, None], size, mode="bilinear", align_corners=False)[:, 0]


def plain_sums(model, distances):
    means = model.distance_means.double()
    if model.config.scale_maps == "level":
        distances = [d / m.mean() for d, m in zip(distances, means, strict=True)]
    elif model.config.scale_maps in ("position", "auto"):
        grids = zip(distances, means.clamp_min(means.mean((1, 2), keepdim=True)), strict=True)
        distances = [d / upsampled(m[None], d.shape[-2:]) for d, m in grids]
    return [distances[i] + upsampled(distances[i + 3], distances[i].shape[-2:]) for i in range(3)]


def plain_probability(model, sums, size):
    statistics = zip(sums, model.level_means.double(), model.level_deviations.double(), strict=True)
    inputs = torch.stack([upsampled((m - mean) / d, size) for m, mean, d in statistics], dim=1)
    return torch.sigmoid(copy.deepcopy(model.discriminator).double()(inputs))


@torch.no_grad()
def plain_map(model, images, stride=4):
    size = images.shape[-2:]
    sums = plain_sums(model, plain_distances(model, images))
    joined = torch.stack([upsampled(m, size) for m in sums])
    joined = joined.sum(0) if model.config.aggregate == "sum" else joined.prod(0)
    if model.config.discriminator:
        small = [length * 4 // stride for length in sums[0].shape[-2:]]
        joined = joined * upsampled(plain_probability(model, sums, small), size)
    return joined


def assert_map(model, images, expected):
    with torch.no_grad():
        prediction = model(images)
    torch.testing.assert_close(
        prediction.anomaly_map.double(), expected, rtol=2e-3, atol=2e-4 * expected.max().item()
    )
    return prediction


@pytest.mark.parametrize("size", [(64, 64), (33, 47), (67, 45)])
@pytest.mark.parametrize("teacher2", ["resnet18", "resnet50_caffe"])
def test_the_distances_are_first_pair_before_second(size, teacher2, model):
    model = model if teacher2 == "resnet18" else build(teacher2=teacher2)
    images = random_images(2, 3, *size)
    with torch.no_grad():
        result, expected = model.distances(images), plain_distances(model, images)
    for distance, plain in zip(result, expected, strict=True):
        torch.testing.assert_close(distance.double(), plain, rtol=1e-3, atol=1e-5)
    sizes = [d.shape[-2:] for d in result]
    assert sizes[:3] == [tuple(-(-n // s) for n in size) for s in (4, 8, 16)]
    assert teacher2 == "resnet50_caffe" or sizes[3:] == sizes[:3]


@pytest.mark.parametrize("scale_maps", ["position", "level", "none"])
@pytest.mark.parametrize("aggregate", ["product", "sum"])
@pytest.mark.parametrize("discriminator", [True, False])
def test_the_map_is_made_of_the_summed_maps(model, scale_maps, aggregate, discriminator):
    model.config.scale_maps, model.config.aggregate = scale_maps, aggregate
    model.config.discriminator, model.config.pooling = discriminator, 0
    images = random_images(2, 3, 64, 48)
    prediction = assert_map(model, images, plain_map(model, images))
    assert torch.equal(prediction.score, prediction.anomaly_map.amax((1, 2)))


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_the_discriminative_network_works_at_its_stride(model, stride):
    model.config.discriminator_stride = stride
    images = random_images(1, 3, 48, 64)
    with torch.no_grad():
        found = model.discriminate(model.inputs(model.distances(images)))
    assert found.shape == (1, 48 // stride, 64 // stride)
    assert found.std() > 0.01
    assert_map(model, images, plain_map(model, images, stride))


@pytest.mark.parametrize("sigma", [0.3, 1.0, 4.0])
def test_smoothing_is_a_gaussian_of_the_map(model, sigma):
    images = random_images(2, 3, 64, 48)
    with torch.no_grad():
        plain = model(images).anomaly_map.numpy()
        model.config.smoothing, model.config.pooling = sigma, 0
        result = model(images)
    radius = max(round(3 * sigma), 1)
    expected = np.stack(
        [ndimage.gaussian_filter(m, sigma, mode="nearest", radius=radius) for m in plain]
    )
    np.testing.assert_allclose(result.anomaly_map, expected, rtol=1e-4, atol=1e-6)
    assert torch.equal(result.score, result.anomaly_map.amax((1, 2)))


@pytest.mark.parametrize("share", [1e-6, 0.01, 0.5, 1.0])
def test_pooling_is_the_mean_of_the_highest_pixels(model, share):
    model.config.pooling = share
    with torch.no_grad():
        prediction = model(random_images(2, 3, 40, 56))
    pixels = np.sort(prediction.anomaly_map.flatten(1).numpy(), axis=1)[:, ::-1]
    expected = pixels[:, : max(round(share * 40 * 56), 1)].mean(axis=1)
    np.testing.assert_allclose(prediction.score, expected, rtol=1e-5)


def test_an_untrained_discriminative_network_changes_no_rank():
    model = build()
    images = random_images(4, 3, 64, 64)
    with torch.no_grad():
        summed = model.inputs(model.distances(images))
        assert model.discriminate(summed).eq(0.5).all()
        with_it = model(images)
        model.config.discriminator = False
        without = model(images)
    torch.testing.assert_close(2 * with_it.anomaly_map, without.anomaly_map)
    assert with_it.score.argsort().tolist() == without.score.argsort().tolist()


def test_the_gates_change_the_answer():
    images = random_images(1, 3, 64, 64)
    open_, closed = build(), build()
    for model, bias in ((open_, 20.0), (closed, -3.0)):
        for level in model.student2.levels:
            nn.init.constant_(level.gate.layers[3].bias, bias)
            for norm in (level.last.bn1, level.last.bn2, level.last.bn3):
                nn.init.constant_(norm.bias, 0.3)
    with torch.no_grad():
        different = (open_(images).anomaly_map / closed(images).anomaly_map - 1).abs()
    assert different.max() > 0.05


def test_the_loss_is_stpms_for_both_pairs(model):
    images = random_images(3, 3, 64, 48)
    with torch.no_grad():
        losses = model.loss({"image": images})
        levels = [2 * d.mean() for d in plain_distances(model, images)]
        score = model.validation_score({"image": images})
    assert list(losses) == ["pair1", "pair2"]
    torch.testing.assert_close(losses["pair1"].double(), sum(levels[:3]), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(losses["pair2"].double(), sum(levels[3:]), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(score.mean().double(), sum(levels) / 2, rtol=1e-4, atol=1e-6)
    assert score.shape == (3,)


def test_the_pairs_answer_without_the_discriminative_network(model):
    images = random_images(3, 3, 64, 48)
    model.enter_stage(PAIRS)
    model.eval()
    with torch.no_grad():
        before = model.answer({"image": images})
        for parameter in model.discriminator.parameters():
            parameter.normal_()
        after = model.answer({"image": images})
        model.enter_stage(None)
        assert not torch.equal(model.answer({"image": images}).anomaly_map, after.anomaly_map)
    assert torch.equal(before.anomaly_map, after.anomaly_map)
    assert torch.equal(before.score, after.score)


def test_maps_are_calibrated_by_images_not_trained_on(model):
    """Not in the second stage, whose network was prepared with the means that it has."""
    images = random_images(5, 3, 64, 48)
    batches = [{"image": images[:2]}, {"image": images[2:]}]
    for stage in (DISCRIMINATOR, PAIRS):
        model.enter_stage(stage)
        model.eval()
        before = model.distance_means.clone()
        with torch.no_grad():
            model.calibrate_maps(lambda: iter(batches))
        assert torch.equal(model.distance_means, before) == (stage is DISCRIMINATOR)
    with torch.no_grad():
        distances = plain_distances(model, images)
    for level, means in zip(distances, model.distance_means.double(), strict=True):
        # Towards the mean of all places, as if that had been seen in two more images.
        place = (level.sum(dim=0) + 2 * level.mean()) / (len(images) + 2)
        expected = F.adaptive_avg_pool2d(place[None], 64)[0]
        torch.testing.assert_close(means, expected.double(), rtol=1e-4, atol=1e-6)


def loss_of_the_network(model, images, mask, gamma):
    """float64, as Lin et al. write it: -(1 - p_t)^gamma log(p_t), and the mean absolute error."""
    sums = plain_sums(model, plain_distances(model, images))
    p = upsampled(plain_probability(model, sums, sums[0].shape[-2:]), mask.shape[-2:]).numpy()
    p_t = np.where(mask.numpy(), p, 1 - p)
    return (-((1 - p_t) ** gamma) * np.log(p_t)).mean((1, 2)), (1 - p_t).mean((1, 2))


@pytest.mark.parametrize(("gamma", "l1"), [(0, 0), (2, 0), (4, 1.5), (0.5, 0.1)])
def test_the_focal_loss(model, gamma, l1):
    model.config.focal_gamma, model.config.l1_weight = gamma, l1
    model.enter_stage(DISCRIMINATOR)
    images, mask = random_images(3, 3, 48, 64), random_images(3, 48, 64) > 0.8
    with torch.no_grad():
        losses = model.loss({"image": images, "mask": mask})
        score = model.validation_score({"image": images, "mask": mask})
        focal, error = loss_of_the_network(model, images, mask, gamma)
    assert list(losses) == (["focal", "l1"] if l1 else ["focal"])
    assert losses["focal"].item() == pytest.approx(focal.mean(), rel=1e-3)
    if l1:
        assert losses["l1"].item() == pytest.approx(l1 * error.mean(), rel=1e-3)
    np.testing.assert_allclose(score, focal + l1 * error, rtol=1e-3)


def test_the_gradient_of_the_focal_loss_is_its_slope(model):
    model.double()
    model.config.l1_weight = 0.7
    model.enter_stage(DISCRIMINATOR)
    batch = {"image": random_images(2, 3, 32, 32).double(), "mask": random_images(2, 32, 32) > 0.7}
    batch |= model.teacher_features(batch["image"])
    for parameter in (model.discriminator.head.weight, model.discriminator.encoder[0][0].weight):
        direction = random_images(*parameter.shape).double() - 0.5
        model.zero_grad()
        sum(model.loss(batch).values()).backward()
        slope = (parameter.grad * direction).sum().item()
        values = []
        with torch.no_grad():
            for step in (1e-5, -2e-5):
                parameter += step * direction
                values.append(sum(model.loss(batch).values()).item())
            parameter += 1e-5 * direction
        assert slope == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-4)


@pytest.mark.parametrize("gamma", [0, 0.5, 2])
@pytest.mark.parametrize("logit", [200.0, -200.0])
def test_a_certain_network_has_finite_gradients(model, gamma, logit):
    model.config.focal_gamma = gamma
    model.enter_stage(DISCRIMINATOR)
    nn.init.constant_(model.discriminator.head.bias, logit)
    mask = torch.zeros(1, 32, 32, dtype=torch.bool)
    mask[:, :16] = True
    loss = model.loss({"image": random_images(1, 3, 32, 32), "mask": mask})["focal"]
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad.isfinite().all() for p in model.discriminator.parameters())


def test_the_statistics_are_those_of_the_unseen_images(model):
    images = random_images(5, 3, 64, 48)

    def never():
        raise AssertionError("training images are not needed")

    before = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        model.prepare_stage(never, never)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    model.enter_stage(DISCRIMINATOR)
    with torch.no_grad():
        model.prepare_stage(never, lambda: iter([{"image": images[:3]}, {"image": images[3:]}]))
        distances = plain_distances(model, images)
    for d, means in zip(distances, model.distance_means.numpy(), strict=True):
        # Two images more, which are everywhere as all are on average.
        expected = (d.numpy().sum(axis=0) + 2 * d.numpy().mean()) / (len(images) + 2)
        rows, columns = 64 // d.shape[1], 64 // d.shape[2]
        if 64 % d.shape[2] == 0:
            repeated = expected.repeat(rows, axis=0).repeat(columns, axis=1)
            np.testing.assert_allclose(means, repeated, rtol=1e-3)
        np.testing.assert_allclose(means.mean(), expected.mean(), rtol=0.02)
    sums = [s.numpy() for s in plain_sums(model, distances)]
    np.testing.assert_allclose(model.level_means, [s.mean() for s in sums], rtol=1e-4)
    np.testing.assert_allclose(model.level_deviations, [s.std() for s in sums], rtol=1e-3)
    np.testing.assert_allclose(model.level_means, 2, rtol=0.1)  # each pair's map has mean 1


def test_a_place_that_differs_on_every_image_stands_out_no_more(model):
    """A column where all normal images have distances ten times as large."""
    ordinary = [0.1 + 0.02 * random_images(30, 1, n, n, seed=n) for n in (64, 32, 16)]
    for d in ordinary:
        d[..., :1] *= 10
    ordinary *= 2
    model.enter_stage(DISCRIMINATOR)
    with torch.no_grad():
        model.prepare_stage(None, lambda: iter([{"distances": ordinary}]))
        summed = model.inputs([d[:, 0] for d in ordinary])
        model.config.scale_maps = "level"
        by_level = model.inputs([d[:, 0] for d in ordinary])
    for m, plain in zip(summed, by_level, strict=True):
        assert m[..., 0].mean() < 2 * m[..., 1:].mean()
        assert plain[..., 0].mean() > 8 * plain[..., 1:].mean()


def test_perfect_students_leave_finite_maps():
    """One image of one pixel a level: no spread; a first student without errors: no distance."""
    model = build()
    model.student1 = copy.deepcopy(model.teacher1.backbone)
    model.enter_stage(DISCRIMINATOR)
    model.eval()
    images = random_images(1, 3, 16, 16)
    with torch.no_grad():
        model.prepare_stage(lambda: iter(()), lambda: iter([{"image": images}]))
        assert all(v.isfinite().all() for v in model.state_dict().values())
        assert model(images).anomaly_map.isfinite().all()


def test_students_stand_still_in_the_second_stage(model):
    model.train()
    assert model.student1.bn1.training
    model.enter_stage(DISCRIMINATOR)
    for _ in range(2):
        assert model.training
        assert model.discriminator.training
        for part in (model.student1, model.bottleneck, model.student2, model.teacher1):
            assert not any(m.training for m in part.modules())
            assert not any(p.requires_grad for p in part.parameters())
        model.train()
    model.enter_stage(PAIRS)
    model.train()
    for part in (model.student1, model.bottleneck, model.student2):
        assert all(m.training for m in part.modules())
        assert all(p.requires_grad for p in part.parameters())
    assert not any(p.requires_grad for p in model.discriminator.parameters())
    model.enter_stage(None)
    assert not any(
        p.requires_grad for p in [*model.teacher1.parameters(), *model.teacher2.parameters()]
    )
    assert all(p.requires_grad for p in model.discriminator.parameters())


@pytest.mark.parametrize(
    ("options", "deepest"),
    [
        ({"bottleneck": "layer4"}, 512),
        ({"teacher2": "resnet50"}, 512),
        ({"teacher2": "resnet50_caffe", "attention": False}, 512),
        ({"teacher1": "resnet50", "bottleneck": "layer4", "decoder_blocks": (4, 3, 2)}, 2048),
    ],
)
def test_other_networks_train_a_step(options, deepest):
    model = build(**options).train()
    assert model.student2.levels[0].up.conv1.in_channels == deepest
    losses = model.loss({"image": random_images(2, 3, 48, 64)})
    sum(losses.values()).backward()
    for part in (model.student1, model.bottleneck, model.student2):
        assert all(p.grad is not None and p.grad.isfinite().all() for p in part.parameters())
    assert model.eval()(random_images(1, 3, 48, 64)).anomaly_map.shape == (1, 48, 64)


def test_the_defaults_are_the_papers_networks():
    config = models.build("rstpm", **models.without_weights("rstpm")).config
    assert (config.teacher1, config.teacher2, config.bottleneck) == (
        "resnet18",
        "resnet50",
        "layer4",
    )
    assert (config.attention, config.aggregate, config.discriminator) == (True, "product", True)
    assert [stage.name for stage in models.RSTPM.stages] == ["pairs", "discriminator"]
    assert DISCRIMINATOR.pseudo_anomalies
    assert DISCRIMINATOR.unseen
    assert TrainingConfig.for_model(models.RSTPM).epochs == 20
