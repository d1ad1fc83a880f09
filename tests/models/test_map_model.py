"""How distance maps become a map and a score, against float64 of plain torch."""

import copy
import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional

from fastad import models
from fastad.inference.predictor import Predictor
from fastad.models.map_model import Evidence
from fastad.models.map_options import SCALES, MapChoice
from fastad.models.maps import mean_of_highest, means_of_highest
from fastad.models.residual import SubspaceResidual, patch_features

SIZE = (45, 31)  # of the image
SIZES = [(12, 8), (6, 4)]  # of the levels
WAYS = list(itertools.product(SCALES, SCALES, (0.0, 0.02), (False, True)))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 5, 4, 2), nn.Conv2d(4, 6, 3, 2, 1)

    def forward(self, images):
        first = self.first(images)
        return [first, self.second(first)]


def random(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def with_means(model):
    model.distance_means.copy_(0.1 + random(*model.distance_means.shape, seed=5) ** 4)
    return model.eval()


def resized(maps, size):
    return functional.interpolate(maps[:, None], size, mode="bilinear", align_corners=False)[:, 0]


def scaled(maps, means, scale):
    found = []
    for level, mean in zip(maps, means.double(), strict=True):
        divisor = {
            "none": torch.ones(1, 1, 1),
            "level": mean.mean().expand(1, 1, 1),
            "position": resized(mean.clamp_min(mean.mean())[None], level.shape[-2:]),
        }[scale]
        found.append(level.double() / divisor)
    return found


def highest(maps, share):
    pixels = maps.flatten(1).sort(dim=1, descending=True).values
    return pixels[:, : max(round(share * pixels.shape[1]), 1)].mean(dim=1)


def expected(model, maps, choice, join):
    found = []
    for scale in (choice.scale_maps, choice.scale_score):
        *levels, left = scaled(maps, model.distance_means, scale)
        joined = join(levels)
        found.append(joined * resized(left, SIZE) if choice.subspace else joined)
    return found[0], highest(found[1], choice.pooling)


def agrees(model, maps, choice, join, rtol=1e-5):
    prediction = model.judge(Evidence(maps), SIZE)
    for found, exact in zip(
        (prediction.anomaly_map, prediction.score), expected(model, maps, choice, join), strict=True
    ):
        torch.testing.assert_close(found.double(), exact, rtol=rtol, atol=rtol * exact.max().item())


@pytest.mark.parametrize("weights", [None, [0.5, 2.0]])
@pytest.mark.parametrize("aggregate", ["product", "sum"])
@pytest.mark.parametrize("aggregate_size", ["input", "layer"])
def test_stpm_in_every_way(aggregate, aggregate_size, weights):
    options = {"aggregate": aggregate, "aggregate_size": aggregate_size, "weights": weights}
    plain = with_means(models.build("stpm", backbone=Net(), **options))
    maps = [random(2, *size, seed=size[0]) for size in (*SIZES, SIZES[0])]
    at = SIZE if aggregate_size == "input" else SIZES[0]
    used = weights or [1.0, 1.0]

    def join(levels):
        up = [resized(level, at) for level in levels]
        if aggregate == "sum":
            joined = sum(w * level for w, level in zip(used, up, strict=True))
        else:
            joined = torch.stack([u**w for w, u in zip(used, up, strict=True)]).prod(dim=0)
        return joined if at == SIZE else resized(joined, SIZE)

    for scale_maps, scale_score, pooling, subspace in WAYS:
        choice, model = MapChoice(scale_maps, scale_score, pooling, (), subspace), plain
        model.chosen = choice
        agrees(model, maps, choice, join)


@pytest.mark.parametrize("weights", [(1.0, 1.0), (1.0, 0.0), (0.3, 2.0)])
def test_rstpm_in_every_way(weights):
    options = {"teacher2": "resnet18", "bottleneck": "learned", "discriminator": False}
    model = models.build("rstpm", **options, **models.without_weights("rstpm"))
    with_means(model)
    sizes = [(12, 8), (6, 4), (3, 2)]
    maps = [random(2, *size, seed=i) for i, size in enumerate([*sizes, *sizes, sizes[1]])]

    def join(levels):
        pairs = zip(levels[:3], levels[3:], strict=True)
        return torch.stack([resized(weights[0] * a + weights[1] * b, SIZE) for a, b in pairs]).prod(
            dim=0
        )

    for scale_maps, scale_score, pooling, subspace in WAYS:
        choice = MapChoice(scale_maps, scale_score, pooling, weights, subspace)
        model.chosen = choice
        agrees(model, maps, choice, join)


def test_a_factor_of_the_score_leaves_the_map(tiny_stpm):
    model = copy.deepcopy(tiny_stpm)
    maps = [random(2, *size) for size in (*SIZES, SIZES[0])]
    plain = model.judge(Evidence(maps), SIZE)
    factor = torch.tensor([0.5, 3.0])
    found = model.judge(Evidence(maps, score_factor=factor), SIZE)
    assert torch.equal(found.score, plain.score * factor)
    assert torch.equal(found.anomaly_map, plain.anomaly_map)


def test_several_shares_are_pooled_as_each_alone():
    maps, shares = random(3, 17, 23), [0.03, 0.0, 1.0, 0.3]
    for share, found in zip(shares, means_of_highest(maps, shares), strict=True):
        torch.testing.assert_close(found, mean_of_highest(maps, share))
        torch.testing.assert_close(found.double(), highest(maps.double(), share))
    assert means_of_highest(maps, []) == []


@pytest.fixture(scope="module")
def with_subspace():
    """STPM with all there is: subspace, position scaling, pooled score, another one for the map."""
    torch.manual_seed(0)
    options = {"layers": ("layer1", "layer2"), "teacher_weights": None}
    model = models.build("stpm", **options).eval()
    batches = [{"image": random(4, 3, 64, 48, seed=i)} for i in range(3)]
    with torch.no_grad():
        model.fit_subspace(model.teacher_features(b["image"])["teacher"] for b in batches)
        model.calibrate_maps(lambda: iter(batches))
    model.choose(MapChoice("position", "none", 0.01, (), True))
    return model


def test_a_copy_keeps_what_was_chosen(with_subspace):
    other, images = copy.deepcopy(with_subspace), random(2, 3, 64, 48, seed=9)
    assert other.choice() == with_subspace.choice()
    other.choose(MapChoice())
    assert other.subspace is None
    assert with_subspace.subspace is not None
    with torch.no_grad():
        plain, full = other(images), with_subspace(images)
    assert not torch.allclose(plain.anomaly_map, full.anomaly_map)


def test_half_precision_is_close(with_subspace):
    images = random(4, 3, 64, 48, seed=9)
    with torch.no_grad():
        exact = with_subspace(images)
        with torch.autocast("cpu", torch.bfloat16):
            found = with_subspace(images)
    torch.testing.assert_close(found.score, exact.score, rtol=0.05, atol=0)
    largest = exact.anomaly_map.max().item()
    torch.testing.assert_close(found.anomaly_map, exact.anomaly_map, rtol=0.1, atol=0.02 * largest)


@pytest.mark.parametrize(("precision", "error"), [("float32", 1e-4), ("int16", 2e-3)])
def test_folded_predictors_are_close(with_subspace, precision, error):
    images = (255 * random(4, 3, 64, 48, seed=9)).to(torch.uint8)
    try:
        predictor = Predictor(
            copy.deepcopy(with_subspace),
            (64, 48),
            threshold=None,
            device="cpu",
            precision=precision,
        )
    except ValueError as refused:
        pytest.skip(str(refused))
    found = predictor.predict(images)
    with torch.no_grad():
        exact = with_subspace(images.float() / 255)
    largest = exact.anomaly_map.max().item()
    torch.testing.assert_close(
        torch.as_tensor(found.score), exact.score, rtol=error, atol=0, check_dtype=False
    )
    torch.testing.assert_close(
        torch.as_tensor(found.anomaly_map), exact.anomaly_map, rtol=0, atol=error * largest
    )


def test_it_exports_with_subspace_and_positions(with_subspace):
    sizes = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(with_subspace, (random(2, 3, 64, 48),), dynamic_shapes=sizes)
    for n in (1, 3):
        images = random(n, 3, 64, 48, seed=9)
        with torch.no_grad():
            found, plain = program.module()(images), with_subspace(images)
        torch.testing.assert_close(found.anomaly_map, plain.anomaly_map)
        torch.testing.assert_close(found.score, plain.score)


@pytest.mark.parametrize(
    "wrong",
    [
        {"scale_maps": "image"},
        {"scale_score": "auto"},
        {"pooling": -0.1},
        {"pooling": 1.5},
        {"pooling": True},
        {"pair_weights": "ab"},
        {"pair_weights": [-1.0]},
        {"subspace": "auto"},
    ],
)
def test_no_such_choice(wrong):
    with pytest.raises(ValueError, match="no such way to join maps: MapChoice"):
        MapChoice(**wrong)


class FourLevels(Net):
    """The last level is a bottleneck, which RSTPM compares with nothing."""

    def __init__(self, levels):
        super().__init__()
        self.third, self.fourth = nn.Conv2d(6, 5, 3, 2, 1), nn.Conv2d(5, 7, 3, 2, 1)
        self.levels = levels

    def forward(self, images):
        first, second = super().forward(images)
        third = self.third(second)
        return [first, second, third, self.fourth(third)][: self.levels]


@pytest.mark.parametrize("kept", [True, False])
def test_rstpm_takes_its_subspace_from_the_levels_that_are_compared(kept):
    torch.manual_seed(0)
    teachers = {"teacher1": FourLevels(4), "teacher2": FourLevels(3)}
    model = models.build("rstpm", discriminator_width=8, subspace=True, **teachers).eval()
    pairs, discriminator = model.stages
    batch = {"image": random(6, 3, 64, 48)}
    model.enter_stage(pairs)
    with torch.no_grad():
        levels = model.teacher_features(batch["image"])
        assert len(levels["teacher1"]) == 4
        model.finish_stage(lambda: [batch | (levels if kept else {})])
        expected = SubspaceResidual(6 + 5)
        expected.fit([patch_features(levels["teacher1"][1:3])])
        assert torch.equal(model.subspace.directions, expected.directions)
        maps = model.level_maps(batch)
        assert len(maps) == len(model.distance_means) == 7
        left = expected(patch_features(levels["teacher1"][1:3]))
        torch.testing.assert_close(maps[-1], left, rtol=1e-4, atol=1e-6)
        model.enter_stage(discriminator)
        model.finish_stage(lambda: pytest.fail("the second stage takes no subspace"))
