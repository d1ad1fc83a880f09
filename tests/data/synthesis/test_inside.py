"""Synthesised defects inside a region of interest."""

import numpy as np
import pytest
import torch
from PIL import Image

from fastad.data import PseudoAnomalies, TrialDefects
from fastad.data.synthesis import trial_defect
from fastad.data.synthesis.trial import KINDS, LEAST_PIXELS


@pytest.fixture
def inside():
    mask = np.zeros((96, 64), dtype=bool)
    mask[50:90, 5:30] = True
    return mask


def noise(n=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(100, 156, (n, 3, 96, 64), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("kind", KINDS)
def test_trial_defects_begin_inside_and_are_counted_inside(kind, inside):
    image = noise(1)[0].permute(1, 2, 0).numpy()
    reaches_out = False
    for seed in range(12):
        found, mask = trial_defect(image, kind, "large", np.random.default_rng(seed), inside)
        assert not (mask & ~inside).any()
        assert mask.sum() >= LEAST_PIXELS
        changed = (found != image).any(axis=2)
        assert changed[mask].any()
        reaches_out |= bool((changed & ~inside).any())
    assert reaches_out  # as a real one would
    whole = np.ones_like(inside)
    for seed in range(3):
        results = (
            trial_defect(image, kind, "small", np.random.default_rng(seed), region)
            for region in (None, whole)
        )
        for expected, found in zip(*results, strict=True):
            assert np.array_equal(expected, found)


def test_a_defect_lies_on_the_product_where_that_is_inside():
    image = np.full((96, 64, 3), 20, np.uint8)
    image[20:80, 20:44] = 200  # the product
    inside = np.zeros((96, 64), dtype=bool)
    inside[:30, :] = True
    product = np.zeros_like(inside)
    product[18:32, 18:46] = True
    for seed in range(10):
        _, mask = trial_defect(image, "spot", "small", np.random.default_rng(seed), inside)
        assert (mask & product).any()
    inside[20:30] = False  # no product is inside
    _, mask = trial_defect(image, "spot", "small", np.random.default_rng(0), inside)
    assert mask.any()
    assert not (mask & ~inside).any()


def test_items_of_the_data_sets(inside):
    for item in TrialDefects(noise(), range(6), count=15, inside=inside):
        assert not (item["mask"].numpy() & ~inside).any()
        assert item["mask"].any()
    for options in ({}, {"on_foreground": True}, {"own_patches": 1.0}):
        dataset = PseudoAnomalies(noise(), range(6), inside=inside, clean_share=0.0, **options)
        for item, image in zip(dataset, noise(), strict=True):
            mask = item["mask"].numpy()
            assert mask.any()
            assert not (mask & ~inside).any()
            changed = (item["image"] != image).any(dim=0).numpy()
            assert not (changed & ~inside).any()


def test_real_defects_are_pasted_inside(inside, tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    for i in range(5):
        pixels, mask = np.full((96, 64, 3), 120, np.uint8), np.zeros((96, 64), np.uint8)
        mask[10 + i : 60, 10:50] = 255
        pixels[mask > 0] = 250
        Image.fromarray(pixels).save(tmp_path / "images" / f"{i}.png")
        Image.fromarray(mask).save(tmp_path / "masks" / f"{i}.png")
    dataset = PseudoAnomalies(noise(), range(6), inside=inside, clean_share=0.0, defects=tmp_path)
    real = [i for i in range(6) if dataset.is_real(i)]
    assert real
    for i in real:
        assert not (dataset[i]["mask"].numpy() & ~inside).any()


def test_a_training_with_another_region_is_another(inside):
    prints = {
        PseudoAnomalies(noise(), range(6), inside=region).fingerprint
        for region in (None, inside, ~inside)
    }
    assert len(prints) == 3
