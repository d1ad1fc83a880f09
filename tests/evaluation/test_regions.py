"""Region labels of the core against scipy's."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from fastad._extension import _C


def check(mask):
    labels, count = _C.label_regions(mask)
    expected, expected_count = ndimage.label(mask, structure=np.ones((3, 3)))
    assert labels.dtype == np.int32
    assert count == expected_count
    # Both number the regions by their first pixel.
    np.testing.assert_array_equal(labels, expected)


@settings(deadline=None, max_examples=200)
@given(
    seed=st.integers(0, 2**31),
    height=st.integers(1, 30),
    width=st.integers(1, 40),
    density=st.sampled_from([0.05, 0.3, 0.45, 0.7, 0.95]),
)
def test_labels_are_those_of_scipy(seed, height, width, density):
    check(np.random.default_rng(seed).random((height, width)) < density)


@pytest.mark.parametrize("shape", [(1, 1), (1, 17), (17, 1), (8, 8), (3, 64)])
@pytest.mark.parametrize("value", [False, True])
def test_full_and_empty_masks(shape, value):
    check(np.full(shape, value))


def test_regions_that_join_late():
    comb = np.zeros((9, 33), bool)
    comb[:-1, ::2] = True
    check(comb)  # many
    comb[-1] = True
    check(comb)  # one
    u = np.ones((9, 9), bool)
    u[:-1, 1:-1] = False
    check(u)
    check(np.eye(20, dtype=bool))
    check(np.eye(20, dtype=bool) | np.eye(20, dtype=bool)[::-1])


def test_a_spiral_is_one_region():
    n = 41
    spiral = np.zeros((n, n), bool)
    y = x = 0
    dy, dx, spiral[0, 0] = 0, 1, True
    turns = 0
    while turns < 2:
        ahead = (y + dy, x + dx)
        beyond = (y + 2 * dy, x + 2 * dx)
        inside = 0 <= ahead[0] < n and 0 <= ahead[1] < n
        free = not (0 <= beyond[0] < n and 0 <= beyond[1] < n) or not spiral[beyond]
        if inside and free:
            (y, x), turns = ahead, 0
            spiral[y, x] = True
        else:
            dy, dx, turns = dx, -dy, turns + 1
    assert 500 < spiral.sum() < 1000
    check(spiral)
    assert _C.label_regions(spiral)[1] == 1


def test_borders_do_not_wrap_around():
    mask = np.zeros((4, 10), bool)
    mask[0, -1] = mask[1, 0] = mask[3, 0] = True
    check(mask)
    assert _C.label_regions(mask)[1] == 3


def test_a_mask_is_never_converted():
    for mask in (np.zeros((4, 4), np.uint8), np.zeros((4, 8), bool)[:, ::2]):
        with pytest.raises(TypeError, match="incompatible function arguments"):
            _C.label_regions(mask)
    with pytest.raises(ValueError, match=r"mask must be \(H, W\)"):
        _C.label_regions(np.zeros((1, 4, 4), bool))
