"""Pseudo-anomalies: the blend, what stays untouched, shares, determinism, fingerprints, errors."""

import multiprocessing
import random

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

import fastad.data.synthesis
from fastad.data.synthesis import PseudoAnomalies, augment, draw_mask, random_texture, synthesize
from fastad.training.batches import is_fixed, read_batch


def images(n=6, height=48, width=40, dtype=torch.uint8):
    values = torch.randint(
        0, 256, (n, 3, height, width), generator=torch.Generator().manual_seed(n)
    )
    return values.to(torch.uint8) if dtype == torch.uint8 else (values / 255).to(dtype)


class Source(Dataset):
    """A data set with the attributes that it is given."""

    def __init__(self, tensor, **attributes):
        self.tensor = tensor
        self.__dict__.update(attributes)

    def __len__(self):
        return len(self.tensor)

    def __getitem__(self, index):
        return {"image": self.tensor[index], "name": "x"}


def same(a, b):
    return torch.equal(a["image"], b["image"]) and torch.equal(a["mask"], b["mask"])


@pytest.mark.parametrize(
    "dtype", [torch.uint8, torch.float32, torch.float64, torch.float16, torch.bfloat16]
)
@pytest.mark.parametrize("size", [(48, 40), (160, 64), (33, 47), (32, 32)])
def test_the_blend_is_that_of_the_paper(dtype, size):
    image = images(1, *size, dtype)[0]
    for seed in range(8):
        before = image.clone()
        result, mask = synthesize(image, np.random.default_rng(seed), opacity=(0.1, 0.7))
        assert torch.equal(image, before)
        assert (result.dtype, result.shape) == (dtype, image.shape)
        assert (mask.dtype, mask.shape) == (torch.bool, size)
        assert mask.any()
        assert torch.equal(result[:, ~mask], image[:, ~mask])

        rng = np.random.default_rng(seed)
        drawn = draw_mask(size, rng)
        texture = augment(random_texture(rng, *size), rng).astype(np.float64).transpose(2, 0, 1)
        b = rng.uniform(0.1, 0.7)
        assert np.array_equal(mask.numpy(), drawn)
        x = image.double().numpy()
        if dtype != torch.uint8:
            texture = texture / 255
        expected = (1 - drawn) * x + drawn * ((1 - b) * texture + b * x)
        tolerance = {
            torch.uint8: 0.5001,
            torch.bfloat16: 4e-3,
            torch.float16: 1e-3,
            torch.float32: 1e-6,
            torch.float64: 1e-15,
        }
        np.testing.assert_allclose(result.double().numpy(), expected, rtol=0, atol=tolerance[dtype])


def test_opacity_one_leaves_the_image_and_zero_nothing_of_it():
    white = lambda rng, height, width: np.full((height, width, 3), 255, np.uint8)  # noqa: E731
    image = images(1)[0]
    kept, _ = synthesize(image, np.random.default_rng(0), opacity=(1, 1))
    assert torch.equal(kept, image)
    results = [
        synthesize(value, np.random.default_rng(0), opacity=(0, 0), textures=white)
        for value in (image, torch.zeros_like(image))
    ]
    mask = results[0][1]
    assert torch.equal(results[0][0][:, mask], results[1][0][:, mask])


def test_bytes_and_floats_get_the_same_defect():
    image = images(1)[0]
    bytes_, mask = synthesize(image, np.random.default_rng(3))
    floats, same_mask = synthesize(image / 255, np.random.default_rng(3))
    assert torch.equal(mask, same_mask)
    assert (bytes_ / 255 - floats).abs().max() < 0.51 / 255


