"""Defects to try a detector on: where they are, how large, and that they are always the same."""

import numpy as np
import pytest
import torch

from fastad.data import TrialDefects
from fastad.data.synthesis import trial, trial_defect
from fastad.data.synthesis.trial import KINDS, SIZES


def noise(shape: tuple[int, int], seed: int = 0, grey: bool = False) -> np.ndarray:
    rng = np.random.default_rng(seed)
    image = rng.normal(128, 12, (*shape, 1 if grey else 3)).clip(0, 255).astype(np.uint8)
    return np.broadcast_to(image, (*shape, 3)).copy()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("shape", [(256, 256), (160, 416), (33, 47), (32, 32)])
def test_a_defect_is_where_its_mask_is(kind, size, shape):
    for seed in range(8):
        image = noise(shape, seed)
        found, mask = trial_defect(image, kind, size, np.random.default_rng(seed))
        assert (found.shape, found.dtype, mask.shape, mask.dtype) == (
            (*shape, 3),
            np.uint8,
            shape,
            bool,
        )
        assert mask.sum() >= trial.LEAST_PIXELS
        changed = (found != image).any(axis=2)
        assert (changed & mask).sum() >= 0.8 * mask.sum()  # small gaps were closed
        clear = np.abs(found.astype(int) - image).max(axis=2) >= trial.LEAST_CHANGE
        assert not (clear & ~mask).any()
        again, _ = trial_defect(image, kind, size, np.random.default_rng(seed))
        assert np.array_equal(found, again)


@pytest.mark.parametrize("kind", KINDS)
def test_a_larger_size_covers_more(kind):
    areas = {
        size: np.median(
            [
                trial_defect(noise((256, 256), seed), kind, size, np.random.default_rng(seed))[
                    1
                ].sum()
                for seed in range(20)
            ]
        )
        for size in SIZES
    }
    assert areas["small"] < areas["medium"] < areas["large"] < 0.2 * 256**2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [0, 128, 255])
def test_an_even_image_gets_a_defect_too_and_a_grey_one_stays_grey(kind, value):
    image = np.full((64, 64, 3), value, np.uint8)
    for seed in range(8):
        found, mask = trial_defect(image, kind, "medium", np.random.default_rng(seed))
        assert mask.sum() >= trial.LEAST_PIXELS
        assert (found == found[..., :1]).all()
    image = noise((64, 64), grey=True)
    found, _ = trial_defect(image, kind, "large", np.random.default_rng(0))
    assert (found == found[..., :1]).all()


def test_defects_lie_on_the_product():
    image = np.full((128, 128, 3), 250, np.uint8)
    image[32:96, 32:96] = noise((64, 64))
    for seed in range(30):
        _, mask = trial_defect(image, "spot", "small", np.random.default_rng(seed))
        assert np.argwhere(mask).min() >= 32 - 8
        assert np.argwhere(mask).max() < 96 + 8


def test_the_data_set_holds_every_kind_and_size_in_turn():
    images = torch.from_numpy(np.stack([noise((48, 64), s) for s in range(7)]))
    images = images.permute(0, 3, 1, 2).contiguous()
    defects = TrialDefects(images, [1, 3, 4], count=30, seed=5)
    assert len(defects) == 30
    pairs = [(defects.kind(i), defects.size(i)) for i in range(15)]
    assert len(set(pairs)) == 15
    assert defects.is_fixed
    for i in (0, 7, 29):
        item = defects[i]
        source = images[[1, 3, 4][i % 3]]
        assert item["image"].dtype == torch.uint8
        assert item["mask"].dtype == torch.bool
        assert not torch.equal(item["image"], source)
        assert torch.equal(
            item["image"], TrialDefects(images, [1, 3, 4], count=30, seed=5)[i]["image"]
        )
    other = TrialDefects(images, [1, 3, 4], count=30, seed=6)
    assert not torch.equal(other[0]["image"], defects[0]["image"])


def test_floating_images_keep_their_bits_outside_the_defect():
    images = torch.rand(2, 3, 40, 40)
    item = TrialDefects(images, [1], count=2)[0]
    assert item["image"].dtype == torch.float32
    assert (item["image"] == images[1]).all(dim=0).float().mean() > 0.5
    assert item["image"].min() >= 0
    assert item["image"].max() <= 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "crack"}, "kind must be one of scratch"),
        ({"size": "huge"}, "size one of small"),
        (
            {"image": np.zeros((64, 64), np.uint8)},
            r"image must be \(H, W, 3\) uint8; got \(64, 64\)",
        ),
        ({"image": np.zeros((31, 64, 3), np.uint8)}, "at least 32 pixels"),
    ],
)
def test_what_cannot_be_is_refused(arguments, message):
    given = {"image": noise((64, 64)), "kind": "spot", "size": "small"} | arguments
    with pytest.raises(ValueError, match=message):
        trial_defect(**given, rng=np.random.default_rng(0))


def test_a_data_set_needs_images_and_a_count():
    images = torch.zeros(2, 3, 32, 32)
    with pytest.raises(ValueError, match="no image to put a defect into"):
        TrialDefects(images, [])
    with pytest.raises(ValueError, match="count must be a whole number"):
        TrialDefects(images, [0], count=0)
    with pytest.raises(IndexError, match="no item 3 among 3"):
        TrialDefects(images, [0], count=3)[3]
