"""scikit-learn's ``y`` of `Detector.fit`: labels that mark anomalies are never passed over."""

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

import fastad
from fastad._estimator import normal_images

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
    images, count = normal_images(IMAGES, y)
    assert images is IMAGES
    assert count == 3


@pytest.mark.parametrize(
    ("y", "words"),
    [
        ([0, 0, 1], r"are 0 \(2\), 1 \(1\)\. If 0 marks .* if label == 0\]\), or give 1 for"),
        ([1, 1, 0], r"are 1 \(2\), 0 \(1\)\. If 0 marks"),
        ([0, -1, -1], r"are -1 \(2\), 0 \(1\)\. If 0 marks .* label == 0\]\), or give"),
        ([2, 1, -1], r"If 1 marks .* label == 1\]\), or give"),
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
        normal_images(IMAGES, y)


@pytest.mark.parametrize("y", [1, "good", [None], [[0, 0]], np.zeros((2, 8, 8)), iter([0])])
def test_what_is_no_label_for_each_image(y):
    with pytest.raises(TypeError, match="y must be one label for each image, or None"):
        normal_images(IMAGES, y)


def test_the_selection_that_the_message_names_works(tmp_path):
    y = np.array([0, 1, 0, 0])
    with pytest.raises(ValueError, match="give fit") as error:
        fastad.Detector().fit(IMAGES, y)
    line = str(error.value).split("give fit(")[1].split("), or")[0]
    chosen = eval(line, {"images": IMAGES, "y": y})
    assert np.array_equal(chosen, IMAGES[[0, 2, 3]])


@pytest.mark.parametrize("form", [IMAGES, list(IMAGES), iter(IMAGES)])
def test_as_many_labels_as_images(form):
    with pytest.raises(ValueError, match=r"^y has 3 labels, but there are 4 images$"):
        fastad.Detector("stpm", teacher_weights="embedded").fit(form, [0, 0, 0], epochs=1)


@pytest.mark.parametrize(
    "y", [[1, -1, 1, 1], np.array([1.0, -1, 1, 1]), torch.tensor([1, -1, 1, 1])]
)
def test_images_marked_as_scikit_learn_marks_anomalies_are_left_out(y):
    rows = IMAGES[:, 0, 0, 0].tolist()
    pairs = TensorDataset(torch.from_numpy(IMAGES).permute(0, 3, 1, 2))
    forms = (IMAGES, list(IMAGES), tuple(IMAGES), iter(IMAGES), torch.from_numpy(IMAGES), pairs)
    for form in forms:
        with pytest.warns(
            UserWarning, match=r"^y: 1 of 4 labels are -1, for anomalies: fit leaves"
        ):
            images, count = normal_images(form, y)
        assert (len(images), count) == (3, 3)
        if form is pairs:
            assert [int(image[0, 0, 0]) for (image,) in images] == [rows[i] for i in (0, 2, 3)]
        else:
            assert [int(image[0, 0, 0]) for image in images] == [rows[i] for i in (0, 2, 3)]
    names = np.array(["a", "b", "c", "d"])
    with pytest.warns(UserWarning, match="leaves"):
        assert normal_images(names, y) == (["a", "c", "d"], 3)
    for form in (IMAGES[:3], list(IMAGES[:3]), iter(IMAGES[:3]), names[:3]):
        with pytest.raises(ValueError, match=r"^y has 4 labels, but there are 3 images$"):
            normal_images(form, y)
    for form in ("folder", b"bytes", 3):
        with pytest.raises(ValueError, match=r"^y: labels are of images given one by one"):
            normal_images(form, y)


def test_a_training_leaves_them_out():
    detector = fastad.Detector("stpm", teacher_weights="embedded", false_positive_rate=0.4)
    with pytest.warns(UserWarning, match="1 of 4 labels"):
        detector.fit(IMAGES, [1, 1, -1, 1], epochs=1, batch_size=2)
    record = detector.training_record_
    assert record["n_train"] + record["n_validation"] == 3