def test_items_are_of_the_indices_and_clean_ones_stay():
    source = images(9)
    indices = [8, 2, 2, 5, 0, 7] * 5
    data = PseudoAnomalies(source, indices, seed=1)
    assert len(data) == 30
    for i, index in enumerate(indices):
        item = data[i]
        assert set(item) == {"image", "mask"}
        assert item["mask"].dtype == torch.bool
        assert torch.equal(item["image"][:, ~item["mask"]], source[index][:, ~item["mask"]])
        assert item["mask"].any() != data.is_clean(i)
        if data.is_clean(i):
            assert torch.equal(item["image"], source[index])
        assert same(item, data[i - 30])
    with pytest.raises(IndexError, match="no item 30 among 30"):
        data[30]
    assert len(list(data)) == 30


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.77, 1])
@pytest.mark.parametrize("seed", [0, 1, 77])
def test_the_share_of_clean_items_holds_everywhere(share, seed):
    data = PseudoAnomalies(images(1), [0] * 1000, clean_share=share, seed=seed)
    clean = np.array([data.is_clean(i) for i in range(1000)])
    for start in range(0, 900, 37):
        for length in (8, 100):
            assert abs(clean[start : start + length].sum() - share * length) < 2.5
    # Also of one image of an even number that is used again and again.
    assert abs(clean[::40].mean() - share) < 0.2


def test_every_item_and_seed_is_another():
    source = images(1)[[0] * 20]
    data = PseudoAnomalies(source, [3] * 20, clean_share=0)
    other = PseudoAnomalies(source, range(20), clean_share=0, seed=1)
    masks = {item["mask"].numpy().tobytes() for item in (*data, *other)}
    assert len(masks) == 40


