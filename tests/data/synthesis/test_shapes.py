"""Masks of every shape: never empty, at any size; strokes and spots are thin and small."""

import numpy as np
import pytest
from scipy import ndimage

from fastad.data.synthesis import SHAPES, draw_mask, shapes


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [(256, 256), (320, 128), (33, 47), (32, 32)])
def test_masks_are_never_empty(shape, size):
    for seed in range(60):
        mask = draw_mask(size, np.random.default_rng(seed), (shape,))
        assert (mask.dtype, mask.shape) == (bool, size)
        assert mask.sum() >= shapes.MIN_PIXELS
        assert mask.mean() < 0.6
        assert np.array_equal(mask, draw_mask(size, np.random.default_rng(seed), (shape,)))


def widths(mask: np.ndarray) -> float:
    """Largest width of what is marked, in pixels."""
    return 2 * ndimage.distance_transform_edt(np.pad(mask, 1)).max() - 1


def test_strokes_are_thin_and_unbroken():
    thin, longest = [], 0.0
    for seed in range(100):
        mask = draw_mask((256, 256), np.random.default_rng(seed), ("strokes",))
        thin.append(widths(mask))
        regions, count = ndimage.label(mask, np.ones((3, 3)))
        assert count <= 9  # three, with two branches each
        rows, columns = ndimage.find_objects(regions)[0]
        extent = np.hypot(rows.stop - rows.start, columns.stop - columns.start)
        longest = max(longest, extent)
    assert np.median(thin) <= 4
    assert max(thin) < 9  # where strokes cross
    assert min(thin) == 1
    assert longest > 128


def test_spots_are_small():
    sizes = [draw_mask((256, 256), np.random.default_rng(s), ("spots",)).sum() for s in range(100)]
    assert max(sizes) < 0.03 * 256 * 256
    assert min(sizes) < 30


def test_several_shapes_are_mixed_evenly(monkeypatch):
    counts = dict.fromkeys(SHAPES, 0)

    def counting(name):
        def draw(size, rng):
            counts[name] += 1
            return np.ones(size, bool)

        return draw

    for name in SHAPES:
        monkeypatch.setitem(SHAPES, name, counting(name))
    for seed in range(300):
        draw_mask((32, 32), np.random.default_rng(seed), tuple(SHAPES))
    assert min(counts.values()) > 60


def test_a_shape_that_stays_empty_gives_a_blob(monkeypatch):
    monkeypatch.setitem(SHAPES, "perlin", lambda size, rng: np.zeros(size, bool))
    for size in [(32, 32), (640, 256)]:
        for seed in range(20):
            mask = draw_mask(size, np.random.default_rng(seed))
            assert shapes.MIN_PIXELS <= mask.sum() < 0.06 * mask.size
            assert ndimage.label(mask)[1] == 1
