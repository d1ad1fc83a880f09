"""Every command from end to end, on small synthetic images."""

import csv
import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

from fastad import inference
from fastad.evaluation.score_table import COLUMNS
from fastad.inference.threshold import ROUNDING
from fastad.models import MODELS

TRAIN = ["--image-size", "64", "--batch-size", "4", "--precision", "float32"]
STPM = [*TRAIN, "--model", "stpm", "--epochs", "1"]


def write(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def test_training_result(detector, weights, images):
    artifact = inference.load(detector)
    assert artifact.image_size == (64, 64)
    assert artifact.model.config.teacher_weights == str(weights)
    assert artifact.model.config.weights == [1.0, 1.0, 0.5]
    assert artifact.training["seed"] == 3
    assert artifact.training["epochs"] == 1
    assert artifact.training["config"]["learning_rate"] == 0.4  # the model's own default
    assert artifact.training["config"]["batch_size"] == 4
    assert artifact.false_positive_rate == 0.01
    # The calibration scores are those of the held-out images, by the path of prediction.
    held_out = artifact.training["held_out"]
    paths = [images / "train" / "good" / f"{i}.png" for i in held_out]
    scores = artifact.predictor(device="cpu", precision="float32").predict(paths).score
    np.testing.assert_allclose(artifact.calibration, scores * (1 + ROUNDING), rtol=3e-6)
    assert artifact.threshold == artifact.calibration.max()
    assert len(held_out) == 2


def test_training_result_of_any_model(tiny_detector, tiny_model, images):
    artifact = inference.load(tiny_detector)
    assert artifact.model.name == tiny_model.name
    for name, value in tiny_model.options.items():
        assert getattr(artifact.model.config, name) == value
    # The calibration scores are those of images that no stage was trained on.
    held_out = artifact.training["held_out"]
    assert len(held_out) == artifact.calibration.size == {"rstpm": 1}.get(tiny_model.name, 2)
    paths = [images / "train" / "good" / f"{i}.png" for i in held_out]
    scores = artifact.predictor(device="cpu", precision="float32").predict(paths).score
    np.testing.assert_allclose(artifact.calibration, scores * (1 + ROUNDING), rtol=3e-6)


def test_evaluate(fastad, tiny_detector, images, tmp_path):
    detector = tiny_detector
    code, out, err = fastad("evaluate", detector, images, "--json", tmp_path / "m.json")
    assert code == 0, err
    metrics = json.loads((tmp_path / "m.json").read_text())
    others = dict.fromkeys(("defect_without_mask", "skipped", "trained_on"), 0)
    assert metrics["counts"] == {"normal": 2, "defect": 2, **others}
    assert metrics["supervision"] == "normal images only"
    assert metrics["per_defect"]["hole"]["aupro"] == metrics["aupro"]
    assert 0 <= metrics["image_auroc"] <= 1
    assert metrics["at_threshold"]["threshold"] == inference.load(detector).threshold
    assert f"{metrics['pixel_auroc']:.4f}" in out
    assert "false alarms" in out


def test_evaluate_to_stdout_is_json_alone(fastad, detector, images):
    code, out, _ = fastad("evaluate", detector, images, "--json", "-")
    assert code == 0
    assert set(json.loads(out)) >= {"image_auroc", "aupro", "per_defect", "counts"}


def test_undefined_scores_are_null(fastad, detector, images, tmp_path):
    write(tmp_path / "test/good/0.png", np.zeros((9, 9, 3), np.uint8))
    code, out, _ = fastad("evaluate", detector, tmp_path, "--json", "-")
    assert code == 0
    assert json.loads(out)["image_auroc"] is None


def test_predict_with_heatmaps_and_csv(fastad, tiny_detector, images, tmp_path):
    detector = tiny_detector
    out, table = tmp_path / "out", tmp_path / "scores.csv"
    code, printed, err = fastad(
        "predict", detector, images / "test", "--output", out, "--heatmaps", "--csv", table
    )
    assert code == 0, err
    assert printed == ""
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert list(rows[0]) == [*COLUMNS, "heatmap"]
    assert [row["path"] for row in rows] == [
        str(images / "test" / name / f"{i}.png") for name in ("good", "hole") for i in range(2)
    ]
    artifact = inference.load(detector)
    expected = artifact.predictor().predict(images / "test")
    assert [float(row["score"]) for row in rows] == pytest.approx(expected.score.tolist())
    assert [row["is_anomalous"] == "True" for row in rows] == expected.is_anomalous.tolist()
    pictures = sorted(p.relative_to(out).as_posix() for p in out.rglob("*.png"))
    assert pictures == ["good/0.png", "good/1.png", "hole/0.png", "hole/1.png"]
    width, height = Image.open(out / "hole" / "0.png").size
    if artifact.predictor().explains:  # beside what the model shows
        assert width > 5 * 64
        assert height > 72
    else:
        assert (width, height) == (64, 72)  # the image's own


def test_predict_to_json(fastad, detector, images, tmp_path):
    one = images / "test" / "hole" / "0.png"
    code, out, _ = fastad("predict", detector, one, one, "--json", "-")
    assert code == 0
    content = json.loads(out)
    assert [row["path"] for row in content["images"]] == [str(one)]
    assert isinstance(content["images"][0]["is_anomalous"], bool)
    assert content["threshold"] == inference.load(detector).threshold
    assert content["supervision"] == "normal images only"


def test_predict_to_stdout_and_to_a_folder(fastad, detector, images, tmp_path):
    _, out, _ = fastad("predict", detector, images / "test" / "good")
    assert out.splitlines()[0] == ",".join(COLUMNS)
    assert len(out.splitlines()) == 3
    fastad("predict", detector, images / "test" / "good", "--output", tmp_path / "new" / "dir")
    assert (tmp_path / "new" / "dir" / "scores.csv").read_text() == out


def test_images_of_one_name_get_two_heatmaps(fastad, detector, tmp_path):
    for name in ("a.png", "a.bmp", "b.png"):
        write(tmp_path / "i" / name, np.zeros((8, 8, 3), np.uint8))
    places = (tmp_path / "i", "--output", tmp_path / "o")
    code, _, err = fastad("predict", detector, *places, "--heatmaps")
    assert code == 0, err
    names = sorted(p.name for p in (tmp_path / "o").glob("*.png"))
    assert names == ["a.bmp.png", "a.png.png", "b.png"]


def test_info(fastad, detector):
    code, out, _ = fastad("info")
    assert code == 0
    assert torch.__version__ in out
    assert "FASTAD_WEIGHTS" in out
    assert re.search(r"^embedded +resnet18 up to layer3$", out, re.M)
    assert "auto means" in out
    code, out, _ = fastad("info", detector)
    assert code == 0
    assert "64x64 (height x width)" in out
    assert re.search(r"^weights\.teacher +resnet18_random\.pth$", out, re.M)
    assert "training.best_epoch" in out


def test_info_shows_options_and_stages(fastad, tiny_detector, tiny_model):
    code, out, _ = fastad("info", tiny_detector)
    assert code == 0
    lines = dict(re.split(r"  +", line, maxsplit=1) for line in out.splitlines())
    assert lines["model"].startswith(f"{tiny_model.name}, ")
    assert lines["model.teacher_weights"] == "none"
    names = [name for name in lines if name.startswith("weights.")]
    assert [lines[name] for name in names] == ["none"] * (1 + (tiny_model.name == "rstpm"))
    stages = MODELS[tiny_model.name].stages
    if len(stages) == 1:
        assert lines["training.epochs"] == str(int(tiny_model.trains))
        assert lines.get("training.best_epoch") == ("1" if tiny_model.trains else None)
        assert not any(name.startswith("stage.") for name in lines)
    else:
        assert "training.best_epoch" not in lines
        assert [f"stage.{s.name}" for s in stages] == [n for n in lines if n[:6] == "stage."]
    known = {
        "stpm": ("layers", "layer1,layer2"),
        "gtrans": ("token_width", "16"),
        "prn": ("bottleneck", "learned"),
        "utad": ("comparison", "perceptual"),
        "patchcore": ("memory", "16"),
        "subspace": ("distance", "residual"),
        "rstpm": ("decoder_blocks", "2,2,2"),
    }
    option, value = known[tiny_model.name]
    assert lines[f"model.{option}"] == value
    if tiny_model.name == "rstpm":
        assert lines["model.bottleneck"] == "learned"
        assert lines["model.attention"] == "true"
        assert lines["stage.pairs"].startswith("epoch 1 of 1 kept, 8 images an epoch, adam at ")
        assert lines["stage.discriminator"].startswith("epoch 1 of 1 kept, 8 images an epoch, adam")
        assert re.search(r"^note .*held-out", out, re.M)


def test_info_finds_weights(fastad, weights, monkeypatch):
    monkeypatch.setenv("FASTAD_WEIGHTS", str(weights.parent))
    assert "resnet18_random.pth" in fastad("info")[1]


@pytest.mark.slow
def test_seed_decides_everything(fastad, images, tiny_model, tmp_path):
    files = [tmp_path / "a.fastad", tmp_path / "b.fastad", tmp_path / "c.fastad"]
    for path, seed in zip(files, (0, 0, 1), strict=True):
        code, _, err = fastad(
            "train", images, *TRAIN, *tiny_model.arguments(), "--output", path, "--seed", seed
        )
        assert code == 0, err
        assert "saved" in err
    a, b, c = (inference.load(path) for path in files)
    assert np.array_equal(a.calibration, b.calibration)
    assert not np.array_equal(a.calibration, c.calibration)
    assert a.training["held_out"] != c.training["held_out"]


def test_too_few_held_out_images_are_said_in_one_line(fastad, images, weights, tmp_path):
    code, _, err = fastad(
        "train", images, *STPM, "--teacher-weights", weights, "--output", tmp_path / "w.fastad"
    )
    assert code == 0
    lines = [line for line in err.splitlines() if line.startswith("warning: ")]
    assert len(lines) == 1
    assert "held-out normal images allow; the 1 % asked for needs 99" in lines[0]


def test_set_reaches_the_model_and_the_training(fastad, images, weights, tmp_path):
    code, _, err = fastad(
        "train", images, *STPM, "--teacher-weights", weights, "--output", tmp_path / "d.fastad",
        "--set", "validation_fraction=0", "--set", "learning_rate=0.01", "--set", "layers=layer1",
    )  # fmt: skip
    assert code == 0, err
    assert "no images held out" in err
    artifact = inference.load(tmp_path / "d.fastad")
    assert artifact.threshold is None
    assert artifact.model.config.layers == ("layer1",)
    assert artifact.training["config"]["learning_rate"] == 0.01
    code, out, _ = fastad("predict", tmp_path / "d.fastad", images / "test" / "good")
    assert code == 0
    for row in csv.DictReader(out.splitlines()):
        assert (row["p_value"], row["is_anomalous"], row["status"]) == ("", "", "ok")


def interrupt_at(monkeypatch, epoch, step):
    from fastad.training import ConsoleProgress

    def listen(self, event):
        if (event.epoch, event.step) == (epoch, step) and event.losses is None:
            raise KeyboardInterrupt

    monkeypatch.setattr(ConsoleProgress, "__call__", listen)


def test_interrupt_saves_what_there_is(fastad, images, tiny_model, tmp_path, monkeypatch):
    if not tiny_model.trains:
        pytest.skip("nothing is learnt before the images are read")
    interrupt_at(monkeypatch, 2, 1)
    arguments = ["train", images, *TRAIN, *tiny_model.arguments(epochs=5)]
    code, _, err = fastad(*arguments, "--output", tmp_path / "i.fastad")
    assert code == 1
    assert "error: stopped by the user" in err
    training = inference.load(tmp_path / "i.fastad").training
    assert training["interrupted"]
    assert training["epochs"] == 1


def test_interrupt_before_anything_is_learnt(fastad, images, weights, tmp_path, monkeypatch):
    interrupt_at(monkeypatch, 1, 1)
    code, _, err = fastad(
        "train", images, *STPM, "--teacher-weights", weights, "--output", tmp_path / "i.fastad"
    )
    assert code == 1
    assert "nothing was saved" in err
    assert not (tmp_path / "i.fastad").exists()
