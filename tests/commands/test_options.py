"""Options that reach across commands: resuming, skipping, rates, masks, quiet and verbose."""

import csv
import io
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fastad import Detector, inference
from fastad.training import ConsoleProgress

TRAIN = ["--image-size", "64", "--batch-size", "4", "--precision", "float32"]
STPM = ["--model", "stpm", "--epochs", "3"]


@pytest.fixture
def train(fastad, images, weights, tmp_path):
    def run(*options, data=images, output=tmp_path / "d.fastad"):
        return fastad(
            "train", data, *TRAIN, *STPM, "--teacher-weights", weights, "--output", output, *options
        )

    return run


@pytest.fixture
def train_any(fastad, images, tiny_model, tmp_path):
    def run(*options, output=tmp_path / "d.fastad"):
        words = [*TRAIN, *tiny_model.arguments(epochs=3)]
        return fastad("train", images, *words, "--output", output, *options)

    return run


def interrupt_in(monkeypatch, epoch):
    listen = ConsoleProgress.__call__

    def stop(self, event):
        listen(self, event)
        if event.epoch == epoch and event.losses is None:
            raise KeyboardInterrupt

    monkeypatch.setattr(ConsoleProgress, "__call__", stop)


@pytest.mark.slow
def test_an_interrupted_training_is_resumed(train_any, tiny_model, tmp_path, monkeypatch):
    if not tiny_model.trains:
        pytest.skip("nothing is trained")
    code, _, err = train_any(output=tmp_path / "whole.fastad")
    assert code == 0, err
    assert not (tmp_path / "whole.fastad.checkpoint").exists()

    with monkeypatch.context() as patched:
        interrupt_in(patched, 2)
        code, _, err = train_any()
    assert code == 1
    checkpoint = tmp_path / "d.fastad.checkpoint"
    assert f"error: stopped by the user: --resume goes on from {checkpoint}" in err
    assert "epoch 1 of 3" in err
    assert inference.load(tmp_path / "d.fastad").training["epochs"] == 1

    code, _, err = train_any()
    assert code == 1
    assert "continue it with --resume, or delete it" in err
    code, _, err = train_any("--resume", "--seed", "5")
    assert code == 1
    assert "seed 0 in the file, 5 now" in err
    assert f"to start anew, delete {checkpoint}" in err
    code, _, err = train_any("--resume")
    assert code == 0, err
    assert not checkpoint.exists()
    one, other = (inference.load(tmp_path / f"{name}.fastad") for name in ("whole", "d"))
    states = one.model.state_dict(), other.model.state_dict()
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])
    assert np.array_equal(one.calibration, other.calibration)
    assert one.training["losses"] == other.training["losses"]


def test_an_interrupt_leaves_an_older_detector_as_it_was(train, detector, tmp_path, monkeypatch):
    path = tmp_path / "d.fastad"
    shutil.copy(detector, path)
    before = path.read_bytes()
    interrupt_in(monkeypatch, 2)
    code, _, err = train("--force")
    assert code == 1
    assert "is left as it was: --resume goes on from" in err
    assert path.read_bytes() == before
    assert (tmp_path / "d.fastad.checkpoint").exists()
    code, _, err = train("--resume")
    assert code == 1
    assert "is not of the training in" in err
    assert path.read_bytes() == before


def test_another_detector_is_replaced_by_force_alone(train, tmp_path, monkeypatch):
    path = tmp_path / "d.fastad"
    assert train("--epochs", "1")[0] == 0
    before = path.read_bytes()
    code, _, err = train("--epochs", "1", "--seed", "1")
    assert code == 1
    assert f"{path} exists: --force replaces it, another --output keeps it" in err
    assert path.read_bytes() == before
    assert train("--epochs", "1", "--seed", "1", "--force")[0] == 0
    assert path.read_bytes() != before


