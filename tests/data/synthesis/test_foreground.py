"""The product in an image, its background, and defects that keep to it."""

import numpy as np
import pytest
import torch

from fastad.data.synthesis import foreground, synthesize


def picture(background, product, noise=6, shape=(96, 80), seed=0):
    """A disc with a hole of the background's colour on an even background, with noise."""
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    far = np.hypot(rows - shape[0] / 2, columns - shape[1] / 2)
    disc = (far < 0.35 * min(shape)) & (far > 4)
    image = np.where(disc[..., None], product, background).astype(float)
    image += np.random.default_rng(seed).normal(0, noise, image.shape)
    return np.uint8(np.clip(image, 0, 255)), far < 0.35 * min(shape)


@pytest.mark.parametrize(
    ("background", "product"),
    [
        ((240, 240, 240), (30, 30, 40)),
        ((20, 20, 20), (150, 150, 150)),
        ((90, 90, 90), (90, 90, 200)),
    ],
)
def test_a_product_on_an_even_background(background, product):
    image, expected = picture(background, product)
    found = foreground(image)
    assert found.dtype == bool
    union = (found | expected).sum()
    assert (found & expected).sum() > 0.9 * union  # the hole belongs to it


@pytest.mark.parametrize("kind", ["texture", "flat", "half", "tiny"])
def test_without_a_background_all_is_product(kind):
    rng = np.random.default_rng(1)
    image = np.full((64, 64, 3), 128, np.uint8)
    if kind == "texture":
        image = rng.integers(0, 256, image.shape).astype(np.uint8)
    elif kind == "half":
        image[:, :32] = 20
    elif kind == "tiny":
        image[30:33, 30:33] = 255
    assert foreground(image).all()


def test_synthesised_defects_keep_to_the_product():
    image, _ = picture((240, 240, 240), (30, 30, 40))
    tensor = torch.from_numpy(image).permute(2, 0, 1)
    allowed = torch.from_numpy(foreground(image))
    outside = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        result, mask = synthesize(tensor, rng, on_foreground=True)
        assert mask.any()
        assert not (mask & ~allowed).any()
        assert torch.equal(result[:, ~mask], tensor[:, ~mask])
        _, free = synthesize(tensor, np.random.default_rng(seed))
        outside += bool((free & ~allowed).any())
    assert outside > 10
