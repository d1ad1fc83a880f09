"""``fastad bench``: what it measures, writes and compares."""

import json
import re

import numpy as np
import pytest
import torch

from fastad.commands import bench
from fastad.inference import Predictor
from fastad.models import MODELS

QUICK = ("--image-size", "64", "--seconds", "0", "--frames", "20")


def test_bench(fastad, tmp_path):
    code, out, err = fastad(
        "bench", *QUICK, "--batch-size", "1", "--batch-size", "2", "--json", tmp_path / "b.json"
    )
    assert code == 0, err
    record = json.loads((tmp_path / "b.json").read_text())
    assert min(record["machine"].values()) > 0
    *compared, frame, photograph = record["results"]
    assert [row["batch_size"] for row in compared] == [1, 1, 1, 2, 2, 2]
    for row in compared:
        if "ratio" in row:
            assert row["ratio"] == pytest.approx(row["reference_ms"] / row["ms"])
        else:
            assert row["images_per_second"] == pytest.approx(1e3 * row["batch_size"] / row["ms"])
            assert row["unfused_ms"] > 0
            assert 0 < row["share_of_matrix_peak"] < 2  # little is measured in no time
    assert frame["frames"] == 20
    assert frame["ms"] <= frame["p99_ms"] <= frame["maximum_ms"]
    steps = photograph["stages_ms"]
    assert list(steps) == ["decode", "resize", "predict"]
    assert photograph["ms"] == pytest.approx(sum(steps.values()))
    assert steps[photograph["slowest"]] == max(steps.values())
    assert len(out.splitlines()) == 9


def test_other_models_are_compared_with_stpm(fastad, tmp_path):
    code, out, err = fastad(
        "bench", "--model", "rstpm", *QUICK, "--batch-size", "1", "--json", tmp_path / "b.json"
    )
    assert code == 0, err
    rows = json.loads((tmp_path / "b.json").read_text())["results"]
    (row,) = (row for row in rows if row["work"] == "rstpm")
    assert row["slower"] == pytest.approx(row["ms"] / row["stpm_ms"])
    assert f"{row['slower']:.2f} x the time of stpm" in out


@pytest.mark.parametrize("name", MODELS)
def test_operations_of_every_model_are_counted(name):
    predictor = bench._of_model(name, "64", "cpu", "float32").predictor()
    pixels = 64 * 64
    assert 1e3 * pixels < bench.operations(predictor) < 1e7 * pixels


def test_wrong_usage(fastad, detector, tmp_path):
    """As of `fastad train`: exit code 2."""
    for options, message in (
        (("bench", "--model", "nope"), "unknown model 'nope'"),
        (("bench", "--image-size", "a"), "image size must be"),
        (("export", detector, "--format", "torch-export", "--output", "p.x"), "end in .pt2"),
    ):
        code, _, err = fastad(*options)
        assert code == 2
        assert message in " ".join(err.replace("│", " ").split())


def test_what_a_detector_is_compared_with_has_its_precision(detector, monkeypatch):
    """One that is served in bfloat16 is not measured beside an STPM in float32."""
    made = []

    def recorded(model, size, *, device, precision):
        made.append(precision)
        return Predictor(model, size, device=device, precision=precision)

    monkeypatch.setattr(bench, "Predictor", recorded)
    monkeypatch.setattr(bench, "BASELINE", "rstpm")  # another than the file's
    subject = bench._of_file(str(detector), "cpu", "bfloat16")
    row = bench._model(subject, 1, torch.device("cpu"), "bfloat16", 0.0)
    assert made == ["bfloat16"]
    assert row["slower"] == pytest.approx(row["ms"] / row["rstpm_ms"])


def test_a_detector_of_one_s_own(fastad, detector, tmp_path):
    code, out, err = fastad(
        "bench", detector, *QUICK[2:], "--batch-size", "1", "--json", tmp_path / "b.json"
    )
    assert code == 0, err
    record = json.loads((tmp_path / "b.json").read_text())
    assert record["image_size"] == [64, 64]
    assert record["detector"] == "small.fastad"
    assert "stpm, one frame" in out
    code, _, err = fastad("bench", detector, "--model", "rstpm")
    assert code == 2
    assert "has its own model and image size" in " ".join(err.split())
    code, _, err = fastad("bench", detector, "--compare", tmp_path / "b.json", tmp_path / "b.json")
    assert code == 2
    assert "leave out the detector file" in " ".join(err.split())
    code, _, err = fastad("bench", tmp_path / "gone.fastad")
    assert code == 1
    assert "gone.fastad" in err


def test_two_runs_are_compared(fastad, tmp_path):
    def record(name, milliseconds, **facts):
        rows = [{"work": work, "batch_size": 8, "ms": ms} for work, ms in milliseconds.items()]
        (tmp_path / name).write_text(json.dumps({"threads": 2, "results": rows, **facts}))
        return tmp_path / name

    old = record("old.json", {"stpm": 30.0, "loss": 1.0, "gone": 5.0})
    new = record("new.json", {"stpm": 12.0, "loss": 1.25, "added": 5.0}, threads=4)
    code, out, err = fastad("bench", "--compare", old, new)
    assert code == 0, err
    found = re.findall(r"^(\w+), batch 8 +([\d.]+) ms +([\d.]+) ms +([\d.]+) x", out, re.M)
    assert [row[0] for row in found] == ["stpm", "loss"]
    np.testing.assert_allclose(
        [[float(value) for value in row[1:]] for row in found], [[30, 12, 2.5], [1, 1.25, 0.8]]
    )
    assert "threads differs: 2 and 4" in out
    code, _, err = fastad("bench", "--compare", old, record("other.json", {"rstpm": 1.0}))
    assert code == 1
    assert "nothing alike" in err