def test_a_stopped_training_may_replace_its_own_detector(train, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        interrupt_in(patched, 2)
        assert train()[0] == 1
    assert inference.load(tmp_path / "d.fastad").training["epochs"] == 1
    code, _, err = train("--resume")
    assert code == 0, err
    assert inference.load(tmp_path / "d.fastad").training["epochs"] == 3


def test_an_interrupt_elsewhere_is_one_line(fastad, detector, images, monkeypatch):
    def stop(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("fastad.inference.PredictionResult.rows", stop)
    code, _, err = fastad("predict", detector, images / "test")
    assert code == 1
    assert err.strip().endswith("error: stopped by the user")


def test_pictures_are_never_put_among_the_images(fastad, detector, images, tmp_path):
    folder = tmp_path / "images"
    shutil.copytree(images / "test", folder)
    for output in (folder, folder / "out"):
        code, _, err = fastad("predict", detector, folder, "--output", output, "--heatmaps")
        assert code == 1
        assert "its pictures would be taken for images the next time" in err
    assert len(list(folder.rglob("*.png"))) == 4
    code, _, err = fastad("predict", detector, folder, "--output", folder)  # a table may be there
    assert code == 0, err
    assert (folder / "scores.csv").exists()


def test_the_table_names_the_pictures(fastad, detector, images, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("a.png", "a.bmp", "b.png"):
        Image.open(images / "test/good/0.png").save(folder / name)
    code, _, err = fastad(
        "predict", detector, folder, folder / ".." / "images" / "b.png", "--output",
        tmp_path / "out", "--heatmaps", "--masks",
    )  # fmt: skip
    assert code == 0, err
    with open(tmp_path / "out" / "scores.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3  # b.png was given twice
    for row in rows:
        assert (tmp_path / "out" / row["heatmap"]).is_file()
        assert (tmp_path / "out" / row["mask"]).is_file()
    assert len({row["heatmap"] for row in rows}) == 3


def test_names_that_are_no_text_are_written_all_the_same(fastad, detector, images, tmp_path):
    folder = tmp_path / "odd"
    folder.mkdir()
    name = os.fsdecode(b"b\xff\xfed.png")
    shutil.copy(images / "test/good/0.png", folder / name)
    for target in ("--csv", "--json"):
        code, _, err = fastad("predict", detector, folder, target, tmp_path / "table")
        assert code == 0, err
    code, out, err = fastad("predict", detector, folder)
    assert code == 0, err
    assert "d.png" in out
    code, _, err = fastad("predict", detector, folder, "--csv", tmp_path / "t.csv")
    assert os.fsencode(name) in (tmp_path / "t.csv").read_bytes()


def test_a_detector_without_threshold_says_so(fastad, train, images, tmp_path):
    code, _, err = train("--set", "validation_fraction=0", "--epochs", "1")
    assert code == 0, err
    code, _, err = fastad("predict", tmp_path / "d.fastad", images / "test")
    assert code == 0
    assert "has no threshold, as no images were held out: nothing is decided" in err


def test_unreadable_images_are_skipped_and_counted(fastad, train, detector, images, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(images, data)
    for place in ("train/good/x.png", "test/hole/x.png", "ground_truth/hole/1_mask.png"):
        (data / place).write_bytes(b"no image")
    code, _, err = train(data=data)
    assert code == 1
    assert "x.png" in err
    code, _, err = train("--skip-bad", data=data)
    assert code == 0, err
    assert "warning: skipped" in err
    assert "1 unreadable images skipped: x.png" in err
    assert inference.load(tmp_path / "d.fastad").training["images"] == 10

    table = tmp_path / "scores.csv"
    code, out, err = fastad("evaluate", detector, data, "--skip-bad", "--json", "-", "--csv", table)
    assert code == 4, err
    assert json.loads(out)["counts"]["skipped"] == 2
    assert err.count("warning: not measured: ") == 2
    last = "2 of 5 images, or their masks, cannot be read: they were not measured"
    assert err.splitlines()[-1] == f"warning: {last}"
    rows = list(csv.DictReader(io.StringIO(table.read_text())))
    assert [(Path(r["path"]).name, r["status"], r["is_defect"]) for r in rows] == [
        ("0.png", "ok", "False"),
        ("1.png", "ok", "False"),
        ("0.png", "ok", "True"),
        ("1.png", "unreadable", "True"),
        ("x.png", "unreadable", "True"),
    ]
    assert "1_mask.png" in rows[3]["error"]
    assert fastad("evaluate", detector, data)[0] == 1
    assert fastad("evaluate", detector, images, "--skip-bad")[0] == 0


def test_an_image_that_cannot_be_read_has_a_row(fastad, detector, images, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(images / "test", data)
    bad = data / "good" / "0a.png"  # between the others
    bad.write_bytes(b"no image")
    for option, expected in (("--skip-bad", 4), ("--batch-size=1", 1)):
        code, out, err = fastad("predict", detector, data, option)
        assert code == expected, err
        rows = list(csv.DictReader(io.StringIO(out)))
        assert [row["status"] for row in rows] == ["ok", "unreadable", "ok", "ok", "ok"]
        assert rows[1]["path"] == str(bad)
        assert (rows[1]["score"], rows[1]["p_value"], rows[1]["is_anomalous"]) == ("", "", "")
        assert "0a.png" in rows[1]["error"]
        assert all(row["score"] and not row["error"] for row in rows[:1] + rows[2:])
        assert "1 of 5 images cannot be read and were not inspected" in err
        lines = err.splitlines()
        assert any(
            line.startswith("warning: not inspected: ") and "0a.png" in line for line in lines
        )
    assert lines[-1].startswith("error: ")
    assert str(bad) in lines[-1]
    code, _, _ = fastad("predict", detector, data, "--skip-bad", "--json", tmp_path / "p.json")
    assert code == 4
    content = json.loads((tmp_path / "p.json").read_text())
    assert content["unreadable"] == 1
    assert [row["status"] for row in content["images"]].count("unreadable") == 1
    whole = fastad("predict", detector, images / "test")[1]
    assert [row["score"] for row in rows if row["score"]] == [
        row["score"] for row in csv.DictReader(io.StringIO(whole))
    ]


def test_pictures_of_the_images_that_can_be_read_are_drawn(fastad, detector, images, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(images / "test" / "good", data)
    (data / "x.png").write_bytes(b"no image")
    code, _, _ = fastad("predict", detector, data, "--output", tmp_path / "o", "--heatmaps")
    assert code == 1
    rows = list(csv.DictReader((tmp_path / "o" / "scores.csv").read_text().splitlines()))
    assert [row["heatmap"] for row in rows] == ["0.png", "1.png", ""]
    assert sorted(p.name for p in (tmp_path / "o").glob("*.png")) == ["0.png", "1.png"]


@pytest.mark.filterwarnings("ignore")
def test_an_image_unlike_the_good_ones_is_named(fastad, detector, tmp_path):
    pixels = np.random.default_rng(5).integers(80, 120, (72, 64, 3))
    for name, image in (("a", pixels), ("b", pixels * 0.2), ("c", pixels[:20])):
        Image.fromarray(image.astype(np.uint8)).save(tmp_path / f"{name}.png")
    code, out, err = fastad("predict", detector, tmp_path)
    assert code == 0, err
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [row["input"] for row in rows] == ["ok", "dark", "shape"]
    assert "2 of 3 images are unlike the good images of the training (1 dark, 1 shape; " in err
    assert "--strict calls these anomalous" in err
    code, out, err = fastad("predict", detector, tmp_path, "--strict", "--json", "-")
    assert code == 0, err
    found = json.loads(out)["images"]
    assert [row["input"] for row in found] == ["ok", "dark", "shape"]
    plain = [row["is_anomalous"] == "True" for row in rows]
    assert [row["is_anomalous"] for row in found] == [plain[0], True, True]


def test_where_no_image_can_be_read_the_rows_say_so(fastad, detector, tmp_path):
    (tmp_path / "x.png").write_bytes(b"no image")
    for options in ([], ["--skip-bad"]):
        code, out, err = fastad("predict", detector, tmp_path / "x.png", *options)
        assert code == 1
        assert err.splitlines()[-1] == "error: none of the 1 images can be read"
        assert [row["status"] for row in csv.DictReader(io.StringIO(out))] == ["unreadable"]


def test_another_rate_changes_the_decisions_not_the_file(fastad, train, images, tmp_path):
    path = tmp_path / "d.fastad"
    code, _, err = train("--set", "validation_fraction=0.5")
    assert code == 0, err
    before = path.read_bytes()
    scores = np.sort(inference.load(path).calibration)
    for rate, threshold in ((0.4, scores[3]), (0.7, scores[1])):  # ranks ceil(6 * 0.6), (6 * 0.3)
        command = ["--false-positive-rate", rate, "--json", "-"]
        code, out, err = fastad("predict", path, images / "train", *command)
        assert code == 0, err
        result = json.loads(out)
        assert result["threshold"] == threshold
        for row in result["images"]:
            assert row["is_anomalous"] == (row["score"] > threshold)
        code, out, err = fastad("evaluate", path, images, *command)
        assert code == 0, err
        assert json.loads(out)["at_threshold"]["threshold"] == threshold
    assert path.read_bytes() == before


def test_masks_have_the_size_of_their_images(fastad, tiny_detector, tiny_model, images, tmp_path):
    code, _, err = fastad(
        "predict", tiny_detector, images / "test", "--output", tmp_path / "out", "--masks",
        "--false-positive-rate", "0.7", "--json", tmp_path / "s.json",
    )  # fmt: skip
    assert code == 0, err
    masks = sorted((tmp_path / "out").rglob("*.png"))
    assert [str(m.relative_to(tmp_path / "out")) for m in masks] == [
        f"{kind}/{i}_mask.png" for kind in ("good", "hole") for i in range(2)
    ]
    rows = json.loads((tmp_path / "s.json").read_text())["images"]
    marked = {}
    for path in masks:
        mask = np.asarray(Image.open(path))
        assert mask.shape == (72, 64)
        assert set(np.unique(mask)) <= {0, 255}
        marked[path.parent.name, path.stem.removesuffix("_mask")] = bool(mask.any())
    # The score is the maximum of the map, but for these.
    for row in rows if tiny_model.name not in ("utad", "patchcore") else ():
        kind, name = row["path"].split("/")[-2:]
        assert marked[kind, name.removesuffix(".png")] == row["is_anomalous"]
    assert any(marked.values())


def test_auto_size_keeps_the_aspect_ratio(train, weights, tmp_path):
    for i in range(3):
        (tmp_path / "wide").mkdir(exist_ok=True)
        Image.fromarray(np.full((40, 80, 3), 50 + i, np.uint8)).save(tmp_path / f"wide/{i}.png")
    code, _, err = train("--image-size", "auto", "--epochs", "1", data=tmp_path / "wide")
    assert code == 0, err
    assert inference.load(tmp_path / "d.fastad").image_size == (192, 384)


def test_quiet_verbose_and_normal(fastad, train, detector, images, tmp_path):
    _, _, normal = train("--epochs", "1")
    assert "reading 10 normal images" in normal
    assert "epoch 1/1" in normal
    _, _, quiet = train("--epochs", "1", "--force", "--quiet")
    assert all(line.startswith("warning: ") for line in quiet.splitlines())
    _, _, verbose = train("--epochs", "1", "--force", "-v")
    assert len(verbose.splitlines()) > len(normal.splitlines())
    code, out, err = fastad("-q", "predict", detector, images / "test/good")
    assert code == 0
    assert err == ""
    assert len(out.splitlines()) == 3


def test_the_options_of_train_are_grouped_and_have_the_detectors_defaults(fastad, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    _, out, _ = fastad("train", "--help")
    panels = re.findall(r"^╭─ (.*?) ─", out, re.M)
    assert panels[-5:] == ["Data", "Model", "Training", "Synthesised defects", "Output"]
    for name, value in Detector().get_params().items():
        [option] = re.findall(rf"--{name.replace('_', '-')} (.*?)(?=\n│ --|\n╰)", out, re.S)
        assert (f"[default: {value}]" in option) == (name != "batch_size")


def test_every_command_shows_examples(fastad):
    for command in ("train", "evaluate", "predict", "export", "bench", "demo", "info"):
        code, out, _ = fastad(command, "--help")
        assert code == 0
        assert f"fastad {command}" in out.split("Examples:")[1]


def test_evaluate_overwrites_nothing_that_it_reads(fastad, detector, images, tmp_path):
    data, path = tmp_path / "data", tmp_path / "d.fastad"
    shutil.copytree(images, data)
    shutil.copy(detector, path)
    for target in (path, data / "test/good/0.png", data / "ground_truth/hole/0_mask.png"):
        before = target.read_bytes()
        code, _, err = fastad("evaluate", path, data, "--json", target)
        assert code == 1
        assert "is one of the inputs and would be overwritten" in err
        assert target.read_bytes() == before


def test_the_reports_folder_is_its_own(fastad, detector, images, tmp_path):
    folder = tmp_path / "report"
    folder.mkdir()
    for name in ("index.html", "fastad-report.json", "m.json"):
        code, _, err = fastad(
            "evaluate", detector, images, "--report", folder, "--json", folder / name
        )
        assert code == 1
        assert "is inside the report's folder" in err
    code, _, err = fastad("evaluate", detector, images, "--report", "")
    assert code == 1
    assert "--report must name a folder" in err


def test_a_mask_of_another_shape_is_an_error(fastad, detector, images, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(images, data)
    mask = np.zeros((50, 100), np.uint8)
    mask[10:20] = 255
    Image.fromarray(mask).save(data / "ground_truth/hole/0_mask.png")
    code, _, err = fastad("evaluate", detector, data)
    assert code == 1
    assert "0_mask.png: the mask of 50x100 pixels is not of the shape of its image, 72x64" in err
    Image.fromarray(np.pad(mask[:36, :32], 0)).save(data / "ground_truth/hole/0_mask.png")
    code, _, err = fastad("evaluate", detector, data)  # half the size is the same shape
    assert code == 0, err
