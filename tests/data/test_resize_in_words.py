"""What the resize of a training does to its images, in a line."""

import io
import logging

import numpy as np
import pytest
import torch
from PIL import Image

from fastad.data.sizes import resize_in_words
from fastad.data.training_set import read_training_set


def images(*shapes):
    return [np.zeros((*shape, 3), np.uint8) for shape in shapes]


def test_an_arrays_shape():
    said = "images of 645x256 become 640x256 (height x width): a line 3 px wide becomes 3.0"
    assert resize_in_words(np.zeros((2, 645, 256, 3), np.uint8), (640, 256)) == said
    assert resize_in_words(torch.zeros(2, 3, 645, 256), (640, 256)) == said


def test_one_image_and_the_bytes_of_one():
    picture, file = Image.new("RGB", (256, 645)), io.BytesIO()
    picture.save(file, "PNG")
    for image in (picture, file.getvalue()):
        assert resize_in_words(image, (640, 256)).startswith("images of 645x256 become 640x256 ")


def test_the_side_that_shrinks_most_counts():
    said = resize_in_words(images((1000, 500)), (250, 250))
    assert said.endswith("a line 3 px wide becomes 0.8")  # a quarter in height, a half in width


def test_mixed_shapes_are_named():
    said = resize_in_words(images((300, 300), (600, 600), (600, 600)), (150, 150))
    assert said == (
        "images of 600x600 (2), 300x300 (1) become 150x150 (height x width): "
        "a line 3 px wide becomes 0.8 to 1.5"
    )


def test_nothing_is_said_where_nothing_changes_or_is_known():
    assert resize_in_words(images((32, 40)), (32, 40)) is None
    assert resize_in_words(iter(images((32, 40))), (64, 64)) is None


@pytest.mark.parametrize("size", ["auto", 64])
def test_shapes_that_differ_much_are_named_once(tmp_path, caplog, recwarn, size):
    rng = np.random.default_rng(0)
    for i, shape in enumerate([(64, 64), (64, 64), (64, 128)]):
        pixels = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    with caplog.at_level(logging.INFO, "fastad"):
        read_training_set(tmp_path, size)
    (line,) = [message for message in caplog.messages if "px wide" in message]
    warned = [str(w.message) for w in recwarn if "stretched" in str(w.message)]
    if size == "auto":
        assert line.startswith("images become 256x256 ")
        assert len(warned) == 1
        assert "64x64 (2), 64x128 (1)" in warned[0]
    else:
        assert line.startswith("images of 64x64 (2), 64x128 (1) become 64x64 ")
        assert warned == []
