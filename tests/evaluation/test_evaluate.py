"""Evaluation over files on disk, with a stand-in for the detector."""

import math
import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastad.data import ImageError, Sample
from fastad.data import test_samples as labelled
from fastad.evaluation import evaluate


def brightness(images):
    """Scores the brightest pixel; the map is the image at half the size."""
    maps = images[:, 0].float().numpy()[:, ::2, ::2] / 255
    return maps.max(axis=(1, 2)), maps


def write(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


@pytest.fixture
def dataset(tmp_path):
    """Two good images, two with a bright hole, one with a scratch too dark to be found."""
    for i in range(2):
        write(tmp_path / f"test/good/{i}.png", np.full((16, 16), 40, np.uint8))
    for i in range(2):
        pixels, mask = np.full((16, 16), 40, np.uint8), np.zeros((16, 16), np.uint8)
        pixels[4:8, 4 + 2 * i : 8] = 200
        mask[4:8, 4 + 2 * i : 8] = 255
        write(tmp_path / f"test/hole/{i}.png", pixels)
        write(tmp_path / f"ground_truth/hole/{i}_mask.png", mask)
    pixels = np.full((16, 16), 40, np.uint8)
    pixels[:4] = 10
    write(tmp_path / "test/scratch/0.png", pixels)
    write(tmp_path / "ground_truth/scratch/0_mask.png", np.uint8(pixels == 10) * 255)
    return tmp_path


@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_overall_and_per_defect(dataset, batch_size):
    done = []
    metrics = evaluate(
        brightness,
        labelled(dataset),
        (16, 16),
        threshold=0.5,
        batch_size=batch_size,
        progress=lambda n, total: done.append((n, total)),
    )
    assert metrics["image_auroc"] == pytest.approx((4 + 0.5 * 2) / 6)  # the scratch ties with good
    assert metrics["per_defect"]["hole"]["image_auroc"] == 1.0
    assert metrics["per_defect"]["hole"]["aupro"] == 1.0
    assert metrics["per_defect"]["hole"]["pixel_auroc"] == 1.0
    assert metrics["per_defect"]["scratch"]["image_auroc"] == 0.5
    assert metrics["per_defect"]["scratch"]["pixel_auroc"] == 0.0
    assert list(metrics["per_defect"]) == ["hole", "scratch"]
    assert metrics["counts"] == {
        "normal": 2,
        "defect": 3,
        "defect_without_mask": 0,
        "skipped": 0,
    }
    assert metrics["at_threshold"] == {
        "threshold": 0.5,
        "false_positive_rate": 0.0,
        "true_positive_rate": pytest.approx(2 / 3),
    }
    batches = [(min(n, 5), 5) for n in range(batch_size, 5 + batch_size, batch_size)]
    assert done == [*batches, (5, 5)]


def test_a_threshold_is_optional_and_strict(dataset):
    samples = labelled(dataset)
    assert "at_threshold" not in evaluate(brightness, samples, (16, 16))
    at = evaluate(brightness, samples, (16, 16), threshold=np.float32(40) / np.float32(255))
    assert at["at_threshold"]["false_positive_rate"] == 0.0


def test_defects_without_ground_truth_are_left_out_and_said(dataset):
    (dataset / "ground_truth/hole/0_mask.png").unlink()
    with pytest.warns(UserWarning, match="1 of 3 defect images have no ground-truth mask"):
        metrics = evaluate(brightness, labelled(dataset), (16, 16))
    assert metrics["counts"]["defect_without_mask"] == 1
    assert metrics["per_defect"]["hole"]["pixel_auroc"] == 1.0


def test_without_any_ground_truth_only_image_scores_are_defined(dataset):
    (dataset / "ground_truth").rename(dataset / "elsewhere")
    text = r"none of the 3 defect images has a ground-truth mask: pixel scores are undefined"
    with pytest.warns(UserWarning, match=text) as said:
        metrics = evaluate(brightness, labelled(dataset), (16, 16))
    assert len(said) == 1
    assert metrics["image_auroc"] == pytest.approx(5 / 6)
    assert math.isnan(metrics["pixel_auroc"])
    assert math.isnan(metrics["aupro"])


def test_only_defects_without_ground_truth(dataset):
    samples = [Sample(s.path, 1, s.defect_type, ()) for s in labelled(dataset) if s.label == 1]
    with (
        pytest.warns(UserWarning, match="none of the 3 defect images"),
        pytest.warns(UserWarning, match="image scores are undefined"),
    ):
        metrics = evaluate(brightness, samples, (16, 16), threshold=0.0)
    assert math.isnan(metrics["image_auroc"])
    assert math.isnan(metrics["aupro"])
    assert math.isnan(metrics["at_threshold"]["false_positive_rate"])


def test_only_normal_images(dataset):
    samples = [s for s in labelled(dataset) if s.label == 0]
    with pytest.warns(UserWarning, match=r"image and pixel scores .*NaN.*: no test image has a"):
        metrics = evaluate(brightness, samples, (16, 16), threshold=0.5)
    scores = (v for name, v in metrics.items() if name.startswith(("image", "aupro")))
    assert all(np.isnan(value).all() for value in scores)
    assert math.isnan(metrics["pixel_auroc"])
    assert metrics["per_defect"] == {}
    assert metrics["at_threshold"]["false_positive_rate"] == 0.0


def test_only_defects(dataset):
    samples = [s for s in labelled(dataset) if s.label == 1]
    with pytest.warns(UserWarning, match=r"image scores .*NaN.*: no test image is normal"):
        metrics = evaluate(brightness, samples, (16, 16))
    assert math.isnan(metrics["image_auroc"])
    assert metrics["per_defect"]["hole"]["pixel_auroc"] == 1.0


def test_defect_types_without_ground_truth_are_named(dataset):
    (dataset / "ground_truth/scratch/0_mask.png").unlink()
    text = "1 of 3 defect images .*; those of scratch are undefined"
    with pytest.warns(UserWarning, match=text):
        metrics = evaluate(brightness, labelled(dataset), (16, 16))
    assert math.isnan(metrics["per_defect"]["scratch"]["aupro"])
    assert metrics["per_defect"]["scratch"]["image_auroc"] == 0.5


def test_a_complete_set_warns_of_nothing(dataset):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluate(brightness, labelled(dataset), (16, 16))


def test_several_masks_of_an_image_are_united(dataset):
    samples = [s for s in labelled(dataset) if s.label == 0]
    masks = tuple(dataset / f"{name}.png" for name in ("left", "right"))
    for path, columns in zip(masks, (slice(0, 2), slice(2, 4)), strict=True):
        mask = np.zeros((16, 16), np.uint8)
        mask[:4, columns] = 255
        write(path, mask)
    pixels = np.full((16, 16), 40, np.uint8)
    pixels[:4, :4] = 99
    write(dataset / "test/logical/0.png", pixels)
    samples.append(Sample(dataset / "test/logical/0.png", 1, "logical", masks))
    assert evaluate(brightness, samples, (16, 16))["pixel_f1_max"] == 1.0


def test_scores_on_disk_are_those_in_memory(dataset):
    expected = evaluate(brightness, labelled(dataset), (16, 16))
    assert evaluate(brightness, labelled(dataset), (16, 16), memory_bytes=500) == expected


def test_memory_does_not_grow_with_the_number_of_images(dataset, monkeypatch):
    monkeypatch.setattr("fastad.evaluation.bootstrap.CHUNK", 20_000)
    rng = np.random.default_rng(0)

    def predict(images):
        maps = rng.random((len(images), 128, 128), dtype=np.float32)
        return maps.max(axis=(1, 2)), maps

    def peak(times):
        tracemalloc.start()
        try:
            evaluate(predict, labelled(dataset) * times, (16, 16), batch_size=5, memory_bytes=10**6)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    few, many = peak(2), peak(10)
    assert many - few < 2**20, "40 more maps of 64 KiB are 2.5 MiB"


def test_unreadable_images_and_masks_are_skipped_and_counted(dataset):
    (dataset / "test/hole/0.png").write_bytes(b"no image")
    (dataset / "ground_truth/scratch/0_mask.png").write_bytes(b"no mask")
    with pytest.raises(ImageError, match=r"hole/0\.png"):
        evaluate(brightness, labelled(dataset), (16, 16))
    for batch_size in (1, 2, 32):
        reports, done = [], []
        metrics = evaluate(
            brightness,
            labelled(dataset),
            (16, 16),
            batch_size=batch_size,
            progress=lambda n, total, done=done: done.append((n, total)),
            skip=lambda sample, error, reports=reports: reports.append((sample, str(error))),
        )
        names = sorted((sample.path.parent.name, sample.path.name) for sample, _ in reports)
        assert names == [("hole", "0.png"), ("scratch", "0.png")]
        assert all("cannot be read" in error for _, error in reports)
        assert list(metrics["per_defect"]) == ["hole"]
        assert metrics["image_auroc"] == metrics["per_defect"]["hole"]["aupro"] == 1.0
        counts = {"normal": 2, "defect": 1, "defect_without_mask": 0, "skipped": 2}
        assert metrics["counts"] == counts
        assert done[-1] == (5, 5)
        assert done == sorted(done)


def test_nothing_readable_at_all(dataset):
    for path in (dataset / "test").rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(ValueError, match="none of the 5 test images can be read"):
        evaluate(brightness, labelled(dataset), (16, 16), skip=lambda sample, error: None)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_a_model_gets_wrong_names_the_image(dataset, bad):
    def broken_map(images):
        scores, maps = brightness(images)
        maps[3, 1, 2] = bad
        return scores, maps

    def broken_score(images):
        scores, maps = brightness(images)
        scores[3] = bad
        return scores, maps

    # even with `skip`: a model that fails is no bad file
    options = {"skip": lambda sample, error: None}
    with pytest.raises(ValueError, match=r"hole/1\.png: 1 of 64 values of the model's anomaly map"):
        evaluate(broken_map, labelled(dataset), (16, 16), **options)
    with pytest.raises(ValueError, match=r"hole/1\.png: the model's score is -?(nan|inf)"):
        evaluate(broken_score, labelled(dataset), (16, 16), **options)


def test_predictions_of_the_wrong_shape(dataset):
    message = r"predict must give scores \(5,\) and maps \(5, h, w\).*got shapes \(5, 1\) and"
    with pytest.raises(ValueError, match=message):
        evaluate(lambda x: (np.zeros((5, 1)), np.zeros((5, 4, 4))), labelled(dataset), (16, 16))
    with pytest.raises(ValueError, match=r"got shapes \(5,\) and \(5, 1, 4, 4\)"):
        evaluate(lambda x: (np.zeros(5), np.zeros((5, 1, 4, 4))), labelled(dataset), (16, 16))


def test_errors(dataset):
    with pytest.raises(ValueError, match="samples: at least one"):
        evaluate(brightness, [], (16, 16))
    write(dataset / "ground_truth/hole/1_mask.png", np.zeros((16, 16), np.uint8))
    with pytest.raises(ImageError, match=r"hole/1_mask\.png: the mask of a defect marks no pixel"):
        evaluate(brightness, labelled(dataset), (16, 16))


def test_real_masks_are_found_and_fit(shared_data):
    for name in ("mvtec_ad/bottle", "kolektor_sdd/commutator"):
        samples = labelled(shared_data / name)
        few = samples[:3] + [s for s in samples if s.label][:4]
        metrics = evaluate(brightness, few, (64, 64))
        assert (metrics["counts"]["normal"], metrics["counts"]["defect"]) == (3, 4)
        assert metrics["counts"]["defect_without_mask"] == 0
        assert 0 <= metrics["aupro"] <= 1
