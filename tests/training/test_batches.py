"""Split, order and loading of images."""

import pytest
import torch

from fastad.training.batches import load_batch, shuffled_batches, split_indices

CPU = torch.device("cpu")


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
    batch = load_batch(dataset, torch.tensor([4, 1]), CPU, torch.channels_last)
    torch.testing.assert_close(batch["image"], images[[4, 1]] / 255)
    assert batch["image"].is_contiguous(memory_format=torch.channels_last)
    assert set(batch) == ({"image", "mask"} if kind == "dicts" else {"image"})
    if kind == "dicts":
        assert torch.equal(batch["mask"], images[[4, 1], :1])


def test_a_float_data_set_is_not_changed():
    images = torch.rand(2, 3, 4, 4).to(memory_format=torch.channels_last)
    before = images.clone()
    load_batch(images, torch.tensor([0, 1]), CPU, torch.channels_last)
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
        load_batch(dataset, torch.tensor([0, 1]), CPU, torch.contiguous_format)
