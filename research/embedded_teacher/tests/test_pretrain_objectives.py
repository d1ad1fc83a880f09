"""Scenes, their defects, and what the terms of the objective want."""

import dataclasses
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fastad import backbones
from research.embedded_teacher import objectives, scenes, training
from research.embedded_teacher.defects import FINE_KINDS, KINDS, VISIBLE, add_defects
from research.embedded_teacher.energies import DIRECTIONS, SIZES, energies
from research.embedded_teacher.objectives import TERMS, Objective
from research.embedded_teacher.scenes import LAYERS, compose, draw_bank


@pytest.fixture(scope="module")
def bank():
    return draw_bank(seed=3, epoch=0, size=40)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_a_bank_follows_from_its_seed_and_epoch(bank):
    assert torch.equal(bank[:3], draw_bank(3, 0, 3))
    assert not torch.equal(bank[:3], draw_bank(3, 1, 3))


def test_views_show_the_same_parts_of_the_textures_or_others(bank):
    def unlike(repeated):
        batch = compose(bank, 12, 64, generator(3), repeated=repeated, nuisance=0.01)
        good = F.max_pool2d(batch.defect, 9, 1, 4) < 0.01
        difference = F.avg_pool2d((batch.first - batch.second).abs(), 3, 1, 1)
        return (difference * good).sum((1, 2, 3)) / good.sum((1, 2, 3))

    assert unlike(1.0).median() < 0.6 * unlike(0.0).median()


def test_nuisance_makes_the_photographs_unlike(bank):
    def unlike(nuisance):
        batch = compose(bank, 12, 64, generator(3), repeated=1.0, nuisance=nuisance)
        return (batch.first - batch.second).abs().mean()

    assert unlike(0.1) < unlike(1.0) < unlike(2.0)


@pytest.mark.parametrize("size", [32, 49])
def test_scenes_follow_from_their_generator(bank, size):
    batch, again, other = (compose(bank, 6, size, generator(s)) for s in (1, 1, 2))
    for field in dataclasses.fields(batch):
        values = [getattr(b, field.name) for b in (batch, again, other)]
        if field.name == "fine":
            continue
        assert torch.equal(values[0], values[1]), field.name
        assert not torch.equal(values[0], values[2]), field.name
    assert batch.first.shape == batch.second.shape == batch.clean.shape == (6, 3, size, size)
    assert batch.sheets.shape == (6, LAYERS)
    assert batch.shares.shape == (6, LAYERS, size, size)
    for values in (batch.first, batch.second, batch.clean, batch.shares, batch.defect):
        assert 0 <= values.min() <= values.max() <= 1.0001
    torch.testing.assert_close(batch.shares.sum(1), torch.ones(6, size, size))


def test_a_scene_is_unchanged_where_it_has_no_defect():
    scenes, strangers = torch.rand(2, 256, 3, 48, 48, generator=generator())
    damaged, mask = add_defects(scenes, strangers, generator(1))
    difference = (damaged - scenes).abs().amax(1, keepdim=True)
    assert difference[mask == 0].max() <= VISIBLE
    there = mask.flatten(1).amax(1) > 0
    assert 0.85 < there.float().mean() < 0.99  # some stay good
    assert mask.mean() < 0.2


def test_fine_surfaces_have_grain_of_their_own(bank):
    torch.manual_seed(0)
    grain = scenes._grain(60, 64, generator())
    strength = grain.std((2, 3, 4))
    there = strength[0] > 0
    assert 0.2 < there.float().mean() < 0.5
    torch.testing.assert_close(strength[0], strength[1])
    assert 0.014 < strength[0][there].min() < strength[0].max() < 0.121
    pieces = grain[:, there].flatten(2)
    assert F.cosine_similarity(pieces[0], pieces[1], dim=-1).abs().max() < 0.2
    batch = compose(bank, 6, 64, generator(), fine=True)
    assert batch.fine
    for values in (batch.first, batch.second, batch.clean):
        assert 0 <= values.min() <= values.max() <= 1


