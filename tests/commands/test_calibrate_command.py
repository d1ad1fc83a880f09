"""``fastad calibrate``: the file that it writes, what it says, and what it refuses."""

import json

import numpy as np
import pytest
from PIL import Image

from fastad import inference


@pytest.fixture
def today(tmp_path):
    """Twelve good images, a little darker than the training's."""
    rng = np.random.default_rng(7)
    folder = tmp_path / "today"
    folder.mkdir()
    for i in range(12):
        pixels = rng.integers(70, 115, (72, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return folder


@pytest.fixture
def own(detector, tmp_path):
    path = tmp_path / "own.fastad"
    path.write_bytes(detector.read_bytes())
    return path


def test_another_file_gets_the_new_calibration(fastad, detector, today, tmp_path):
    before, new = detector.read_bytes(), tmp_path / "new.fastad"
    options = ["--output", new, "--false-positive-rate", 0.1, "--json", "-"]
    code, out, err = fastad("calibrate", detector, today, *options)
    assert code == 0, err
    assert detector.read_bytes() == before
    artifact, said = inference.load(new), json.loads(out)
    assert artifact.threshold == said["threshold"]
    assert (said["images"], said["source"]) == (12, "today")
    assert (len(artifact.calibration), artifact.asked_rate) == (12, 0.1)
    assert said["summary"] in err
    assert f"saved {new}: threshold {artifact.threshold:.6g} (it was " in err
    assert "at most 7.7 % false alarms by 12 fresh images" in err
    code, out, _ = fastad("info", new)
    lines = [line.split("  ", 1)[1].strip() for line in out.splitlines() if "calibration" in line]
    assert len(lines) == 2
    assert lines[0].startswith("at the training, 2 images of images")
    assert lines[1].startswith(f"{said['date']}, 12 images of today: threshold ")


def test_the_file_itself_is_replaced_without_an_output(fastad, own, today):
    old = inference.load(own)
    code, out, err = fastad("calibrate", own, today, "--false-positive-rate", 0.2)
    assert (code, out) == (0, ""), err
    new = inference.load(own)
    assert new.threshold != old.threshold
    assert new.training == old.training
    code, out, err = fastad("predict", own, today, "--json", "-")
    assert code == 0, err
    rows = json.loads(out)["images"]
    assert sum(row["is_anomalous"] for row in rows) <= 2


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        ([], 1, "12 good images are too few for a false-positive rate of 1 %, which needs 99: 87"),
        (["--false-positive-rate", "0"], 2, "must be between 0 and 1"),
        (["--false-positive-rate", "0.2", "--output", "no/such/x.fastad"], 1, "no folder"),
        (["--false-positive-rate", "0.2", "--json", "no/such/x.json"], 1, "no folder"),
        (["--false-positive-rate", "0.2", "--output", "{today}/3.png"], 1, "one of the inputs"),
        (["--false-positive-rate", "0.2", "--json", "{own}"], 1, "one of the inputs"),
    ],
)
def test_what_is_wrong_changes_nothing(fastad, own, today, options, code, said):
    before = own.read_bytes()
    options = [option.format(today=today, own=own) for option in options]
    found, _, err = fastad("calibrate", own, today, *options)
    assert found == code
    assert said in " ".join(err.replace("│", " ").split())
    assert own.read_bytes() == before


def test_images_of_the_training_are_refused(fastad, own, images):
    before = own.read_bytes()
    code, _, err = fastad("calibrate", own, images / "train", "--false-positive-rate", 0.2)
    assert code == 1
    assert "the training of the detector read 10 of the 10 images" in err
    assert own.read_bytes() == before


def test_an_unreadable_image_stops_it_unless_it_may_be_skipped(fastad, own, today):
    (today / "3.png").write_bytes(b"no image")
    code, _, err = fastad("calibrate", own, today, "--false-positive-rate", 0.2)
    assert code == 1
    assert "3.png" in err
    options = ["--false-positive-rate", 0.2, "--skip-bad"]
    code, _, err = fastad("calibrate", own, today, *options)
    assert code == 0, err
    assert "by 11 fresh images" in err
    assert "1 unreadable images were skipped" in err
