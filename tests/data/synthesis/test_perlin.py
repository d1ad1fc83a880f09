"""Perlin noise against its definition, pixel by pixel; the masks cut from it."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastad.data.synthesis import perlin_mask, perlin_noise


def definition(shape, scales, rng) -> np.ndarray:
    """Perlin's noise in float64: at each pixel, the four gradients' dot products, faded."""
    lattice = [math.ceil(scale) + 1 for scale in scales]
    angles = rng.uniform(0, 2 * np.pi, lattice)
    noise = np.zeros(shape)

    def fade(t: float) -> float:
        return 6 * t**5 - 15 * t**4 + 10 * t**3

    def mix(a: float, b: float, t: float) -> float:
        return a + fade(t) * (b - a)

    for i in range(shape[0]):
        for j in range(shape[1]):
            y, x = i * scales[0] / shape[0], j * scales[1] / shape[1]
            top, left = math.floor(y), math.floor(x)
            dots = {}
            for a in (0, 1):
                for b in (0, 1):
                    angle = angles[top + a, left + b]
                    dots[a, b] = (y - top - a) * math.sin(angle) + (x - left - b) * math.cos(angle)
            upper = mix(dots[0, 0], dots[0, 1], x - left)
            lower = mix(dots[1, 0], dots[1, 1], x - left)
            noise[i, j] = math.sqrt(2) * mix(upper, lower, y - top)
    return noise


@settings(deadline=None, max_examples=40)
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    down=st.floats(0.3, 9),
    across=st.floats(0.3, 9),
    seed=st.integers(0, 2**32),
)
def test_noise_is_perlins(height, width, down, across, seed):
    noise = perlin_noise((height, width), (down, across), np.random.default_rng(seed))
    expected = definition((height, width), (down, across), np.random.default_rng(seed))
    assert (noise.dtype, noise.shape) == (np.float32, (height, width))
    np.testing.assert_allclose(noise, expected, atol=2e-6)


@pytest.mark.parametrize("scales", [(1, 1), (2, 32), (16, 8)])
def test_noise_is_zero_at_lattice_points_and_nowhere_beyond_one(scales):
    noise = perlin_noise((64, 96), scales, np.random.default_rng(0))
    assert not noise[:: 64 // scales[0], :: 96 // scales[1]].any()
    assert 0.3 < np.abs(noise).max() <= 1


def test_noise_reaches_one_where_four_gradients_meet():
    class Inward:
        def uniform(self, low, high, size):
            quarter = np.array([[1, 3], [7, 5]]) * np.pi / 4  # from each corner to the middle
            return quarter

    noise = perlin_noise((64, 64), (1, 1), Inward())
    assert noise.max() == pytest.approx(1)
    assert noise[32, 32] == noise.max()


@pytest.mark.parametrize(("shape", "scales"), [((0, 4), (1, 1)), ((4, 4), (0, 1))])
def test_noise_of_nothing_is_refused(shape, scales):
    with pytest.raises(ValueError, match="shape and scales must be positive"):
        perlin_noise(shape, scales, np.random.default_rng(0))


@pytest.mark.parametrize("shape", [(256, 256), (320, 128), (33, 47)])
def test_masks_cover_a_small_part(shape):
    masks = np.stack([perlin_mask(shape, np.random.default_rng(s)) for s in range(300)])
    assert (masks.dtype, masks.shape[1:]) == (bool, shape)
    fractions = masks.mean((1, 2))
    assert 0.04 < fractions.mean() < 0.07
    assert np.quantile(fractions, 0.9) < 0.15


def test_masks_are_as_likely_at_edges_and_in_corners_as_in_the_middle():
    often = np.mean([perlin_mask((64, 64), np.random.default_rng(s)) for s in range(2500)], 0)
    middle = often[16:-16, 16:-16].mean()
    for edge in (often[:3], often[-3:], often[:, :3], often[:, -3:]):
        assert edge.mean() == pytest.approx(middle, rel=0.1)
    corners = (often[:4, :4], often[:4, -4:], often[-4:, :4], often[-4:, -4:])
    assert np.mean(corners) == pytest.approx(middle, rel=0.15)


def test_masks_are_drawn_at_all_angles_and_sizes():
    from scipy import ndimage

    counts, angles = [], []
    for seed in range(200):
        mask = perlin_mask((128, 128), np.random.default_rng(seed))
        regions, count = ndimage.label(mask)
        counts.append(count)
        y, x = np.nonzero(regions == np.bincount(regions[mask], minlength=1).argmax())
        if count and len(y) > 50:
            across, down = np.linalg.eigh(np.cov(x, y))[1][:, -1]
            angles.append(math.atan2(down, across) % math.pi)
    assert min(counts) <= 1
    assert np.quantile(counts, 0.5) > 3
    assert max(counts) > 100
    assert np.histogram(angles, 6, (0, math.pi))[0].min() > len(angles) / 20
