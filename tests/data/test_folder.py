"""Folders as data sets."""

import numpy as np
import pytest
import torch
from PIL import Image

from fastad.data import (
    ImageDataset,
    ImageError,
    Sample,
    iterate_batches,
    read_image,
    resize,
    training_images,
)
from fastad.data import test_samples as labelled


def put(path, seed=0, size=(9, 12)):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def mvtec(tmp_path):
    for i in range(3):
        put(tmp_path / "train/good" / f"{i}.png", i)
    put(tmp_path / "test/good/0.png")
    for name in ("hole/1.png", "hole/2.png", "hole/10.png", "crack/deep/a.jpg"):
        put(tmp_path / "test" / name)
    put(tmp_path / "ground_truth/hole/1_mask.png")
    put(tmp_path / "ground_truth/hole/2.png")
    put(tmp_path / "ground_truth/crack/deep/a_mask.png")
    return tmp_path


def test_training_images_of_the_mvtec_layout_and_of_a_folder(mvtec):
    expected = [mvtec / "train/good" / f"{i}.png" for i in range(3)]
    assert training_images(mvtec) == expected
    assert training_images(str(mvtec / "train" / "good")) == expected


def test_training_on_a_test_set_by_accident_is_refused(mvtec):
    (mvtec / "train" / "good").rename(mvtec / "train" / "ok")
    with pytest.raises(FileNotFoundError, match="'train' but no 'train/good'"):
        training_images(mvtec)


def test_training_images_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        training_images(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="no images in"):
        training_images(tmp_path)


def test_samples_have_labels_types_and_masks(mvtec):
    truth = mvtec / "ground_truth"
    assert labelled(mvtec) == [
        Sample(mvtec / "test/good/0.png", 0, "good", None),
        Sample(mvtec / "test/crack/deep/a.jpg", 1, "crack", truth / "crack/deep/a_mask.png"),
        Sample(mvtec / "test/hole/1.png", 1, "hole", truth / "hole/1_mask.png"),
        Sample(mvtec / "test/hole/2.png", 1, "hole", truth / "hole/2.png"),
        Sample(mvtec / "test/hole/10.png", 1, "hole", None),
    ]


def test_sample_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no such folder: .*nowhere"):
        labelled(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="has no folder 'test'"):
        labelled(tmp_path)
    (tmp_path / "test").mkdir()
    with pytest.raises(ValueError, match="no images in the folders of"):
        labelled(tmp_path)


@pytest.mark.parametrize("in_memory", [True, False])
def test_dataset_items_are_the_resized_images(mvtec, in_memory):
    paths = training_images(mvtec)
    dataset = ImageDataset(paths, "6x5", in_memory)
    assert len(dataset) == 3
    for path, item in zip(paths, dataset, strict=False):
        assert item.dtype == torch.uint8
        assert torch.equal(item, resize(read_image(path), (6, 5)))


def test_dataset_iteration_ends(mvtec):
    dataset = ImageDataset(training_images(mvtec), 4, in_memory=False)
    with pytest.raises(IndexError):
        dataset[3]


def test_dataset_errors(mvtec):
    with pytest.raises(ValueError, match="paths: at least one image"):
        ImageDataset([], 8)
    broken = mvtec / "broken.png"
    broken.write_bytes(b"x")
    with pytest.raises(ImageError, match=r"broken\.png"):
        ImageDataset([*training_images(mvtec), broken], 8)


@pytest.mark.parametrize("batch_size", [1, 2, 7, 100])
def test_batches_keep_the_order(tmp_path, batch_size):
    paths = [put(tmp_path / f"{i}.png", i) for i in range(7)]
    batches = list(iterate_batches(paths, (9, 12), batch_size))
    assert [len(b) for b in batches[:-1]] == [batch_size] * (len(batches) - 1)
    expected = torch.stack([read_image(p) for p in paths])
    assert torch.equal(torch.cat(batches), expected)
    assert list(iterate_batches([], (9, 12), batch_size)) == []


def test_real_data(shared_data):
    data = shared_data / "mvtec_ad" / "bottle"
    assert len(training_images(data)) == 209
    samples = labelled(data)
    assert [s.label for s in samples].count(0) == 20
    assert sum(s.mask_path is not None for s in samples) == 20 + 22 + 21
