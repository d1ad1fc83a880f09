"""Defects made of the image's own patches."""

import numpy as np
import pytest
import torch

from fastad.data.synthesis import own_patches as module
from fastad.data.synthesis import synthesize
from fastad.data.synthesis.own_patches import own_patches


def unchanged(image, rng):
    return image


@pytest.mark.parametrize("shape", [(64, 64), (67, 45), (32, 100), (8, 9)])
def test_every_patch_is_there_once(shape, monkeypatch):
    monkeypatch.setattr(module, "augment", unchanged)
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3)).astype(np.uint8)
    before = image.copy()
    result = own_patches(image, np.random.default_rng(1))
    assert np.array_equal(image, before)
    height, width = shape[0] // 8, shape[1] // 8
    rows, columns = shape[0] // height, shape[1] // width

    def patches(picture):
        return sorted(
            picture[r * height : (r + 1) * height, c * width : (c + 1) * width].tobytes()
            for r in range(rows)
            for c in range(columns)
        )

    assert patches(result) == patches(image)
    assert not np.array_equal(result, image)
    rest = np.ones(shape, bool)
    rest[: rows * height, : columns * width] = False
    assert np.array_equal(result[rest], image[rest])


def test_they_are_taken_as_often_as_asked_for():
    image = torch.zeros(3, 48, 48, dtype=torch.uint8)  # whose patches have one colour each

    def stripes(rng, height, width):
        return np.tile(np.uint8([0, 255]), (height, width // 2))[..., None].repeat(3, 2)

    plain = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        result, mask = synthesize(image, rng, textures=stripes, own_patches=0.7, opacity=(0, 0))
        plain += len(result[:, mask].unique(dim=1).T) == 1
    assert 30 <= plain <= 54  # 42 on average


def test_without_them_nothing_changes():
    image = torch.randint(0, 256, (3, 48, 48)).to(torch.uint8)
    one, _ = synthesize(image, np.random.default_rng(3))
    other, _ = synthesize(image, np.random.default_rng(3), own_patches=0.0)
    assert torch.equal(one, other)
    with pytest.raises(ValueError, match=r"own_patches must be in \[0, 1\]; got 2"):
        synthesize(image, np.random.default_rng(3), own_patches=2)
