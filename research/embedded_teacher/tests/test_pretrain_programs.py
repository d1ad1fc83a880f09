"""What the teacher is pretrained on and chosen by: programs and held-out products."""

import numpy as np
import pytest

from fastad.data.synthesis import FAMILIES as TEXTURES
from research.embedded_teacher import products
from research.embedded_teacher.product_defects import DEFECTS
from research.embedded_teacher.programs import FAMILIES

SIZES = [(64, 64), (33, 70), (90, 41)]
PRODUCTS = range(len(products.NAMES))


def drawn(name, seed, size):
    return FAMILIES[name](np.random.default_rng(seed), *size)


def test_the_families_are_the_textures_and_more():
    assert list(FAMILIES)[: len(TEXTURES)] == list(TEXTURES)
    assert len(FAMILIES) >= len(TEXTURES) + 35
    assert len(set(FAMILIES.values())) == len(FAMILIES)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_gives_varied_pictures_of_any_size(name):
    for size in SIZES:
        pictures = [drawn(name, seed, size) for seed in range(3)]
        for picture in pictures:
            assert (picture.dtype, picture.shape) == (np.uint8, (*size, 3))
        assert len({picture.tobytes() for picture in pictures}) == 3
        # One of three may be nearly plain.
        assert np.median([picture.std((0, 1)).max() for picture in pictures]) > 0.5


@pytest.mark.parametrize("name", FAMILIES)
def test_a_seed_gives_the_same_picture(name):
    assert np.array_equal(drawn(name, 5, (48, 64)), drawn(name, 5, (48, 64)))


def test_products_are_of_many_kinds():
    assert len(products.NAMES) >= 12
    grey = []
    for index in PRODUCTS:
        image, _ = products.render(index, 0, (0, 0))
        grey.append(np.array_equal(image[..., :1].repeat(3, -1), image))
    assert len(PRODUCTS) / 3 <= sum(grey) <= 2 * len(PRODUCTS) / 3


@pytest.mark.parametrize("index", PRODUCTS, ids=products.NAMES)
def test_a_product_set(index):
    made = products.product_set(index, train=2, test=4, seed=3)
    assert made.name == products.NAMES[index]
    shape = (products.SIZE, products.SIZE)
    assert (made.train.dtype, made.train.shape) == (np.uint8, (2, *shape, 3))
    assert (made.test.dtype, made.test.shape) == (np.uint8, (4, *shape, 3))
    assert (made.masks.dtype, made.masks.shape) == (bool, (4, *shape))
    assert made.masks.any((1, 2)).tolist() == [False, False, True, True]
    assert len({image.tobytes() for image in (*made.train, *made.test)}) == 6
    assert made.train.std((1, 2, 3)).min() > 3


@pytest.mark.parametrize("index", PRODUCTS, ids=products.NAMES)
def test_a_defect_changes_nothing_beside_its_mask(index):
    made = products.product_set(index, train=1, test=2)
    good, nothing = products.render(index, 0, (1, 1))
    assert not nothing.any()
    changed = (made.test[1] != good).any(-1)
    assert changed.any()
    assert not (changed & ~made.masks[1]).any()


def test_product_sets_depend_on_their_seed_alone():
    first, again, other = (products.product_set(0, 1, 2, seed) for seed in (4, 4, 5))
    for field in ("train", "test", "masks"):
        assert np.array_equal(getattr(first, field), getattr(again, field))
    assert not np.array_equal(first.train, other.train)


@pytest.mark.parametrize("name", DEFECTS)
def test_a_defect_stays_near_its_place(name):
    drawing = np.random.default_rng(0).random((3, products.SIZE, products.SIZE), np.float32)
    for seed in range(3):
        damaged = DEFECTS[name](np.random.default_rng(seed), drawing, 60, 190, 0.3)
        y, x = np.nonzero((np.abs(damaged - drawing) > products.VISIBLE).any(0))
        assert len(y) > 0
        assert np.hypot(y - 190, x - 60).max() < 120
