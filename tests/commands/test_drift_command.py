"""``fastad drift``: exit code, report, JSON and plot."""

import json

import numpy as np
import pytest
from PIL import Image

GOOD = ["--false-positive-rate", 0.1]


def write(folder, count, seed, scale=1.0):
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for i in range(count):
        pixels = rng.integers(80, 120, (72, 64, 3)) * scale
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i:03}.png")
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("line")
    return (
        write(root / "calibration", 30, 1),
        write(root / "a", 40, 2),
        write(root / "b", 40, 3, 0.8),
    )


@pytest.fixture
def calibrated(fastad, detector, folders, tmp_path):
    path = tmp_path / "calibrated.fastad"
    code, _, err = fastad("calibrate", detector, folders[0], *GOOD, "--output", path)
    assert code == 0, err
    return path


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_a_darker_lamp_exits_with_3(fastad, calibrated, folders, tmp_path, suffix):
    plot = tmp_path / f"drift.{suffix}"
    _, first, second = folders
    code, out, err = fastad("drift", calibrated, first, second, "--plot", plot)
    assert code == 3, err
    assert out.splitlines()[0].startswith("drift: ")
    assert "darker by 20 % since image 41" in out.splitlines()[0]
    assert "alarms " in out
    assert "Kolmogorov-Smirnov" in out
    assert f"it begins with {second / '000.png'}" in err
    assert "fastad calibrate" not in err
    if suffix == "png":
        assert Image.open(plot).width > 800
    else:
        assert "since image 41" in plot.read_text()


def test_images_as_before_exit_with_0(fastad, calibrated, folders):
    code, out, err = fastad("drift", calibrated, folders[1])
    assert code == 0, err
    assert out.startswith("no drift in 40 images (p = ")


def test_json_has_the_verdict(fastad, calibrated, folders):
    code, out, err = fastad("drift", calibrated, *folders[1:], "--json", "-")
    said = json.loads(out)
    assert (code, said["is_drift"], said["images"], said["since"]) == (3, True, 80, 40), err
    assert said["first_image"] == str(folders[2] / "000.png")
    assert {one["name"] for one in said["watched"]} >= {"score", "brightness", "sharpness"}
    assert said["calibration_images"] == 30


def test_the_limit_is_that_of_the_rate(fastad, calibrated, folders):
    code, out, _ = fastad("drift", calibrated, *folders[1:], "--false-alarm-rate", 1e-30)
    assert code == 0
    assert out.startswith("no drift")


def test_held_out_images_of_the_training_are_no_fair_comparison(fastad, detector, folders):
    code, _, err = fastad("drift", detector, *folders[1:], "--false-alarm-rate", 0.5)
    assert ("`fastad calibrate` with fresh good images" in err) == (code == 3)


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--plot", "drift.txt"], 1, "a plot ends in .png, .svg, .pdf; got drift.txt"),
        (["--plot", "no/such/drift.png"], 1, "no folder"),
        (["--plot", "{first}"], 1, "one of the inputs"),
        (["--json", "{detector}"], 1, "one of the inputs"),
        (["--false-alarm-rate", "0"], 2, "must be between 0 and 1"),
        (["nowhere.png"], 1, "nowhere.png"),
    ],
)
def test_what_is_wrong_changes_nothing(fastad, calibrated, folders, options, code, said):
    before = calibrated.read_bytes()
    first = folders[1] / "000.png"
    options = [option.format(first=first, detector=calibrated) for option in options]
    found, _, err = fastad("drift", calibrated, folders[1], *options)
    assert found == code
    assert said in " ".join(err.replace("│", " ").split())
    assert calibrated.read_bytes() == before


def test_an_unreadable_image_stops_it_unless_it_may_be_skipped(fastad, calibrated, tmp_path):
    folder = write(tmp_path / "some", 5, 9)
    (folder / "002.png").write_bytes(b"no image")
    code, _, err = fastad("drift", calibrated, folder)
    assert code == 1
    assert "002.png" in err
    code, out, err = fastad("drift", calibrated, folder, "--skip-bad")
    assert code == 0, err
    assert "in 4 images" in out


def test_a_folder_without_images_is_named(fastad, calibrated, tmp_path):
    (tmp_path / "empty").mkdir()
    code, _, err = fastad("drift", calibrated, tmp_path / "empty")
    assert code == 1
    assert "there are no images in" in err
    assert "empty" in err
