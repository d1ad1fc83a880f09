"""The changes of a texture: three of ten, each keeping the size and doing what it says."""

import numpy as np
import pytest
from PIL import Image

from fastad.data.synthesis import AUGMENTATIONS, FAMILIES, augment, augmentations


@pytest.fixture
def texture():
    return FAMILIES["dead_leaves"](np.random.default_rng(2), 48, 70)


def changed(name, texture, seed=1):
    return np.asarray(AUGMENTATIONS[name](Image.fromarray(texture), np.random.default_rng(seed)))


@pytest.mark.parametrize("name", AUGMENTATIONS)
@pytest.mark.parametrize("size", [(48, 70), (33, 32), (200, 40)])
def test_size_and_dtype_stay(name, size):
    texture = FAMILIES["cells"](np.random.default_rng(3), *size)
    for seed in range(5):
        after = changed(name, texture, seed)
        assert (after.dtype, after.shape) == (np.uint8, (*size, 3))
        assert np.array_equal(after, changed(name, texture, seed))


def test_there_are_the_ten_of_draem():
    assert len(AUGMENTATIONS) == 10


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_each_changes_the_texture_itself(name, texture):
    before = texture.copy()
    assert any(not np.array_equal(changed(name, texture, s), texture) for s in range(5))
    assert np.array_equal(texture, before)


def test_invert_is_exact(texture):
    assert np.array_equal(changed("invert", texture), 255 - texture)


def test_solarise_inverts_the_bright(texture):
    after = changed("solarise", texture)
    inverted = after != texture
    assert np.array_equal(after[inverted], 255 - texture[inverted])
    assert texture[inverted].min() >= texture[~inverted & (texture != 127)].max()


def test_posterise_leaves_few_levels(texture):
    levels = [len(np.unique(changed("posterise", texture, seed))) for seed in range(20)]
    assert min(levels) <= 4
    assert max(levels) <= 64


def test_gamma_is_monotone_and_keeps_the_ends():
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
    for seed in range(10):
        after = changed("gamma", ramp, seed).astype(int)
        assert (np.diff(after, axis=1) >= 0).all()
        assert after[0, 0].tolist() == [0, 0, 0]
        assert after[0, 255].tolist() == [255, 255, 255]
        middle = 255 * (128 / 255) ** np.array([2, 0.5])
        assert (after[0, 128] >= middle[0] - 1).all()
        assert (after[0, 128] <= middle[1] + 1).all()


def test_brightness_is_linear_within_its_range():
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
    for seed in range(10):
        after = changed("brightness", ramp, seed).astype(int)
        assert (after <= np.clip(1.2 * ramp + 31, 0, 255)).all()
        assert (after >= np.clip(0.8 * ramp - 31, 0, 255).astype(int)).all()


def test_hue_is_turned_and_grey_stays_nearly_grey():
    grey = np.full((32, 32, 3), 120, np.uint8)
    red = np.zeros((32, 32, 3), np.uint8)
    red[..., 0] = 200
    results = {changed("hue_saturation", red, seed)[0, 0].tobytes() for seed in range(20)}
    assert len(results) > 15
    for seed in range(10):
        assert changed("hue_saturation", grey, seed).max() == 120


def test_rotation_leaves_no_empty_corners():
    plain = np.full((40, 150, 3), 200, np.uint8)
    for seed in range(20):
        assert (changed("rotate", plain, seed) == 200).all()


def test_rotation_turns_about_the_middle():
    cross = np.zeros((41, 41, 3), np.uint8)
    cross[20, 10:31] = 255
    for seed in range(10):
        after = changed("rotate", cross, seed)[..., 0].astype(float)
        y, x = np.nonzero(after > 60)
        assert y.mean() == pytest.approx(20, abs=0.6)
        assert x.mean() == pytest.approx(20, abs=0.6)


def test_exactly_three_different_ones_are_applied(monkeypatch, texture):
    calls = []

    def noting(name):
        def call(image, rng):
            calls.append(name)
            return image

        return call

    for name in AUGMENTATIONS:
        monkeypatch.setitem(AUGMENTATIONS, name, noting(name))
    seen = set()
    for seed in range(80):
        calls.clear()
        assert np.array_equal(augment(texture, np.random.default_rng(seed)), texture)
        assert len(calls) == len(set(calls)) == augmentations.CHANGES == 3
        seen.update(calls)
    assert seen == set(AUGMENTATIONS)
