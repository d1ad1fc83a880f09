"""Evaluation over files on disk, with a stand-in for the detector."""

import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastad.data import ImageError
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
    assert metrics["counts"] == {"normal": 2, "defect": 3, "defect_without_mask": 0}
    assert metrics["at_threshold"] == {
        "threshold": 0.5,
        "false_positive_rate": 0.0,
        "true_positive_rate": pytest.approx(2 / 3),
    }
    assert done[-1] == (5, 5)


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
    with pytest.warns(UserWarning, match="3 of 3"):
        metrics = evaluate(brightness, labelled(dataset), (16, 16))
    assert metrics["image_auroc"] == pytest.approx(5 / 6)
    assert math.isnan(metrics["pixel_auroc"])
    assert math.isnan(metrics["aupro"])


def test_only_defects_without_ground_truth(dataset):
    samples = [s for s in labelled(dataset) if s.label == 1]
    samples = [type(s)(s.path, 1, s.defect_type, None) for s in samples]
    with pytest.warns(UserWarning, match="3 of 3"):
        metrics = evaluate(brightness, samples, (16, 16), threshold=0.0)
    assert math.isnan(metrics["image_auroc"])
    assert math.isnan(metrics["aupro"])
    assert math.isnan(metrics["at_threshold"]["false_positive_rate"])


def test_errors(dataset):
    with pytest.raises(ValueError, match="samples: at least one"):
        evaluate(brightness, [], (16, 16))
    write(dataset / "ground_truth/hole/1_mask.png", np.ones((16, 16), np.uint8))  # 0/1, not 0/255
    with pytest.raises(ImageError, match=r"hole/1_mask\.png: the mask of a defect marks no pixel"):
        evaluate(brightness, labelled(dataset), (16, 16))


def test_real_masks_are_found_and_fit(shared_data):
    for name in ("mvtec_ad/bottle", "kolektor_sdd/commutator"):
        samples = labelled(shared_data / name)
        few = samples[:3] + [s for s in samples if s.label][:4]
        metrics = evaluate(brightness, few, (64, 64))
        assert metrics["counts"] == {"normal": 3, "defect": 4, "defect_without_mask": 0}
        assert 0 <= metrics["aupro"] <= 1