@pytest.mark.parametrize("stride", [4, 8, 16])
def test_a_hair_makes_the_places_that_it_crosses_defective(bank, stride):
    def bad(fine):
        batch = compose(bank, 2, 64, generator(), fine=fine)
        batch.defect.zero_()
        batch.defect[0, 0, :, 21] = 1
        good, bad = objectives._told(batch, stride)
        assert good.sum() == good.numel() - 64 // stride
        return bad

    crossed = torch.zeros(2, 64 // stride, 64 // stride, dtype=torch.bool)
    crossed[0, :, 21 // stride] = True
    assert torch.equal(bad(fine=True), crossed)
    assert not bad(fine=False).any()


def test_fine_lines_are_thinner_and_more_frequent():
    grey = torch.full((400, 3, 64, 64), 0.5)
    coarse, fine = (
        (change(grey, grey, generator()) - 0.5).abs().amax(1) > VISIBLE
        for change in (KINDS[1], FINE_KINDS[1])
    )
    assert fine.sum() < 0.75 * coarse.sum()
    masks = [add_defects(grey, 1 - grey, generator(), fine=fine)[1] for fine in (False, True)]
    assert masks[1].mean() < masks[0].mean()


@pytest.mark.parametrize("change", KINDS)
def test_every_kind_of_defect_changes_a_part_of_a_scene(change):
    rows = torch.linspace(0.2, 0.8, 64).expand(12, 3, 64, 64) + 0.1 * torch.rand(12, 1, 64, 64)
    changed = change(rows, 1 - rows, generator(2))
    differs = ((changed - rows).abs() > VISIBLE).float().mean((1, 2, 3))
    assert (differs > 0).sum() >= 8
    assert differs.mean() < 0.7


@pytest.mark.parametrize("term", TERMS)
def test_every_term_teaches_its_levels(bank, term):
    trunk = backbones.build("resnet18", training.LAYERS)
    objective = Objective(trunk.channels, trunk.strides, {term: 1.0}, len(bank))
    batch = compose(bank, 4, 64, generator())
    images = torch.cat([batch.first, batch.second])
    levels = [level.detach().requires_grad_() for level in trunk(images)]
    first, second = zip(*(level.chunk(2) for level in levels), strict=True)
    loss, logged = objective(list(first), list(second), batch, generator())
    loss.backward()
    assert logged == {term: pytest.approx(loss.item())}
    compared = levels[1:] if term == "ranked" else levels  # as the detector that it is named after
    for level in compared:
        assert level.grad.isfinite().all()
        assert level.grad.abs().sum() > 0


def test_dense_prefers_features_that_tell_places_apart_and_see_defects(bank):
    batch = compose(bank, 4, 64, generator())
    batch.shares[:] = torch.eye(LAYERS)[0].view(1, LAYERS, 1, 1)  # one texture a scene
    batch.sheets[:, 0] = torch.arange(4)
    objective = Objective([4], [8], {"dense": 1.0}, len(bank), projected=False, places_apart=False)
    texture = torch.eye(4)[:, :, None, None].expand(4, 4, 8, 8)
    defect = F.avg_pool2d(batch.defect, 8) > objectives.GOOD

    def loss(second):
        return objective([texture], [second], batch, generator())[0].item()

    blind, seeing = loss(texture), loss(torch.where(defect, -texture, texture))
    assert seeing < 0.01 < blind < loss(texture.flip(1))


def test_dense_can_want_every_place_to_differ(bank):
    batch = compose(bank, 2, 64, generator(), repeated=1.0)
    batch.defect[:] = 0
    places = torch.eye(64).view(1, 64, 8, 8)
    maps = torch.cat([places, torch.zeros_like(places)], 1)
    maps = torch.cat([maps, maps.roll(64, 1)])  # of 128 places every one is a direction of its own

    def loss(maps, **options):
        objective = Objective(
            [128], [8], {"dense": 1.0}, len(bank), temperature=0.05, projected=False, **options
        )
        return objective([maps], [maps], batch, generator())[0].item()

    alike = maps.mean((2, 3), keepdim=True).expand_as(maps)
    assert loss(maps) < 0.01
    assert loss(alike) > 3
    batch.sheets[:] = torch.arange(2)[:, None]
    batch.shares[:] = torch.eye(LAYERS)[0].view(1, LAYERS, 1, 1)
    assert loss(alike, places_apart=False) < 0.01
    batch.repeated[:] = False
    assert loss(alike) < 0.01


def test_spread_counts_what_channels_say_twice(bank):
    batch = compose(bank, 4, 64, generator())
    objective = Objective([3], [8], {"spread": 1.0}, len(bank))

    def loss(maps):
        return objective([maps[:4]], [maps[4:]], batch, generator())[0].item()

    alone = torch.rand(8, 3, 8, 8) * torch.tensor([1.0, 5.0, 0.1]).view(3, 1, 1) + 2
    twice = alone.clone()
    twice[:, 2] = 7 - 3 * alone[:, 0] + alone[:, 2]
    for maps in (alone, twice):
        correlations = np.corrcoef(maps.double().transpose(0, 1).flatten(1).numpy())
        want = np.square(correlations - np.eye(3)).sum() / 3
        assert loss(maps) == pytest.approx(want, rel=1e-3, abs=1e-5)
    assert loss(alone) < 0.05 < 0.6 < loss(twice)


def test_contrast_wants_distance_at_defects_alone(bank):
    batch = compose(bank, 8, 64, generator())
    objective = Objective([3], [8], {"contrast": 1.0}, len(bank))
    maps = torch.rand(8, 3, 8, 8) + 0.1
    defect = F.avg_pool2d(batch.defect, 8) > objectives.DEFECTIVE
    far = torch.stack([maps[:, 1], -maps[:, 0], maps[:, 2] * 0], 1)

    def loss(second):
        return objective([maps], [second], batch, generator())[0].item()

    assert loss(torch.where(defect, far, maps)) < loss(maps) < loss(torch.where(defect, maps, far))


def test_nearest_looks_at_the_whole_other_view(bank):
    batch = compose(bank, 8, 64, generator())
    objective = Objective([3], [8], {"nearest": 1.0}, len(bank))
    maps = torch.rand(8, 3, 8, 8) + 0.1

    def loss(second):
        return objective([maps], [second], batch, generator())[0].item()

    assert loss(maps.flip(3)) == pytest.approx(loss(maps))
    assert loss(-maps) > loss(maps)


def test_energies_tell_direction_and_size():
    x = torch.arange(96.0).expand(96, 96)

    def strongest(image):
        found = energies(image.expand(1, 3, 96, 96), 4)[0, : DIRECTIONS * SIZES, 8:16, 8:16]
        return divmod(int(found.mean((1, 2)).argmax()), DIRECTIONS)

    for size in range(3):
        wave = 0.5 + 0.3 * torch.sin(x * (2 * math.pi / (5 * 2**size)))
        assert strongest(wave) == (size, 0)
        assert strongest(wave.T) == (size, DIRECTIONS // 2)
    flat = energies(torch.full((1, 3, 96, 96), 0.5), 4)
    assert flat.abs().max() < 1e-3


def test_unknown_terms_are_refused():
    with pytest.raises(ValueError, match=r"terms must be among dense, .*got \{'dens': 1\}"):
        Objective([64], [4], {"dens": 1}, 10)
