"""Images in any form: the same pixels whatever they come in."""

import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import Dataset

from fastad.data import ImageError, resize
from fastad.data.inputs import image_batches, image_dataset, to_tensor

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 9, 7, 3), dtype=np.uint8)
TENSOR = torch.from_numpy(PIXELS).permute(0, 3, 1, 2)


@pytest.fixture
def paths(tmp_path):
    files = [tmp_path / f"{i}.png" for i in range(5)]
    for path, pixels in zip(files, PIXELS, strict=True):
        Image.fromarray(pixels).save(path)
    return files


def together(images, size=(9, 7), batch_size=2, **options):
    parts = list(image_batches(images, size, batch_size, **options))
    assert all(0 < len(batch) <= batch_size for _, batch, _ in parts)
    return torch.cat([batch for _, batch, _ in parts])


def test_one_image_in_every_form(paths):
    forms = [paths[0], str(paths[0]), Image.fromarray(PIXELS[0]), PIXELS[0], TENSOR[0]]
    for form in forms:
        assert torch.equal(to_tensor(form), TENSOR[0])
        assert torch.equal(together(form), TENSOR[:1])
    assert torch.equal(together(forms), TENSOR[:1].expand(5, -1, -1, -1))


def test_many_images_in_every_form(paths):
    folder = paths[0].parent
    for form in (folder, str(folder), paths, iter(paths), PIXELS, list(PIXELS), TENSOR, [*TENSOR]):
        assert torch.equal(together(form), TENSOR)
    floating = TENSOR.float() / 255
    assert torch.equal(together(floating), floating)
    assert together(floating.half()).dtype == torch.float32
    # Among others a floating image becomes grey levels: a batch has one dtype.
    assert torch.equal(together([floating[0], PIXELS[1]]), TENSOR[:2])


def test_grey_images_are_read_like_grey_files(paths):
    grey = PIXELS[..., 0]
    Image.fromarray(grey[0]).save(paths[0])
    expected = together(paths[0])
    tensor = TENSOR[:, :1]
    one = (grey[0], grey[0, ..., None], Image.fromarray(grey[0]), [grey[0]], tensor[0], [tensor[0]])
    for form in one:
        assert torch.equal(together(form), expected)
    many = TENSOR[:, :1].expand(-1, 3, -1, -1)
    for form in (grey[..., None], [*grey], [*grey[..., None]], tensor, [*tensor]):
        assert torch.equal(together(form), many)
        assert torch.equal(image_dataset(form, (9, 7)), many)
    floating = tensor.float() / 255
    assert torch.equal(together(floating), floating.expand(-1, 3, -1, -1))
    for form, shape in ((tensor[:, 0], "(5, 9, 7)"), ([TENSOR[0, 0]], "(9, 7)")):
        with pytest.raises(ValueError, match=rf"a tensor .*grey.*; .* {re.escape(shape)}"):
            together(form)
    for form, shape in ((grey[:, :0, :, None], "(5, 0, 7, 1)"), (tensor[..., :0], "(5, 1, 9, 0)")):
        with pytest.raises(ValueError, match=rf"no pixels in shape {re.escape(shape)}"):
            together(form)
    for form in (grey, [grey]):  # many, or one of seven channels?
        with pytest.raises(ValueError, match=r"grey.* \(H, W\).* \(.*9, 7"):
            together(form)


def test_arrays_that_cannot_be_written_to_give_no_warning():
    frozen = PIXELS.copy()
    frozen.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(together(frozen), TENSOR)
        assert torch.equal(together(np.asarray(Image.fromarray(PIXELS[0]))), TENSOR[:1])


def test_paths_come_along(paths):
    [(names, _, _), (more, _, _), (last, _, _)] = image_batches(paths, (4, 4), 2)
    assert (names, more, last) == (paths[:2], paths[2:4], paths[4:])
    [(names, _, _)] = image_batches([str(path) for path in paths], (4, 4), 9)
    assert names == paths
    [(names, _, _)] = image_batches([paths[0], PIXELS[0]], (4, 4), 9)
    assert names is None


