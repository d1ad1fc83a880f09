"""``fastad threshold``: another threshold in the file, and what is said of its false alarms."""

import numpy as np
import pytest

from fastad import Detector, inference
from fastad.commands.threshold import percent


def test_a_rate_sets_both_thresholds(fastad, detector, tmp_path):
    before, old = detector.read_bytes(), inference.load(detector)
    code, out, err = fastad("threshold", detector, "--rate", 0.6, "--output", tmp_path / "n.fastad")
    assert (code, out) == (0, ""), err
    assert detector.read_bytes() == before
    new = inference.load(tmp_path / "n.fastad")
    n = old.calibration.size
    rank = int(np.ceil((n + 1) * 0.4 - 1e-9)) - 1
    assert new.threshold == np.sort(old.calibration)[rank]
    assert new.pixel_threshold == np.sort(old.pixel_calibration)[rank]
    assert (new.asked_rate, new.threshold_set_by) == (0.6, "rate")
    assert new.training == old.training
    assert f"at most {percent(new.kept_rate)} false alarms by {n} held-out images" in err
    assert "(asked for: 60 %)" in err


def test_a_value_changes_the_file_itself_and_claims_no_rate(fastad, detector, tmp_path):
    path = tmp_path / "d.fastad"
    path.write_bytes(detector.read_bytes())
    value = float(np.sort(inference.load(path).calibration)[0]) / 2  # below every score
    code, _, err = fastad("threshold", path, "--value", value)
    assert code == 0, err
    new, old = inference.load(path), inference.load(detector)
    assert (new.threshold, new.pixel_threshold) == (value, old.pixel_threshold)
    assert "at most 100 % false alarms" in err
    assert "(no rate was asked for)" in err
    code, out, _ = fastad("info", path)
    lines = dict(line.split("  ", 1) for line in out.splitlines())
    assert lines["threshold"].strip() == f"{value:.6g}, set by a value"
    assert lines["false alarms"].strip().startswith("at most 100 % false alarms by ")
    assert "0.01" not in lines["threshold"] + lines["false alarms"]
    assert "promise" not in lines


def test_info_says_the_rate_that_holds(fastad, detector):
    n = inference.load(detector).calibration.size
    code, out, _ = fastad("info", detector)
    assert code == 0
    kept = percent(1 / (n + 1))
    assert f"at most {kept} false alarms by {n} held-out images (asked for: 1 %)" in out


@pytest.mark.parametrize(
    ("options", "code", "match"),
    [
        ([], 2, "give either --rate or --value"),
        (["--rate", "0.1", "--value", "0.1"], 2, "give either --rate or --value"),
        (["--rate", "1.5"], 2, "must be between 0 and 1"),
        (["--value", "nan"], 1, "value must be a finite number"),
        (["--rate", "0.1", "--output", "no/such/folder.fastad"], 1, "no folder"),
    ],
)
def test_what_is_wrong_changes_nothing(fastad, detector, options, code, match):
    before = detector.read_bytes()
    result, _, err = fastad("threshold", detector, *options)
    assert result == code
    assert match in " ".join(err.replace("│", " ").split())
    assert detector.read_bytes() == before


@pytest.mark.parametrize(
    ("rate", "text"), [(0.01, "1 %"), (1 / 23, "4.3 %"), (0.001, "0.1 %"), (0.5, "50 %")]
)
def test_percent(rate, text):
    assert percent(rate) == text


def test_a_smallest_area_does_not_drop_a_value(fastad, detector, tmp_path):
    path = tmp_path / "d.fastad"
    assert fastad("threshold", detector, "--value", 0.4, "--output", path)[0] == 0
    before = path.read_bytes()
    code, _, err = fastad("threshold", path, "--min-area", "1%")
    assert code == 1
    assert "the threshold was set by its value" in err
    assert path.read_bytes() == before
    code, _, err = fastad("threshold", path, "--min-area", "1%", "--rate", 0.5)
    assert code == 0, err
    assert inference.load(path).min_area == 0.01
    loaded = inference.load(path)
    assert loaded.threshold == loaded.pixel_threshold


def test_no_area_is_no_change():
    images = np.random.default_rng(0).integers(100, 156, (12, 32, 32, 3), dtype=np.uint8)
    detector = Detector("subspace", image_size=32, teacher_weights="embedded")
    detector.set_params(false_positive_rate=0.4).fit(images).set_threshold(value=7.0)
    assert detector.set_min_area(0).threshold_ == 7.0


def test_a_detector_without_held_out_images_may_have_a_smallest_area(fastad, tmp_path):
    images = np.random.default_rng(0).integers(100, 156, (8, 32, 32, 3), dtype=np.uint8)
    detector = Detector("subspace", image_size=32, teacher_weights="embedded")
    detector.fit(images, validation_fraction=0.0).save(tmp_path / "d.fastad")
    code, _, err = fastad("threshold", tmp_path / "d.fastad", "--min-area", "1%")
    assert code == 0, err
    assert "threshold none (there was none)" in err
