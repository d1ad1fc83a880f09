"""scikit-learn's ``y`` of `Detector.fit`: labels that mark anomalies are never passed over."""

import numpy as np
import pytest
import torch

import fastad
from fastad._estimator import count_normal_labels

IMAGES = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    "y",
    [
        *(
            [0, 0, 0],
            [1, 1, 1],
            [False] * 3,
            (0.0, 0.0, 0.0),
            ["good"] * 3,
            ["OK", "good", "normal"],
        ),
        *(np.zeros(3), np.ones(3, np.int64), np.zeros((3, 1)), torch.ones(3), np.array(["ok"] * 3)),
    ],
)
def test_labels_of_normal_images(y):
    assert count_normal_labels(y) == 3


@pytest.mark.parametrize(
    ("y", "words"),
    [
        ([0, 0, 1], r"are 0 \(2\), 1 \(1\)\. If 0 marks .* if label == 0\]\)$"),
        ([1, 1, 0], r"are 1 \(2\), 0 \(1\)\. If 0 marks"),
        (np.array([1, -1, 1]), r"are 1 \(2\), -1 \(1\)\. If 1 marks .* label == 1\]\)$"),
        (np.array([False, True]), r"If False marks .* label == False\]"),
        (np.array(["good", "crack"]), r"'good' \(1\), 'crack' \(1\)\. If 'good' marks"),
        (torch.tensor([0.0, 1.0]), r"If 0\.0 marks"),
        ([0, 1, 2, 3, 4, 5], r"0 \(1\), 1 \(1\), .*, \.\.\.\. If 0 marks"),
        ([-1, -1], r"are -1 \(2\)\. Give the normal images only"),
        ([True], r"are True \(1\)\. Give"),
        (["crack"], "Give the normal images only"),
        (["good", "ok", "bad"], "Give the normal images only"),
        ([0, float("nan")], r"nan \(1\)"),
    ],
)
def test_other_labels_are_refused_with_what_selects_the_normal_ones(y, words):
    with pytest.raises(ValueError, match=r"^y: fit trains on normal images alone.*" + words):
        count_normal_labels(y)


@pytest.mark.parametrize("y", [1, "good", [None], [[0, 0]], np.zeros((2, 8, 8)), iter([0])])
def test_what_is_no_label_for_each_image(y):
    with pytest.raises(TypeError, match="y must be one label for each image, or None"):
        count_normal_labels(y)


def test_the_selection_that_the_message_names_works(tmp_path):
    y = np.array([1, -1, 1, 1])
    with pytest.raises(ValueError, match="give fit") as error:
        fastad.Detector().fit(IMAGES, y)
    line = str(error.value).split("give fit(")[1][:-1]
    chosen = eval(line, {"images": IMAGES, "y": y})
    assert np.array_equal(chosen, IMAGES[[0, 2, 3]])


@pytest.mark.parametrize("form", [IMAGES, list(IMAGES), iter(IMAGES)])
def test_as_many_labels_as_images(form):
    with pytest.raises(ValueError, match=r"^y has 3 labels, but there are 4 images$"):
        fastad.Detector("stpm", teacher_weights="embedded").fit(form, [0, 0, 0], epochs=1)
