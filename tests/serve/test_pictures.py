"""The pictures of the store, read by Pillow."""

import io

import numpy as np
import pytest
from PIL import Image

from fastad.serve.pictures import packed_map, packed_mask

SHAPES = [(1, 1), (1, 9), (7, 8), (33, 17), (256, 224)]


def pixels(content, mode):
    Image.open(io.BytesIO(content)).verify()  # the check sums
    image = Image.open(io.BytesIO(content))
    assert image.mode == mode
    return np.asarray(image)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_map_is_its_256_levels(shape):
    rng = np.random.default_rng(0)
    anomaly_map = rng.normal(0.5, 0.5, shape).astype(np.float32)  # also beyond the scale
    share = np.clip(anomaly_map.astype(np.float64) / 0.8, 0, 1)
    levels = pixels(packed_map(anomaly_map, 0.8), "L")
    assert np.abs(levels - share * 255).max() <= 0.5 + 1e-4


@pytest.mark.parametrize("shape", SHAPES)
def test_a_mask_is_exact(shape):
    mask = np.random.default_rng(0).random(shape) < 0.3
    np.testing.assert_array_equal(pixels(packed_mask(mask), "1"), mask)


def test_a_smooth_map_is_compressed():
    across = np.linspace(0, 1, 256, dtype=np.float32)
    smooth = np.outer(np.sin(9 * across) ** 2, across)
    assert len(packed_map(smooth, 1.0)) < smooth.size / 2
