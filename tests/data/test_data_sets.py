"""Data sets of torch and of Hugging Face, for training and for prediction: the same as a list."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, IterableDataset, Subset

from fastad import Detector


@pytest.fixture(scope="module")
def good():
    return np.random.default_rng(0).integers(100, 156, (24, 40, 48, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def expected(good):
    return answer([*good], [*good])


def answer(training, images, y=None):
    """The threshold, and the scores of ``images``, of a detector trained on ``training``."""
    detector = Detector(
        "subspace", image_size=32, teacher_weights="embedded", false_positive_rate=0.2
    )
    detector.fit(training, y, self_check=False)
    return detector.threshold_, detector.predict(images).score


class MapStyle(Dataset):
    """Items made by a function of an array (H, W, 3)."""

    def __init__(self, images, make):
        self.images, self.make = images, make

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.make(self.images[index])


class Streamed(IterableDataset):
    """The same, one after the other."""

    def __init__(self, data):
        self.data = data

    def __iter__(self):
        return (self.data[i] for i in range(len(self.data)))


ITEMS = {
    "array": lambda pixels: pixels,
    "Pillow": Image.fromarray,
    "tensor and label": lambda pixels: (torch.from_numpy(pixels).permute(2, 0, 1), 0),
    "dict": lambda pixels: {"image": Image.fromarray(pixels), "label": 0},
}


@pytest.mark.parametrize("make", ITEMS.values(), ids=ITEMS)
@pytest.mark.parametrize("kind", ["map", "subset", "streamed"])
def test_of_torch(kind, make, good, expected):
    data = MapStyle(good, make)
    kinds = {"map": data, "subset": Subset(data, range(24)), "streamed": Streamed(data)}
    threshold, scores = answer(kinds[kind], kinds[kind])
    assert threshold == expected[0]
    assert np.array_equal(scores, expected[1])


def test_size_of_a_streamed_one_may_be_chosen(good):
    detector = Detector("subspace", teacher_weights="embedded", false_positive_rate=0.2)
    detector.fit(Streamed(MapStyle(good[:12], ITEMS["dict"])), self_check=False)
    assert detector.image_size_ == (224, 288)


def test_a_dict_without_an_image_is_refused(good):
    with pytest.raises(TypeError, match="images must be a path"):
        answer(MapStyle(good, lambda pixels: {"picture": pixels}), good)


def test_of_hugging_face(good, expected):
    datasets = pytest.importorskip("datasets", reason="needs datasets")
    rows = {"image": [Image.fromarray(pixels) for pixels in good], "label": [0] * len(good)}
    table = datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())
    for training, y in (
        (table["image"], None),
        (table["image"], table["label"]),
        (table, None),
        (table.with_format("numpy")["image"], None),
        (table.with_format("torch")["image"], None),
        (table.to_iterable_dataset(), None),
    ):
        threshold, scores = answer(training, training, y)
        assert threshold == expected[0]
        assert np.array_equal(scores, expected[1])