def test_skipping(paths, tmp_path):
    paths[1].write_bytes(b"no image")
    whole = paths[2].read_bytes()
    (tmp_path / "cut").write_bytes(whole[: len(whole) // 2])
    bad = Image.open(tmp_path / "cut")  # decoded only when its pixels are asked for
    skipped = []
    [(_, batch, _)] = image_batches(
        [*paths, bad], (9, 7), 9, lambda item, error: skipped.append((item, str(error)))
    )
    assert torch.equal(batch, TENSOR[[0, 2, 3, 4]])
    assert [item for item, _ in skipped] == [paths[1], 5]
    assert "1.png" in skipped[0][1]
    assert "truncated" in skipped[1][1]
    with pytest.raises(ImageError, match=r"1\.png"):
        together(paths)


def test_an_endless_stream_is_read_only_as_far_as_needed(paths):
    read = []

    def endless():
        while True:
            read.append(1)
            yield PIXELS[0]

    batches = image_batches(endless(), (9, 7), 2)
    for _ in range(3):
        next(batches)
    assert len(read) <= 3 * 2 + 2 + 1


class Items(Dataset):
    is_fixed = True
    fingerprint = "abc"

    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


def test_data_sets_are_resized(paths):
    for items in (
        [*TENSOR],
        paths,
        [(Image.fromarray(pixels), 3) for pixels in PIXELS],
        [{"image": pixels, "other": torch.ones(2)} for pixels in PIXELS],
    ):
        dataset = image_dataset(Items(items), (6, 5))
        assert len(dataset) == 5
        assert dataset.is_fixed
        assert dataset.fingerprint == "abc"
        for index in range(5):
            item = dataset[index]
            if isinstance(item, dict):
                assert torch.equal(item["other"], torch.ones(2))
                item = item["image"]
            assert torch.equal(item, resize(TENSOR[index], (6, 5)))
    assert not image_dataset(Plain(), (6, 5)).is_fixed


class Plain(Dataset):
    def __len__(self):
        return 1

    def __getitem__(self, index):
        return TENSOR[0]


@settings(deadline=None, max_examples=60)
@given(
    height=st.integers(1, 12),
    width=st.integers(1, 12),
    count=st.integers(1, 5),
    size=st.tuples(st.integers(1, 10), st.integers(1, 10)),
    batch_size=st.integers(1, 4),
    floating=st.booleans(),
    strided=st.booleans(),
)
def test_arrays_tensors_and_lists_agree(height, width, count, size, batch_size, floating, strided):
    pixels = np.random.default_rng(1).integers(0, 256, (count, height, width, 3), dtype=np.uint8)
    if strided:  # every other column of a wider array, backwards
        pixels = np.repeat(pixels, 2, axis=2)[:, :, ::-2]
    tensor = torch.from_numpy(pixels.copy()).permute(0, 3, 1, 2)
    expected = resize(tensor, size)
    got = together(tensor.float() / 255 if floating else pixels, size, batch_size)
    if floating:
        torch.testing.assert_close(got, resize(tensor.float() / 255, size))
    else:
        assert torch.equal(got, expected)
    assert torch.equal(together(list(pixels), size, batch_size), expected)
    dataset = image_dataset(pixels, size)
    assert torch.equal(torch.stack([dataset[i] for i in range(count)]), expected)


def test_a_folder_is_a_list_of_its_images(paths, tmp_path):
    dataset = image_dataset(tmp_path, (9, 7))
    assert [Path(path) for path in dataset.paths] == paths
    assert torch.equal(dataset.images, TENSOR)


@pytest.mark.parametrize(
    ("item", "error", "said"),
    [
        ("http://host/1.png", FileNotFoundError, "is an address: download the file"),
        ("s3://bucket/1.png", FileNotFoundError, "is an address"),
        ("some/*.png", FileNotFoundError, r"patterns are not expanded: give the folder, or glob"),
        (b"some/1.PNG", TypeError, "bytes are the content of an image file; of the path"),
    ],
)
@pytest.mark.parametrize("many", [False, True])
def test_what_is_no_path_says_so(item, error, said, many):
    given = [item] if many else item
    with pytest.raises(error, match=said):
        list(image_batches(given, (8, 8), 1))
    with pytest.raises(error, match=said):
        image_dataset(given, (8, 8))


def test_the_home_of_the_user(paths, monkeypatch):
    monkeypatch.setenv("HOME", str(paths[0].parent))
    monkeypatch.setenv("USERPROFILE", str(paths[0].parent))
    given = f"~/{paths[0].name}"
    assert torch.equal(to_tensor(given), to_tensor(paths[0]))
    assert len(image_dataset([given], (8, 8))) == 1


def test_a_list_of_folders_says_what_to_give(paths):
    with pytest.raises(ImageError, match="is a folder; give it by itself, or the list of its file"):
        list(image_batches([paths[0].parent], (8, 8), 1))
