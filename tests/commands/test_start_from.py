"""``fastad train --start-from``: the file that it writes, what it says, and what it refuses."""

import shutil

import numpy as np
import pytest
from PIL import Image

from fastad import inference


@pytest.fixture
def both(images, tmp_path):
    """The good images of the training, and twenty new ones."""
    folder = tmp_path / "both"
    shutil.copytree(images / "train/good", folder / "old")
    (folder / "new").mkdir()
    rng = np.random.default_rng(7)
    for i in range(20):
        pixels = rng.integers(30, 70, (72, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"new/{i}.png")
    return folder


def test_a_training_goes_on_from_a_file(fastad, detector, both, tmp_path):
    before, new = detector.read_bytes(), tmp_path / "new.fastad"
    options = ["--precision", "float32", "--epochs", 1, "--set", "min_steps=0"]
    code, _, err = fastad("train", both, "--start-from", detector, *options, "--output", new)
    assert code == 0, err
    assert detector.read_bytes() == before
    assert (
        "of 30 images 8 were trained on before, 2 held out, 20 are new. 6 are held out now" in err
    )
    artifact, old = inference.load(new), inference.load(detector)
    assert artifact.model.config == old.model.config
    assert artifact.image_size == old.image_size
    assert artifact.false_positive_rate == old.false_positive_rate
    assert artifact.training["n_validation"] == 6
    assert not (tmp_path / "new.fastad.checkpoint").exists()
    code, out, _ = fastad("info", new)
    [line] = [line for line in out.splitlines() if line.startswith("goes on from")]
    assert f"small.fastad of {artifact.training['start_from']['date']}" in line
    assert line.endswith(": epochs training 1, 8 images trained on")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--model", "rstpm"], "error: model: 'rstpm' contradicts start_from: small.fastad"),
        (["--image-size", "32"], "error: image_size: '32' contradicts start_from"),
        (["--set", "layers=layer1"], "error: layers: ('layer1',) contradicts start_from"),
        (["--exclude", "new.txt"], "error: images: 2 of 10 may be held out, which is too few"),
    ],
)
def test_what_cannot_be_is_refused(fastad, detector, both, tmp_path, options, said, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = "\n".join(str(path) for path in (both / "new").iterdir())
    (tmp_path / "new.txt").write_text(names)
    code, out, err = fastad("train", both, "--start-from", detector, *options, "--output", "n")
    assert (code, out) == (1, "")
    assert said in err
    assert not (tmp_path / "n").exists()


def test_no_detector_is_refused_before_anything_is_read(fastad, both, tmp_path):
    for name in ("missing.fastad", "both/new/1.png"):
        code, _, err = fastad("train", both, "--start-from", tmp_path / name)
        assert code == 1
        assert name.rpartition("/")[2] in err
        assert "reading" not in err
