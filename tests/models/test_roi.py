"""A region of interest in the models: what is outside of it does not count."""

import copy

import numpy as np
import pytest
import torch
from torch.nn import functional

from fastad import models, ops
from fastad.models.maps import PositionMeans, means_of_highest
from fastad.models.roi import RegionOfInterest, distillation_loss, mean_inside


def mask_of(height, width):
    """An L, which touches two edges."""
    mask = torch.zeros(height, width, dtype=torch.bool)
    mask[height // 4 : height // 2, : 2 * width // 3] = True
    mask[height // 3 :, width // 2 : 2 * width // 3] = True
    return mask


def images(n, height, width, seed=0):
    return torch.rand(n, 3, height, width, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def own(small_model):
    """A copy to change."""
    return copy.deepcopy(small_model)


@pytest.mark.parametrize("size", [(64, 48), (47, 61)])
def test_the_map_is_zero_outside_and_as_before_inside(own, size):
    x, mask = images(2, *size), mask_of(*size)
    with torch.no_grad():
        before = own(x)
        own.set_roi(mask)
        found = own(x)
    assert (found.anomaly_map[:, ~mask] == 0).all()
    if own.name in ("stpm", "rstpm", "patchcore", "subspace"):  # of others the networks know it
        assert torch.equal(found.anomaly_map[:, mask], before.anomaly_map[:, mask])
    if own.name in ("stpm", "gtrans"):
        assert torch.equal(found.score, found.anomaly_map[:, mask].amax(dim=1))
    own.set_roi(torch.ones(size, dtype=torch.bool))
    with torch.no_grad():
        everything = own(x)
    if own.name != "gtrans" or size == (64, 48):  # its index weighs places of such a size unevenly
        torch.testing.assert_close(everything.anomaly_map, before.anomaly_map)
        torch.testing.assert_close(everything.score, before.score)
    own.set_roi(None)
    with torch.no_grad():
        assert torch.equal(own(x).score, before.score)


def test_scores_pool_the_highest_pixels_inside():
    maps, mask = images(2, 30, 20)[:, 0].double(), mask_of(30, 20)
    roi = RegionOfInterest(mask)
    shares = [0.0, 0.05, 0.3, 1.0]
    for share, found in zip(shares, means_of_highest(maps, shares, roi), strict=True):
        for one, score in zip(maps, found, strict=True):
            inside = np.sort(one[mask].numpy())[::-1]
            expected = inside[: max(round(share * len(inside)), 1)].mean()
            assert score.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("size", "level"), [((64, 48), (16, 12)), ((47, 61), (6, 8))])
def test_places_weigh_what_pixels_inside_take_of_them(size, level):
    mask = mask_of(*size)
    roi = RegionOfInterest(mask)
    maps = images(2, *level)[:, 0]
    full = functional.interpolate(maps[:, None].double(), size, mode="bilinear")[:, 0]
    expected = full[:, mask].mean(dim=1)
    torch.testing.assert_close(mean_inside(maps, roi).double(), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(mean_inside(full, roi), expected)
    assert roi.weights(level).sum().item() == pytest.approx(int(mask.sum()), rel=1e-5)
    # Values at places that do not count change nothing inside.
    changed = torch.where(roi.weights(level) > 0, maps, 1e6)
    again = functional.interpolate(changed[:, None].double(), size, mode="bilinear")[:, 0]
    assert torch.equal(again[:, mask], full[:, mask])


def test_a_small_region_has_a_place_of_every_level():
    mask = torch.zeros(64, 64, dtype=torch.bool)
    mask[9, 10] = True
    roi = RegionOfInterest(mask)
    held = roi.holds((4, 4))
    assert held.nonzero().tolist() == [[0, 0]]  # the centre of its cell is nearest
    assert roi.holds((64, 64)).equal(mask)


def test_an_all_white_region_changes_no_loss():
    teacher, student = (
        [torch.randn(2, 5, *size, generator=torch.Generator().manual_seed(s)) for size in sizes]
        for s, sizes in ((0, [(16, 12), (8, 6)]), (1, [(16, 12), (8, 6)]))
    )
    roi = RegionOfInterest(torch.ones(32, 24, dtype=torch.bool))
    expected = ops.distillation_loss(teacher, student, level_weights=[2.0, 3.0])
    found = distillation_loss(teacher, student, roi, level_weights=[2.0, 3.0])
    torch.testing.assert_close(found, expected)
    each = distillation_loss(teacher, student, roi, level_weights=[2.0, 3.0], reduction="none")
    torch.testing.assert_close(each.sum(), expected)


def test_the_loss_is_that_of_the_places_inside():
    generator = torch.Generator().manual_seed(0)
    teacher, student = (
        [torch.randn(3, 5, *size, generator=generator).double() for size in ((16, 12), (7, 6))]
        for _ in range(2)
    )
    mask = mask_of(32, 24)
    roi = RegionOfInterest(mask)
    for level in student:
        level.requires_grad_()
    loss = distillation_loss(teacher, student, roi, level_weights=[2.0, 1.0])
    expected = 0.0
    for weight, t, s in zip([2.0, 1.0], teacher, student, strict=True):
        difference = functional.normalize(t, dim=1) - functional.normalize(s, dim=1)
        distance = difference.square().sum(dim=1) / 2
        full = functional.interpolate(distance[:, None], mask.shape, mode="bilinear")[:, 0]
        expected = expected + weight * full[:, mask].mean()
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-7)
    for level, gradient in zip(student, torch.autograd.grad(loss, student), strict=True):
        counts = roi.weights(level.shape[2:]) > 0
        assert (gradient[:, :, ~counts] == 0).all()
        assert (gradient[:, :, counts] != 0).any()


def test_means_of_positions_outside_are_those_of_inside():
    mask = mask_of(64, 64)
    roi = RegionOfInterest(mask)
    maps = images(4, 64, 64)[:, 0]
    means = PositionMeans(roi)
    means.add(torch.where(mask, maps, 1e6))
    others = PositionMeans(roi)
    others.add(torch.where(mask, maps, -1e6))
    found = means.result()
    assert torch.equal(found, others.result())
    mean = maps[:, mask].mean()
    torch.testing.assert_close(found[~mask], mean.expand(int((~mask).sum())))
    expected = (maps.sum(dim=0) + 2 * mean) / 6
    torch.testing.assert_close(found[mask], expected[mask])


def batch_of(mask, n=2, seed=1):
    defects = torch.zeros(n, *mask.shape, dtype=torch.bool)
    defects[: n // 2, 10:30, 8:40] = True
    return {"image": images(n, *mask.shape, seed=seed), "mask": defects}


@pytest.mark.parametrize("name", ["stpm", "rstpm", "gtrans"])
def test_loss_and_validation_are_of_the_places_inside(own, name, monkeypatch):
    if own.name != name:
        pytest.skip("another model")
    if name != "gtrans":
        monkeypatch.setattr(own.config, "hard", 0.0)
    own.set_roi(mask_of(64, 48))
    own.enter_stage(own.stages[0])
    batch = batch_of(own.roi.mask)
    teachers, students = own.features(batch["image"])
    levels = ops.distances(teachers, students, eps=own.config.eps)
    factor = 1 / len(levels) if name == "gtrans" else 2
    expected = factor * sum(mean_inside(level, own.roi).mean() for level in levels)
    torch.testing.assert_close(sum(own.loss(batch).values()), expected)
    plain, distances = own.validation_score(batch), ops.distances

    def louder_outside(*args, **options):
        maps = distances(*args, **options)
        return [m + 1e6 * (own.roi.weights(tuple(m.shape[1:])) == 0) for m in maps]

    monkeypatch.setattr(ops, "distances", louder_outside)
    torch.testing.assert_close(own.validation_score(batch), plain)


def test_masks_outside_do_not_count_in_the_loss_of_pseudo_anomalies(own):
    if own.name not in ("rstpm", "prn"):
        pytest.skip("it learns from good images alone")
    mask = mask_of(64, 48)
    own.set_roi(mask)
    own.enter_stage(own.stages[-1])
    if own.name == "rstpm":  # it begins with one probability everywhere
        torch.nn.init.normal_(own.discriminator.head.weight)
    batch = batch_of(mask)
    with torch.no_grad():
        plain = own.loss(batch), own.validation_score(batch)
        inside = batch["mask"] & mask
        other = own.loss(batch | {"mask": inside})
        assert plain[0].keys() == other.keys()
        for name, value in other.items():
            torch.testing.assert_close(value, plain[0][name])
        torch.testing.assert_close(own.validation_score(batch | {"mask": inside}), plain[1])
        changed = own.loss(batch | {"mask": torch.zeros_like(inside)})
        assert any(changed[name] != value for name, value in plain[0].items())


def test_utad_knows_nothing_of_what_is_outside(own):
    if own.name != "utad":
        pytest.skip("another model")
    mask = mask_of(64, 48)
    own.set_roi(mask)
    x = images(2, 64, 48)
    other = torch.where(mask, x, images(2, 64, 48, seed=5))
    with torch.no_grad():
        first, second = own(x), own(other)
    assert torch.equal(first.score, second.score)
    assert torch.equal(first.anomaly_map, second.anomaly_map)


@pytest.mark.parametrize(
    ("name", "options"),
    [("subspace", {}), ("patchcore", {}), ("patchcore", {"joint": True, "unit": False})],
)
def test_patches_outside_are_not_remembered(name, options, monkeypatch):
    model = models.build(name, backbone="resnet18", teacher_weights=None, **options).eval()
    model.set_roi(mask_of(64, 64))
    widths = [memory.vectors.shape[1] for memory in getattr(model, "memories", ())] or [model.width]
    generator = torch.Generator().manual_seed(0)
    sides = (8, 6, 4)
    features = [
        torch.randn(2, width, side, side, generator=generator)
        for width, side in zip(widths, sides, strict=False)
    ]
    model.levels_of = lambda batch: features
    monkeypatch.setattr("fastad.models.subspace.patch_features", lambda levels: levels[0])
    model.patches_of_memories = lambda levels: features
    before = learned(model)
    for rows, of_level in zip(before, features, strict=True):
        counts = model.roi.weights(tuple(of_level.shape[2:])) > 0
        assert not counts.all()
        if name == "patchcore":  # all that is there fits into a memory
            assert len(rows) == 2 * int(counts.sum())
        of_level[:, :, ~counts] = 1e3
    for rows, again in zip(before, learned(model), strict=True):
        assert torch.equal(rows, again)


def learned(model):
    torch.manual_seed(0)  # a coreset begins at random
    model.prepare_stage(lambda: [{"image": None}], lambda: [])
    if model.name == "subspace":
        return [model.residual.offset.clone()]
    return [memory.vectors.clone() for memory in model.memories]


def test_the_patch_that_gives_patchcore_its_score_is_inside():
    model = models.build("patchcore", backbone="resnet18", teacher_weights=None, joint=True)
    mask = torch.zeros(64, 64, dtype=torch.bool)
    mask[:, :32] = True
    model.set_roi(mask)
    distances = torch.rand(2, 8, 8, generator=torch.Generator().manual_seed(0))
    _, maxima = model.join([distances], [], (64, 64))
    assert torch.equal(maxima, distances[:, :, :4].amax(dim=(1, 2)))


def test_prototypes_go_by_what_is_inside():
    model = models.build("prn", backbone="resnet18", bottleneck="learned", teacher_weights=None)
    mask = mask_of(64, 64)
    model.set_roi(mask)
    generator = torch.Generator().manual_seed(0)
    levels = [
        torch.randn(6, c, s, s, generator=generator) for c, s in ((64, 16), (128, 8), (256, 4))
    ]
    model.prototypes.fit(lambda: [{"teacher": levels}], "teacher", 0.5, 10, roi=model.roi)
    found = model.prototypes(levels, model.roi)
    changed = []
    for level, residual in zip(levels, found, strict=True):
        counts = model.roi.weights(level.shape[2:]) > 0
        assert (residual[:, :, ~counts] == 0).all()
        changed.append(torch.where(counts, level, 1e3))
    for one, other in zip(found, model.prototypes(changed, model.roi), strict=True):
        assert torch.equal(one, other)
    before = copy.deepcopy(model)
    model.set_roi(mask)  # the same again
    for one, other in zip(before.prototypes.buffers(), model.prototypes.buffers(), strict=True):
        torch.testing.assert_close(one, other)


def test_a_region_goes_with_the_model(own):
    mask = mask_of(64, 48)
    own.set_roi(mask)
    own.train()
    assert torch.equal(own.state_dict()["roi.mask"], mask)
    assert "roi.mask" in own.trained_state()
    assert copy.deepcopy(own).double().roi.mask.dtype == torch.bool


@pytest.mark.slow
def test_it_exports_as_one_graph_with_its_region(own):
    own.set_roi(mask_of(64, 48))
    sizes = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(own, (images(2, 64, 48),), dynamic_shapes=sizes)
    with torch.no_grad():
        for n in (1, 3):
            x = images(n, 64, 48, seed=n)
            found, expected = program.module()(x), own(x)
            torch.testing.assert_close(found.anomaly_map, expected.anomaly_map)
            torch.testing.assert_close(found.score, expected.score)
