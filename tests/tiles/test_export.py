"""The loop of the docs, with onnxruntime alone, gives the map of the detector."""

import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import fastad
from fastad import inference
from fastad.cli import app
from fastad.export import export_tiles
from fastad.export.export import ExportError
from fastad.export.tiles import one_shape
from fastad.tiles import Reach
from fastad.tiles.windows import windows

PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "large-images.md"


def loop() -> str:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    [code] = [block for block in blocks if "import onnxruntime" in block]
    assert "fastad" not in re.findall(r"^(?:import|from) (\w+)", code, re.M)
    assert len(code.splitlines()) < 40
    return code


def test_tiles_of_one_shape_see_what_they_must():
    for length in (205, 333, 1000):
        found = windows(length, 64, Reach(step=16, before=20, after=31, strides=(4,)))
        same = one_shape(found, length)
        assert len({window.last - window.first for window in same}) == 1
        for one, other in zip(found, same, strict=True):
            assert (other.begin, other.end) == (one.begin, one.end)
            assert 0 <= other.first <= one.first
            assert one.last <= other.last <= length
            assert other.first % 16 == (length - other.last) % 16 == 0


@pytest.mark.slow
@pytest.mark.parametrize(("name", "overview"), [("stpm", 0), ("patchcore", 0), ("stpm", 2)])
def test_the_loop_gives_the_detectors_map(name, overview, tmp_path, monkeypatch):
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    good = np.random.default_rng(0).integers(100, 156, (8, 133, 150, 3), dtype=np.uint8)
    epochs = {"epochs": 1, "min_steps": 0} if name == "stpm" else {}
    options = {"image_size": (133, 150), "teacher_weights": "embedded", "layers": ("layer1",)}
    options["overview"] = overview
    detector = fastad.Detector(name, false_positive_rate=0.3, precision="float32", **options)
    detector.fit(good, tile=(64, 48), self_check=False, **epochs).save("part.fastad")
    part = good[0].copy()
    part[60:80, 60:90] = 0
    Image.fromarray(part).save("part.png")
    asked = ["export", "part.fastad", "--format", "onnx", "--tile", "64x48"]
    done = CliRunner().invoke(app, [*asked, "--verify", "part.png"])
    assert done.exit_code == 0, done.output
    assert sorted(os.listdir("part_tiles")) == ["tile.onnx", "whole.onnx"]
    namespace: dict = {}
    exec(loop(), namespace)
    expected = detector.predict(part)
    np.testing.assert_allclose(namespace["score"], expected.score, rtol=1e-4)
    np.testing.assert_allclose(namespace["anomaly_map"], expected.anomaly_map, rtol=1e-4, atol=1e-5)
    facts = namespace["facts"]
    assert facts["threshold"] == detector.threshold_
    assert len(facts["rows"]) * len(facts["columns"]) > 4
    artifact = inference.load("part.fastad")
    with pytest.raises(ExportError, match="do not agree"):
        export_tiles(artifact, "others", (64, 48), tolerance=-1.0)
    assert os.listdir("others") == []


def test_what_cannot_be_exported_is_refused(tmp_path):
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    good = np.random.default_rng(0).integers(100, 156, (6, 64, 64, 3), dtype=np.uint8)
    options = {"image_size": 64, "teacher_weights": "embedded", "layers": ("layer1",)}
    detector = fastad.Detector("subspace", false_positive_rate=0.5, **options)
    detector.fit(good, self_check=False)
    with pytest.raises(ValueError, match="trained on whole images"):
        export_tiles(detector._artifact, tmp_path)
    detector.save(tmp_path / "part.fastad")
    asked = ["export", str(tmp_path / "part.fastad"), "--tile", "32", "--format"]
    other = CliRunner().invoke(app, [*asked, "torch-export"])
    assert other.exit_code == 2
    assert "--format onnx" in other.output
    a_file = ["--output", str(tmp_path / "part.fastad")]
    assert CliRunner().invoke(app, [*asked, "onnx", *a_file]).exit_code == 2