def test_items_depend_on_nothing_but_seed_and_index():
    source = images(12)
    options = {"seed": 5, "shapes": ("perlin", "strokes", "spots")}
    items = list(PseudoAnomalies(source, range(12), **options))
    data = PseudoAnomalies(source, range(12), **options)
    for i in (7, 0, 11, 3, 7):
        assert same(data[i], items[i])
    short = PseudoAnomalies(source, range(4), **options)
    assert all(same(short[i], items[i]) for i in range(4))
    # A defect does not depend on the image that it is put into.
    masks = [data["mask"] for data in PseudoAnomalies(255 - source, range(12), **options)]
    assert all(torch.equal(mask, item["mask"]) for mask, item in zip(masks, items, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes_give_the_same_items(method):
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {method} here")
    data = PseudoAnomalies(images(8), range(8), seed=2)
    loader = DataLoader(data, batch_size=None, num_workers=2, multiprocessing_context=method)
    assert all(same(*pair) for pair in zip(loader, data, strict=True))


def test_no_global_generator_is_touched():
    data = PseudoAnomalies(images(8), range(8), clean_share=0)
    first = list(data)
    for seed in (0, 1):
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
        items = list(data)
        assert torch.equal(torch.get_rng_state(), states[0])
        assert np.array_equal(np.random.get_state()[1], states[1])
        assert random.getstate() == states[2]
        assert all(same(*pair) for pair in zip(items, first, strict=True))


def test_batches_are_read_as_those_of_any_data_set():
    batch = read_batch(PseudoAnomalies(Source(images()), [3, 1, 0, 2], clean_share=0), [0, 2, 3])
    assert batch["image"].shape == (3, 3, 48, 40)
    assert batch["mask"].shape == (3, 48, 40)
    assert batch["mask"].dtype == torch.bool


@pytest.mark.parametrize(
    ("source", "fixed"),
    [
        (images(), True),
        (Source(images(), is_fixed=True), True),
        (Source(images(), is_fixed=False), False),
        (Source(images()), False),
    ],
)
def test_it_is_as_fixed_as_its_source(source, fixed):
    data = PseudoAnomalies(source, range(3))
    assert is_fixed(data) is is_fixed(source) is fixed


def test_the_fingerprint_covers_everything(tmp_path):
    source = Source(images(), fingerprint="a")
    for folder, colour in (("one", 0), ("two", 9)):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (40, 40), (colour, 0, 0)).save(tmp_path / folder / "t.png")
    variants = [
        PseudoAnomalies(source, range(3)),
        PseudoAnomalies(Source(images(), fingerprint="b"), range(3)),
        PseudoAnomalies(images(), range(3)),
        PseudoAnomalies(255 - images(), range(3)),
        PseudoAnomalies(images(dtype=torch.float32), range(3)),
        PseudoAnomalies(source, [0, 1, 3]),
        PseudoAnomalies(source, range(3), seed=1),
        PseudoAnomalies(source, range(3), clean_share=0.4),
        PseudoAnomalies(source, range(3), opacity=(0, 0.7)),
        PseudoAnomalies(source, range(3), shapes=("strokes",)),
        PseudoAnomalies(source, range(3), textures=tmp_path / "one"),
        PseudoAnomalies(source, range(3), textures=tmp_path / "two"),
    ]
    assert len({data.fingerprint for data in variants}) == len(variants)
    assert variants[0].fingerprint == PseudoAnomalies(source, np.arange(3)).fingerprint
    assert not hasattr(PseudoAnomalies(Source(images()), range(3)), "fingerprint")


def test_a_folder_of_textures_is_blended_in(tmp_path):
    Image.new("RGB", (90, 60), (255, 255, 255)).save(tmp_path / "white.png")
    for dtype in (torch.uint8, torch.float32):
        data = PseudoAnomalies(
            torch.zeros(20, 3, 64, 64, dtype=dtype), range(20), textures=tmp_path, clean_share=0
        )
        for item in data:
            inside = item["image"][:, item["mask"]]
            assert (inside == inside[:, :1]).all()  # of one colour, whatever the augmentations


def test_real_textures(shared_data):
    folder = shared_data / "textures" / "dtd_subset"
    data = PseudoAnomalies(images(8, 96, 64), range(8), textures=folder, clean_share=0)
    assert len({item["image"].numpy().tobytes() for item in data}) == 8
    assert same(
        data[3], PseudoAnomalies(images(8, 96, 64), range(8), textures=folder, clean_share=0)[3]
    )


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"indices": [0, 6]}, ValueError, "indices: there is no image 6 among 6"),
        ({"indices": [-1]}, ValueError, "indices: there is no image -1 among 6"),
        ({"indices": [0.5]}, TypeError, r"indices must be integers; got \[0.5\]"),
        ({"seed": -1}, ValueError, "seed must be a whole number of at least 0; got -1"),
        ({"seed": 1.5}, ValueError, "seed must be a whole number of at least 0; got 1.5"),
        ({"textures": 5}, TypeError, "textures must be a folder or None; got 5"),
        ({"clean_share": 1.5}, ValueError, r"clean_share must be in \[0, 1\]; got 1.5"),
        ({"opacity": (0.5, 0.2)}, ValueError, r"opacity must be .*got \(0.5, 0.2\)"),
        ({"opacity": (0, 1.2)}, ValueError, "opacity must be"),
        ({"opacity": (0, float("nan"))}, ValueError, "opacity must be"),
        ({"opacity": 0.5}, ValueError, "opacity must be .*got 0.5"),
        ({"shapes": ()}, ValueError, r"shapes must be some of perlin, strokes, spots; got \(\)"),
        ({"shapes": ("blob",)}, ValueError, "shapes must be some of"),
        ({"textures": "nowhere"}, FileNotFoundError, "textures: no such folder: nowhere"),
    ],
)
def test_bad_arguments_are_named(options, error, said):
    with pytest.raises(error, match=said):
        PseudoAnomalies(images(), **{"indices": [0, 1]} | options)


@pytest.mark.parametrize(
    ("image", "error", "said"),
    [
        (np.zeros((3, 40, 40)), TypeError, "image must be a tensor .*ndarray"),
        (torch.zeros(1, 40, 40), ValueError, r"shape \(3, H, W\).*got \(1, 40, 40\)"),
        (torch.zeros(3, 31, 40), ValueError, r"at least 32; got \(3, 31, 40\)"),
        (torch.zeros(3, 40, 40, dtype=torch.int64), TypeError, "uint8 or floating .*int64"),
    ],
)
def test_other_images_are_refused(image, error, said):
    with pytest.raises(error, match=said):
        synthesize(image, np.random.default_rng(0))
    with pytest.raises(error, match=said):
        PseudoAnomalies([image], [0], clean_share=1)[0]


def test_it_is_exported():
    assert fastad.data.synthesis.PseudoAnomalies is PseudoAnomalies
    assert fastad.data.PseudoAnomalies is PseudoAnomalies
