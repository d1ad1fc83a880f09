"""Split, order and loading of images."""

import random

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from fastad.training.batches import (
    read_batch,
    shuffled_batches,
    split_indices,
    split_off,
    to_device,
)

CPU = torch.device("cpu")


def load_batch(dataset, indices, memory_format=torch.contiguous_format):
    return to_device(read_batch(dataset, indices), CPU, memory_format)


@pytest.mark.parametrize(
    ("size", "fraction", "held_out"),
    [(209, 0.2, 42), (10, 0.2, 2), (2, 0.2, 1), (3, 0.01, 1), (2, 0.9, 1), (1, 0.2, 0), (9, 0, 0)],
)
def test_every_image_is_on_one_side(size, fraction, held_out):
    train, validation = split_indices(size, fraction, seed=3)
    assert len(validation) == held_out
    assert sorted([*train.tolist(), *validation.tolist()]) == list(range(size))


def test_the_split_is_a_function_of_the_seed():
    first, again, other = (split_indices(100, 0.2, seed)[1].tolist() for seed in (5, 5, 6))
    assert first == again != other
    torch.manual_seed(9)
    assert split_indices(100, 0.2, 5)[1].tolist() == first


@pytest.mark.parametrize(
    ("count", "batch_size", "sizes"),
    [(8, 4, [4, 4]), (10, 4, [4, 4, 2]), (9, 4, [4, 4]), (1, 4, [1]), (3, 1, [1, 1, 1])],
)
def test_a_single_last_image_is_left_out(count, batch_size, sizes):
    indices = torch.arange(count) * 10
    batches = shuffled_batches(indices, batch_size, torch.Generator().manual_seed(0))
    assert [len(b) for b in batches] == sizes
    seen = torch.cat(batches).tolist()
    assert len(set(seen)) == len(seen)
    assert set(seen) <= set(indices.tolist())


@pytest.mark.parametrize("kind", ["tensor", "items", "dicts", "floats"])
def test_images_become_floats_between_0_and_1(kind):
    images = torch.randint(0, 256, (5, 3, 4, 6), dtype=torch.uint8)
    dataset = {
        "tensor": images,
        "items": list(images),
        "dicts": [{"image": i, "mask": i[:1], "path": "a.png"} for i in images],
        "floats": images / 255,
    }[kind]
    batch = load_batch(dataset, [4, 1], torch.channels_last)
    torch.testing.assert_close(batch["image"], images[[4, 1]] / 255)
    assert batch["image"].is_contiguous(memory_format=torch.channels_last)
    assert set(batch) == ({"image", "mask"} if kind == "dicts" else {"image"})
    if kind == "dicts":
        assert torch.equal(batch["mask"], images[[4, 1], :1])


def test_a_float_data_set_is_not_changed():
    images = torch.rand(2, 3, 4, 4).to(memory_format=torch.channels_last)
    before = images.clone()
    load_batch(images, [0, 1], torch.channels_last)
    assert torch.equal(images, before)


@pytest.mark.parametrize(
    ("dataset", "error", "said"),
    [
        ([torch.rand(3, 4, 4), torch.rand(3, 4, 5)], ValueError, r"item 0 is \(3, 4, 4\), item 1"),
        ([b"x", b"y"], TypeError, "item 0 .* image is of type bytes"),
        ([{"picture": 1}] * 2, TypeError, "item 0 .* image is of type NoneType"),
        (torch.rand(2, 4, 4), ValueError, r"shape \(3, H, W\); got \(4, 4\)"),
        (torch.rand(2, 1, 4, 4), ValueError, r"shape \(3, H, W\); got \(1, 4, 4\)"),
        (torch.zeros(2, 3, 4, 4, dtype=torch.int64), TypeError, r"got torch\.int64"),
    ],
)
def test_other_items_are_named(dataset, error, said):
    with pytest.raises(error, match=said):
        load_batch(dataset, [0, 1])


@pytest.mark.parametrize("held_out", [[3, 0], (0, 3), torch.tensor([3, 0]), []])
def test_chosen_indices_are_split_off(held_out):
    train, validation = split_off(5, held_out)
    assert validation.tolist() == sorted(int(i) for i in held_out)
    assert sorted([*train.tolist(), *validation.tolist()]) == list(range(5))
    assert train.dtype == validation.dtype == torch.int64


@pytest.mark.parametrize(
    ("held_out", "error", "said"),
    [
        ([0, 5], ValueError, "there is no image 5 among 5"),
        ([-1], ValueError, "there is no image -1 among 5"),
        ([1, 2, 1], ValueError, "image 1 is there twice"),
        ([4, 3, 2, 1, 0], ValueError, "all 5 images are held out"),
        ([0.5], TypeError, "held_out must hold integers; got"),
        (["a.png"], TypeError, "held_out must hold integers; got"),
        (3, TypeError, "held_out must hold integers; got 3"),
    ],
)
def test_indices_that_cannot_be_held_out_are_named(held_out, error, said):
    with pytest.raises(error, match=f"^held_out.*{said}|^{said}"):
        split_off(5, held_out)


class Drawing(Dataset):
    """Draws from every global generator, and says what it drew."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return torch.tensor([torch.rand(()), np.random.rand(), random.random()]).view(3, 1, 1)


def test_random_items_depend_on_seed_epoch_and_index_alone():
    whole = read_batch(Drawing(), [0, 1, 2], seed=1, epoch=2)["image"]
    torch.manual_seed(5)
    random.seed(5)
    assert torch.equal(read_batch(Drawing(), [2, 0], seed=1, epoch=2)["image"], whole[[2, 0]])
    assert len(whole.unique()) == 9
    for other in ({"seed": 2, "epoch": 2}, {"seed": 1, "epoch": 3}):
        assert not torch.isin(read_batch(Drawing(), [0, 1, 2], **other)["image"], whole).any()


def test_the_callers_generators_are_put_back():
    def draw():
        return torch.rand(()).item(), np.random.rand(), random.random()

    for generator in (torch.manual_seed, np.random.seed, random.seed):
        generator(3)
    expected = draw()
    for generator in (torch.manual_seed, np.random.seed, random.seed):
        generator(3)
    read_batch(Drawing(), [0, 1])
    assert draw() == expected
