"""Detectors that learn from real defects: what they say of it, and what their test set is."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

import fastad
from fastad import cli, inference
from fastad.export.export import metadata

OPTIONS = {"image_size": 64, "device": "cpu", "precision": "float32"}
MODEL = {"bottleneck": "learned", "teacher_weights": None}
TRAINING = {"epochs": 1, "pseudo_anomalies": 12}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Grey noise; three squares and two bars as defects, with masks."""
    root, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)

    def write(array, *parts):
        path = root.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.uint8(array)).save(path)

    for i in range(10):
        write(rng.integers(80, 120, (64, 64, 3)), "train", "good", f"{i}.png")
    for i in range(2):
        write(rng.integers(80, 120, (64, 64, 3)), "test", "good", f"{i}.png")
    for kind, count, width in (("square", 3, 14), ("bar", 2, 4)):
        for i in range(count):
            image, mask = rng.integers(80, 120, (64, 64, 3)), np.zeros((64, 64))
            image[20:34, 10 : 10 + width], mask[20:34, 10 : 10 + width] = (250, 10, 10), 255
            write(image, "test", kind, f"{i}.png")
            write(mask, "ground_truth", kind, f"{i}_mask.png")
    return root


@pytest.fixture(scope="module")
def supervised(data):
    detector = fastad.Detector("prn", **OPTIONS, **MODEL)
    with pytest.warns(UserWarning, match="false-positive rate"):
        return detector.fit(data, **TRAINING, defects=data, defect_images=3)


def test_images_that_it_learned_from_leave_the_test_set(supervised, data, tmp_path):
    metrics = supervised.evaluate(data)
    assert metrics["supervision"] == "supervised, 3 images of real defects"
    assert metrics["counts"] == {
        "normal": 2,
        "defect": 2,
        "defect_without_mask": 0,
        "skipped": 0,
        "trained_on": 3,
    }
    # By their contents, under whatever name.
    other = shutil.copytree(data, tmp_path / "other")
    for path in (other / "test" / "square").iterdir():
        path.rename(path.with_name(f"new{path.name}"))
        (other / f"ground_truth/square/{path.stem}_mask.png").rename(
            other / f"ground_truth/square/new{path.stem}_mask.png"
        )
    assert supervised.evaluate(other)["counts"]["trained_on"] == 3


def test_it_says_so_after_loading(supervised, data, tmp_path):
    supervised.save(tmp_path / "d.fastad")
    loaded = fastad.load(tmp_path / "d.fastad", device="cpu", precision="float32")
    assert loaded.training_record_["supervision"] == "supervised, 3 images of real defects"
    artifact = inference.load(tmp_path / "d.fastad")
    assert metadata(artifact)["supervision"] == "supervised, 3 images of real defects"
    assert loaded.evaluate(data)["counts"]["trained_on"] == 3
    images = np.random.default_rng(1).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    assert np.array_equal(loaded.predict(images).score, supervised.predict(images).score)


def test_without_defects_all_is_as_before(data):
    detector = fastad.Detector("stpm", **OPTIONS, teacher_weights=None, layers=("layer1",))
    with pytest.warns(UserWarning, match="false-positive rate"):
        detector.fit(data, epochs=1)
    metrics = detector.evaluate(data)
    assert metrics["supervision"] == "normal images only"
    assert metrics["counts"]["trained_on"] == 0


def test_defects_among_the_normal_images_are_refused(data, tmp_path):
    wrong = shutil.copytree(data, tmp_path / "wrong")
    shutil.copy(wrong / "test/square/0.png", wrong / "train/good/x.png")
    detector = fastad.Detector("prn", **OPTIONS, **MODEL)
    with pytest.raises(
        ValueError, match=r"defects: .*0\.png is among the normal images, too: .*x\.png"
    ):
        detector.fit(wrong, **TRAINING, defects=wrong)


@pytest.mark.parametrize(
    ("number", "message"),
    [(6, "there are 5 images with masks in .*, fewer than the 6"), (None, "no defects with masks")],
)
def test_too_few_defects_are_found_before_images_are_read(data, tmp_path, number, message):
    """The good images are read last: here they cannot be."""
    wrong = shutil.copytree(data, tmp_path / "wrong")
    (wrong / "train/good/0.png").write_bytes(b"no image")
    if number is None:
        shutil.rmtree(wrong / "ground_truth")
    detector = fastad.Detector("prn", **OPTIONS, **MODEL)
    with pytest.raises(ValueError, match=message):
        detector.fit(wrong, **TRAINING, defects=wrong, defect_images=number)


def test_stopped_before_it_saw_a_defect_it_is_not_supervised(data):
    stopped = []

    def stop(event):
        if event.stage == "discriminator" and not stopped:
            stopped.append(event)
            raise KeyboardInterrupt

    options = {"teacher2": "resnet18", "bottleneck": "learned", "teacher_weights": None}
    detector = fastad.Detector("rstpm", **OPTIONS, **options, teacher2_weights=None)
    with pytest.warns(UserWarning, match="stopped after epoch 1 of 1 of stage pairs"):
        detector.fit(data, **TRAINING, defects=data, progress=stop)
    assert detector.training_record_["supervision"] == "normal images only"
    assert detector.evaluate(data)["counts"]["trained_on"] == 0


@pytest.mark.parametrize("model", ["stpm", "gtrans"])
def test_models_without_use_for_them_refuse_them(model, data):
    detector = fastad.Detector(model, **OPTIONS, teacher_weights=None)
    with pytest.raises(ValueError, match=f"defects: the training of {model} has no use for it"):
        detector.fit(data, epochs=1, defects=data)


def run(*arguments):
    with pytest.raises(SystemExit) as stop:
        cli.main([str(argument) for argument in arguments])
    return stop.value.code


def test_on_the_command_line(data, tmp_path, capsys):
    file, report = tmp_path / "d.fastad", tmp_path / "metrics.json"
    training = [
        "--epochs",
        1,
        "--pseudo-anomalies",
        8,
        "--image-size",
        64,
        "--precision",
        "float32",
    ]
    model = ["--model", "prn", "--set", "bottleneck=learned", "--set", "teacher_weights=none"]
    defects = ["--defects", data, "--set", "defect_images=2"]
    assert run("train", data, "--output", file, *training, *model, *defects) == 0
    assert "learning from 2 images of real defects, too" in capsys.readouterr().err
    assert run("evaluate", file, data, "--json", report, "--report", tmp_path / "page") == 0
    out, err = capsys.readouterr()
    said = "training: supervised, 2 images of real defects; 2 defect images that it was trained on"
    assert said in out
    assert "2 of 5 defect images are left out" in err
    assert json.loads(report.read_text())["supervision"] == "supervised, 2 images of real defects"
    page = (tmp_path / "page" / "index.html").read_text()
    assert "supervised, 2 images of real defects" in page
    assert "2 left out that it was trained on" in page
    assert run("predict", file, data / "test/good/0.png", "--json", report) == 0
    assert json.loads(report.read_text())["supervision"] == "supervised, 2 images of real defects"
    assert run("info", file) == 0
    assert "supervised, 2 images of real defects" in capsys.readouterr().out


def test_a_folder_that_is_none_is_wrong_usage(data, capsys):
    code = run("train", data, "--model", "prn", "--defects", data / "nowhere")
    assert code == 2
    assert "--defects: there is no folder" in " ".join(capsys.readouterr().err.split())
