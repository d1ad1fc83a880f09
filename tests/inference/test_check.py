"""A detector's own check: which images are used, and what is said of them."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import fastad
from fastad.data.synthesis import DISTURBANCES
from fastad.data.training_set import file_digests


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Fifteen good images, and four more that no training sees."""
    root, rng = tmp_path_factory.mktemp("good"), np.random.default_rng(0)
    for i in range(19):
        path = root / ("train" if i < 15 else "new") / f"{i:02}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(90, 130, (48, 64, 3), dtype=np.uint8)).save(path)
    return root


@pytest.fixture(scope="module")
def detector(folder):
    made = fastad.Detector(
        "stpm",
        image_size=32,
        layers=("layer1",),
        teacher_weights=None,
        false_positive_rate=0.25,
        device="cpu",
    )
    return made.fit(folder / "train", epochs=1)


def test_held_out_images_are_taken_of_the_folder_of_the_training(detector, folder):
    result = detector.check(folder / "train", count=15)
    held_out = detector.training_record_["held_out"]
    assert (len(held_out), result.trained_on) == (3, 12)
    assert (result.held_out_alarms.total, result.new_alarms.total) == (3, 0)
    text = " ".join(result.notes)
    assert "12 images that the detector was trained on are left out" in text
    assert "3 of the good images set the threshold" in text
    assert "synthesised defects are no real ones" in text
    assert "not known: if it was" not in text


def test_images_are_known_by_content_under_any_name(detector, folder, tmp_path):
    held_out = set(detector.training_record_["held_out"])
    paths = sorted((folder / "train").iterdir())
    for n, path in enumerate(paths):
        shutil.copy(path, tmp_path / f"{99 - n}.png")
    new = sorted((folder / "new").iterdir())
    given = [*sorted(tmp_path.iterdir()), *new]
    seen = []
    result = detector.check(given, count=15, observe=lambda tried: seen.append(tried.kind))
    assert len(seen) == 15
    assert result.trained_on == 15 - len(held_out)
    assert result.held_out_alarms.total == len(held_out)
    assert result.new_alarms.total == 4
    assert result.alarms is result.new_alarms


def test_of_images_trained_on_alone_nothing_is_said(detector, folder):
    held_out = set(detector.training_record_["held_out"])
    paths = sorted((folder / "train").iterdir())
    trained = [path for n, path in enumerate(paths) if n not in held_out]
    with pytest.raises(ValueError, match="trained on all 12 of them, which proves nothing"):
        detector.check(trained)


def test_a_copy_of_an_image_trained_on_is_no_held_out_one(folder, tmp_path, monkeypatch):
    # As detectors were trained once.
    monkeypatch.setattr("fastad.inference.fitting.copies_together", lambda source, config: source)
    paths = sorted((folder / "train").iterdir())
    for path in paths[:10]:
        shutil.copy(path, tmp_path / path.name)
    for path in paths[:5]:
        shutil.copy(path, tmp_path / f"copy_{path.name}")
    made = fastad.Detector("stpm", image_size=32, layers=("layer1",), teacher_weights=None)
    made.set_params(false_positive_rate=0.25, device="cpu").fit(tmp_path, epochs=1)
    record = made.training_record_
    digests, held_out = record["image_digests"], set(record["held_out"])
    trained = {d for n, d in enumerate(digests) if n not in held_out}
    assert any(digests[n] in trained for n in held_out)
    result = made.check(tmp_path, count=15)
    assert result.trained_on == sum(digest in trained for digest in digests)
    assert result.held_out_alarms.total == 15 - result.trained_on


def test_counts_are_the_thresholds(detector, folder):
    given = sorted((folder / "new").iterdir())
    scores = detector.predict(given).score.astype(np.float64)
    old = detector.threshold_
    try:
        detector.set_threshold(value=float(np.sort(scores)[1]))  # two of four are above
        result = detector.check(given, count=15)
    finally:
        detector.set_threshold(value=old)
    assert (result.new_alarms.hits, result.new_alarms.total) == (2, 4)
    above = int((detector.calibration_scores_ > result.threshold).sum())
    assert result.promised == (1 + above) / (3 + 1)
    assert any("few" in note for note in result.notes)
    json.dumps(result.to_dict(), allow_nan=False)


def test_a_broken_promise_is_said(detector, folder):
    old = detector.threshold_
    images = np.random.default_rng(1).integers(90, 130, (30, 32, 32, 3), dtype=np.uint8)
    try:
        top = float(detector.calibration_scores_.max())
        detector.set_threshold(value=top)
        result = detector.check(np.clip(images.astype(int) * 3 - 220, 0, 255).astype(np.uint8))
    finally:
        detector.set_threshold(value=old)
    assert result.promised == 1 / 4
    assert result.new_alarms.interval[0] > 1 / 4
    assert any("more false alarms on new images than the 25.0% promised" in n for n in result.notes)


def test_images_without_files_may_be_any(detector):
    images = np.random.default_rng(5).integers(90, 130, (6, 40, 40, 3), dtype=np.uint8)
    result = detector.check(images, count=15)
    assert result.new_alarms.total == 6
    assert any("trained on these images is not known" in note for note in result.notes)
    one = detector.check(torch.from_numpy(images[0]).permute(2, 0, 1), count=15)
    assert one.new_alarms.total == 1


def test_the_self_check_of_a_training_is_the_same(detector, folder):
    """What `fastad.evaluation.check` says of the held-out part is what the detector says."""
    from fastad.data import ImageDataset
    from fastad.evaluation import check

    paths = sorted((folder / "train").iterdir())
    held_out = detector.training_record_["held_out"]
    dataset = ImageDataset(paths, 32)

    def predict(batch):
        result = detector.predict(batch)
        return result.score, result.anomaly_map

    kept = check(
        predict, dataset, held_out, threshold=detector.threshold_, held_out=held_out, count=30
    )
    own = detector.check(folder / "train", count=30)
    assert kept.held_out_alarms == own.held_out_alarms
    assert kept.found == own.found
    assert kept.image_auroc == own.image_auroc
    assert kept.disturbed == {}  # which would make every training longer
    assert list(own.disturbed) == ["undisturbed", *DISTURBANCES]
    assert own.disturbed["undisturbed"] == own.held_out_alarms


def test_without_a_threshold_there_is_nothing_to_check(folder):
    made = fastad.Detector("stpm", image_size=32, layers=("layer1",), teacher_weights=None)
    made.fit(folder / "train", epochs=1, validation_fraction=0.0)
    with pytest.raises(ValueError, match="there is no threshold: no images were held out"):
        made.check(folder / "new")
    result = made.set_threshold(value=0.1).check(folder / "new", count=15)
    assert result.promised is None


def test_an_image_unlike_those_of_the_training_is_said(detector, tmp_path):
    pixels = np.random.default_rng(0).integers(90, 130, (40, 200, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    with pytest.warns(UserWarning, match=r"wide\.png is 40x200"):
        fastad_check = detector.check(tmp_path, count=15)
    assert fastad_check.new_alarms.total == 1
    assert (
        file_digests([tmp_path / "wide.png"])[0] not in detector.training_record_["image_digests"]
    )
