"""``fastad export``: the file, what is said of it, and what may go wrong."""

import numpy as np
import pytest
import torch
from PIL import Image

from fastad.cli.files import ExportFormat
from fastad.data import read_image
from fastad.export.formats import FORMATS, Format
from fastad.inference import load, save


def test_the_option_names_the_formats_there_are():
    assert [format.value for format in ExportFormat] == list(FORMATS)


@pytest.mark.slow
def test_a_trained_detector_becomes_a_file_that_agrees(fastad, detector, images, tmp_path):
    # Scores of noise lie near each other and the threshold, closer than the two resizes agree, of
    # which one rounds to grey levels: the images have the detector's size.
    far = load(detector)
    fitting = tmp_path / "fitting"
    fitting.mkdir()
    for number, path in enumerate(sorted((images / "test").rglob("*.png"))):
        with Image.open(path) as image:
            image.convert("RGB").resize(far.image_size[::-1]).save(fitting / f"{number}.png")
    far.threshold = 0.9 * min(far.calibration)
    detector, output = tmp_path / "small.fastad", tmp_path / "small.pt2"
    save(detector, far)
    arguments = ["export", detector, "--format", "torch-export", "--output", output]
    code, out, err = fastad(*arguments, "--verify", fitting)
    assert (code, out) == (0, ""), err
    assert f"compared with the detector on {fitting}, 0.005 allowed: relative error" in err
    assert "over 4 images, rank correlation 1.000000, 0 decisions changed" in err
    assert f"saved {output}" in err

    picture = read_image(images / "test/hole/0.png")
    result = torch.export.load(output).module()(picture.permute(1, 2, 0)[None])
    expected = load(detector).predictor(device="cpu", precision="float32").predict(picture[None])
    np.testing.assert_allclose(result["score"], expected.score, rtol=5e-3)


@pytest.fixture
def fake(monkeypatch):
    """Replace a format by one that writes any text and gives ``score`` for every image."""

    def install(score):
        def run(images):
            n = len(images)
            return np.full(n, score, np.float32), np.full((n, 64, 64), score, np.float32)

        def write(program, path, text):
            path.write_text(text)

        monkeypatch.setattr("fastad.export.export.trace", lambda artifact, fused_ops: None)
        kind = Format(".pt2", (), True, write, lambda path: run)
        monkeypatch.setitem(FORMATS, "torch-export", kind)

    return install


def test_a_file_that_differs_fails_and_is_not_kept(fastad, detector, images, tmp_path, fake):
    fake(score=np.nan)
    output = tmp_path / "d.pt2"
    code, _, err = fastad("export", detector, "--format", "torch-export", "--output", output)
    assert code == 1
    [line] = [line for line in err.splitlines() if line.startswith("error: ")]
    assert "does not agree with the detector" in line
    assert list(tmp_path.iterdir()) == []


def test_the_file_goes_beside_the_detector(fastad, detector, images, tmp_path, monkeypatch):
    (tmp_path / "bottle.fastad").write_bytes(detector.read_bytes())
    targets = []
    monkeypatch.setattr(
        "fastad.commands.export.export_detector",
        lambda artifact, path, format, **options: targets.append(path) or "equal",
    )
    for name in ("torch-export", "aotinductor"):
        assert fastad("export", tmp_path / "bottle.fastad", "--format", name)[0] == 0
    assert targets == [tmp_path / "bottle.pt2", tmp_path / "bottle.aoti.pt2"]


@pytest.mark.parametrize(
    ("arguments", "code", "match"),
    [
        (["DETECTOR"], 2, "--format"),
        (["DETECTOR", "--format", "tflite"], 2, "tflite"),
        (["DETECTOR", "--format", "onnx", "--fused-ops"], 2, "onnx cannot hold fastad's ops"),
        (["nowhere.fastad", "--format", "torch-export"], 1, "nowhere.fastad"),
        (["DETECTOR", "--format", "torch-export", "--verify", "nowhere"], 1, "no image and no"),
        (["DETECTOR", "--format", "torch-export", "--verify", "OUT"], 1, "no images in the folder"),
        (["DETECTOR", "--format", "torch-export", "--output", "OUT"], 1, "is a folder"),
        (["DETECTOR", "--format", "torch-export", "--output", "OUT/x.onnx"], 2, "end in .pt2"),
        (["DETECTOR", "--format", "torch-export", "--output", "OUT/no/x.pt2"], 1, "no folder"),
        (["DETECTOR", "--format", "torch-export", "--output", "DETECTOR"], 1, "would be overwr"),
    ],
)
def test_errors_are_one_line(fastad, detector, tmp_path, arguments, code, match):
    places = {"DETECTOR": str(detector), "OUT": str(tmp_path)}
    for name, path in places.items():
        arguments = [a.replace(name, path, 1) if a.startswith(name) else a for a in arguments]
    got, out, err = fastad("export", *arguments)
    assert (got, out) == (code, "")
    assert match in " ".join(err.replace("│", " ").split())
    assert "Traceback" not in err
    if code == 1:
        assert len([line for line in err.splitlines() if line.startswith("error: ")]) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_one_line(fastad, detector, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda package: None)
    code, _, err = fastad("export", detector, "--format", "openvino")
    assert code == 1
    assert "the format openvino needs openvino: pip install openvino\n" in err
