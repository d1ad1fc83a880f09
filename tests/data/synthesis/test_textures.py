"""Generated textures: every family varies, at any size, and depends on the seed alone."""

import numpy as np
import pytest

from fastad.data.synthesis import FAMILIES, random_texture
from fastad.data.synthesis.texture_parts import fractal_noise, palette, smooth_noise, stretched

SIZES = [(64, 64), (33, 47), (160, 64), (47, 200)]


def texture(family, seed, size):
    return FAMILIES[family](np.random.default_rng(seed), *size)


def test_there_are_at_least_twelve_families():
    assert len(FAMILIES) >= 12
    assert len(set(FAMILIES.values())) == len(FAMILIES)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_gives_varied_pictures(family, size):
    pictures = [texture(family, seed, size) for seed in range(12)]
    for picture in pictures:
        assert (picture.dtype, picture.shape) == (np.uint8, (*size, 3))
        assert picture.std(axis=(0, 1)).max() > 0.5
    assert len({picture.tobytes() for picture in pictures}) == 12
    means = np.stack([picture.mean((0, 1)) for picture in pictures])
    assert means.std(0).min() > 15  # colours


@pytest.mark.parametrize("family", FAMILIES)
def test_a_seed_gives_the_same_picture(family):
    assert np.array_equal(texture(family, 5, (64, 64)), texture(family, 5, (64, 64)))


def test_random_textures_come_from_all_families(monkeypatch):
    from fastad.data.synthesis import textures

    drawn = set()

    def noting(name, family):
        def draw(rng, height, width):
            drawn.add(name)
            return family(rng, height, width)

        return draw

    families = tuple(noting(name, family) for name, family in FAMILIES.items())
    monkeypatch.setattr(textures, "_FAMILIES", families)
    for seed in range(150):
        picture = random_texture(np.random.default_rng(seed), 40, 36)
        assert (picture.dtype, picture.shape) == (np.uint8, (40, 36, 3))
    assert drawn == set(FAMILIES)


@pytest.mark.parametrize("grain", [2, 9.5, 40, 400])
def test_smooth_noise_has_the_grain_asked_for(grain):
    fields = [smooth_noise(np.random.default_rng(s), 200, 150, grain) for s in range(30)]
    assert fields[0].shape == (200, 150)
    values = np.stack(fields)
    assert abs(values.mean()) < 0.5
    assert 0.7 < values.std() < 1.4
    if 5 < grain < 100:
        centred = values - values.mean()
        near = (centred[:, :, 1:] * centred[:, :, :-1]).mean() / centred.var()
        far = int(2 * grain)
        distant = (centred[:, :, far:] * centred[:, :, :-far]).mean() / centred.var()
        assert near > 0.9
        assert abs(distant) < 0.2


def test_fractal_noise_is_rougher_where_asked():
    def roughness(r):
        field = stretched(fractal_noise(np.random.default_rng(1), 96, 130, 40, r))
        assert field.shape == (96, 130)
        return np.abs(np.diff(field)).mean()

    assert roughness(0.8) > 1.5 * roughness(0.3)


def test_palettes_have_contrast():
    for seed in range(200):
        colours = palette(np.random.default_rng(seed))
        assert (colours.dtype, colours.shape) == (np.uint8, (256, 3))
        assert np.ptp(colours.max(axis=1).astype(int)) > 0.3 * 255
