"""The comparison of an exported file with its detector."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from fastad.export.verification import BATCH, image_batches, random_batches, verify
from fastad.inference import Artifact
from fastad.models import AnomalyModel, Prediction


class Red(AnomalyModel):
    """Score and map are the red channel."""

    name = "red"

    def __init__(self):
        super().__init__(None)
        self.parameter = nn.Parameter(torch.zeros(1))

    def forward(self, images):
        return Prediction(images[:, 0].amax((1, 2)), images[:, 0])


def images(*reds):
    return np.array(reds, np.uint8)[:, None, None, None] * np.ones((1, 4, 6, 3), np.uint8)


def compare(change, *batches, threshold=0.5):
    def run(batch):
        maps = batch[..., 0].astype(np.float32) / 255
        return change(maps.max((1, 2)), maps)

    artifact = Artifact(Red().eval(), (4, 6), np.empty(0), 0.01, threshold, {})
    return verify(artifact, run, batches)


def test_equal_results_have_no_error():
    result = compare(lambda score, maps: (score, maps), images(10, 200), images(30))
    assert (result.images, result.score_error, result.map_error) == (3, 0, 0)
    assert (result.rank_correlation, result.changed_decisions) == (1, 0)


def test_errors_are_relative_and_the_largest_counts():
    result = compare(lambda s, m: (s * [1.0, 1.0, 1.25], m * 0.9), images(100, 150, 200))
    assert result.score_error == pytest.approx(0.25, rel=1e-5)
    assert result.map_error == pytest.approx(0.1, rel=1e-5)


def test_an_error_near_zero_counts_against_the_median():
    result = compare(lambda s, m: (s + np.array([0.05, 0, 0]), m), images(0, 127, 255))
    assert result.score_error == pytest.approx(0.05 * 255 / 127, rel=1e-5)


def test_all_zero_is_equal_to_itself_and_to_nothing_else():
    assert compare(lambda s, m: (s, m), images(0, 0)).score_error == 0
    assert compare(lambda s, m: (s + 1e-9, m), images(0, 0)).score_error == np.inf


def test_changed_decisions_and_ranks_are_counted():
    result = compare(lambda s, m: (1 - s, m), images(0, 100, 255))
    assert (result.rank_correlation, result.changed_decisions) == (-1, 3)
    assert "rank correlation -1.000000, 3 decisions changed" in str(result)
    result = compare(lambda s, m: (s, m), images(5), threshold=None)
    assert (result.rank_correlation, result.changed_decisions) == (None, None)
    assert str(result).endswith("over 1 images")


def test_nothing_to_compare_is_an_error():
    with pytest.raises(ValueError, match="no images to verify on"):
        compare(lambda s, m: (s, m))


def test_files_keep_their_size_and_order(tmp_path):
    sizes = [(4, 6)] * (BATCH + 1) + [(5, 5)] + [(4, 6)]
    for i, (height, width) in enumerate(sizes):
        Image.fromarray(np.full((height, width, 3), i, np.uint8)).save(tmp_path / f"{i}.png")
    batches = list(image_batches(tmp_path / f"{i}.png" for i in range(len(sizes))))
    # AOTInductor reads its input as if it were.
    assert all(batch.flags.c_contiguous for batch in batches)
    assert [b.shape for b in batches] == [
        (BATCH, 4, 6, 3),
        (1, 4, 6, 3),
        (1, 5, 5, 3),
        (1, 4, 6, 3),
    ]
    assert [v for b in batches for v in b[:, 0, 0, 0]] == list(range(len(sizes)))


def test_random_images_differ_in_size_and_number_and_come_again():
    first, second = list(random_batches((1, 7))), list(random_batches((1, 7)))
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert first[0].shape == (3, 1, 7, 3)
    assert {1, 2, 3} == {len(batch) for batch in first}
    assert len({batch.shape[1:] for batch in first}) == 4
