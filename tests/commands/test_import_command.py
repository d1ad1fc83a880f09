"""``fastad import``: the file that it writes, what it says, and what it refuses."""

import sys
from pathlib import Path

import pytest
import torch

from fastad import inference

sys.path.insert(0, str(Path(__file__).parents[1] / "compat"))

import anomalib_files as written


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = written.Stfpm(written.Resize([64, 64], antialias=False), written.Normalize())
    return written.write_ckpt(tmp_path_factory.mktemp("anomalib") / "model.ckpt", model)


def test_a_detector_is_written(fastad, checkpoint, images, tmp_path):
    output = tmp_path / "part.fastad"
    good = images / "train/good"
    options = ["--calibrate", good, "--output", output, "--false-positive-rate", 0.1]
    code, out, err = fastad("import", checkpoint, *options)
    assert (code, out) == (0, ""), err
    artifact = inference.load(output)
    assert f"saved {output}: resnet18, 64x64, threshold {artifact.threshold:.6g}, " in err
    assert "at most 9.1 % false alarms by 10 held-out images (asked for: 10 %)" in err
    assert "the file's Resize is not antialiased" in err
    assert "which images anomalib trained on is not known" in err
    code, out, err = fastad("info", output)
    assert code == 0, err
    assert "training.imported_from" in out
    code, _, err = fastad("predict", output, images / "test/hole")
    assert code == 0, err
    code, _, err = fastad("check", output, images / "test/good")
    assert code == 0, err


def test_thresholds_are_kept(fastad, checkpoint, tmp_path):
    output = tmp_path / "part.fastad"
    code, _, err = fastad("import", checkpoint, "--keep-thresholds", "--output", output)
    assert code == 0, err
    artifact = inference.load(output)
    assert (artifact.threshold, artifact.threshold_set_by) == (0.25, "value")
    assert "threshold 0.25, false alarms unknown: no images were held out" in err


def test_what_is_refused(fastad, checkpoint, images, tmp_path):
    before = checkpoint.read_bytes()
    for options, status, said in (
        (["--output", tmp_path / "a.fastad"], 2, "either --calibrate or --keep-thresholds"),
        (["--keep-thresholds"], 2, "--output"),
        (["--keep-thresholds", "--output", checkpoint], 1, "model.ckpt"),
        (["--calibrate", images / "none", "--output", tmp_path / "a.fastad"], 1, "none"),
        (["--calibrate", images / "train", "--output", tmp_path / "a.fastad"], 1, "too few"),
    ):
        code, _, err = fastad("import", checkpoint, *options)
        assert code == status, err
        assert said in err
    assert checkpoint.read_bytes() == before
    assert not (tmp_path / "a.fastad").exists()
