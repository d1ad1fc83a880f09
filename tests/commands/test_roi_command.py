"""``--roi`` of train, predict, calibrate and info."""

import json

import numpy as np
import pytest
from PIL import Image

from fastad import inference

TRAIN = ["--image-size", "64", "--batch-size", "4", "--model", "subspace"]


def write(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def mask(tmp_path):
    white = np.zeros((72, 64), np.uint8)
    white[10:60, :40] = 255
    write(tmp_path / "mask.png", white)
    return tmp_path / "mask.png"


def test_a_region_goes_from_training_to_prediction(fastad, images, mask, tmp_path):
    file = tmp_path / "with.fastad"
    code, _, err = fastad("train", images, *TRAIN, "--roi", mask, "--output", file)
    assert code == 0, err
    share = inference.load(file).roi.mean()
    assert share == pytest.approx(50 * 40 / (72 * 64), abs=0.02)
    assert f"region of interest: {share:.2%} of an image counts" in err
    code, out, _ = fastad("info", file)
    assert f"{share:.1%} of an image, its region of interest" in out
    code, out, err = fastad("predict", file, images / "test", "--json", "-")
    assert code == 0, err
    assert json.loads(out)["roi_share"] == share


def test_a_region_for_one_run(fastad, detector, images, mask, tmp_path):
    before = detector.read_bytes()
    plain = json.loads(fastad("predict", detector, images / "test", "--json", "-")[1])
    code, out, err = fastad("predict", detector, images / "test", "--roi", mask, "--json", "-")
    assert code == 0, err
    assert "warning: roi: the threshold was chosen without this region" in err
    found = json.loads(out)
    assert (plain["roi_share"], found["threshold"]) == (None, plain["threshold"])
    assert found["images"] != plain["images"]
    assert detector.read_bytes() == before


def test_a_calibration_writes_it_into_the_file(fastad, detector, mask, tmp_path):
    rng = np.random.default_rng(7)
    for i in range(12):
        write(tmp_path / "today" / f"{i}.png", rng.integers(80, 120, (72, 64, 3), dtype=np.uint8))
    options = ["--roi", mask, "--output", tmp_path / "new.fastad", "--false-positive-rate", 0.2]
    code, _, err = fastad("calibrate", detector, tmp_path / "today", *options)
    assert code == 0, err
    assert "the old promise was not tried" in err
    artifact = inference.load(tmp_path / "new.fastad")
    assert artifact.roi is not None
    assert len(artifact.calibration) == 12


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("square.png", "is of 30x30 pixels (width x height), another aspect ratio"),
        ("black.png", "marks no pixel"),
        ("none.png", "none.png"),
        ("bad.json", "is no JSON"),
    ],
)
def test_what_is_no_region_stops_before_any_work(fastad, detector, images, tmp_path, name, said):
    write(tmp_path / "square.png", np.full((30, 30), 255, np.uint8))
    write(tmp_path / "black.png", np.zeros((72, 64), np.uint8))
    (tmp_path / "bad.json").write_text("[")
    file = tmp_path / "x.fastad"
    train = ["train", images, *TRAIN, "--output", file]
    for command in (train, ["predict", detector, images / "test"]):
        code, out, err = fastad(*command, "--roi", tmp_path / name)
        assert (code, out) == (1, "")
        assert said in " ".join(err.split())
    assert not file.exists()


def test_the_mask_is_not_overwritten(fastad, detector, images, mask):
    code, _, err = fastad("predict", detector, images / "test", "--roi", mask, "--csv", mask)
    assert code == 1
    assert "one of the inputs" in err
