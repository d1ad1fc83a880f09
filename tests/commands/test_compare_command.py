"""``fastad compare``: its table and files, what it keeps, and what it refuses."""

import json
import os

import pytest

import fastad as package
from fastad.commands import compare as module
from fastad.training import TrainingDivergedError

SHORT = ["--image-size", 64, "--epochs", 1, "--count", 15, "--teacher-weights", "embedded"]
ONE = ["--models", "stpm", *SHORT]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(module, "TIMED", 0.0)


@pytest.fixture(scope="module")
def compared(images, tmp_path_factory):
    """A folder with one candidate."""
    from fastad import cli

    folder = tmp_path_factory.mktemp("compared")
    with pytest.raises(SystemExit) as stop:
        cli.main([str(a) for a in ("compare", images, *ONE, "--output", folder)])
    assert stop.value.code == 0
    return folder


def manifest(folder):
    return json.loads((folder / "fastad-compare.json").read_text())


def test_a_row_for_each_model(fastad, images, tmp_path):
    gtrans = "stpm,gtrans"
    code, out, err = fastad(
        "compare", images, *SHORT, "--models", gtrans, "--output", tmp_path / "out"
    )
    assert code == 0, err
    lines = [line.split() for line in out.splitlines()]
    names = [line[0] for line in lines[1:3]]
    assert names == ["stpm", "gtrans"]
    assert sum(line[1] == "*" for line in lines[1:3]) == 1
    assert "real: image AUROC" in out.splitlines()[0]
    assert "on 2 good images that no model was trained on; all were trained on 8 others" in out
    assert "the real test images chose nothing" in out
    assert out.splitlines()[-1].startswith(("* stpm: mean of", "* gtrans: mean of"))
    content = manifest(tmp_path / "out")["candidates"]
    for name in names:
        detector = package.load(tmp_path / "out" / f"{name}.fastad")
        record = content[name]
        assert detector.model == name
        assert detector.training_record_["images"] == 8
        assert detector.image_size_ == (64, 64)
        assert record["synthesised"]["false_alarms"]["new"]["total"] == 2
        assert record["synthesised"]["found"]["total"] == 15
        assert record["real"]["counts"]["defect"] == 2
        assert record["epochs"] == record["asked"]["epochs"] == 1
        assert record["file_bytes"] == os.path.getsize(tmp_path / "out" / f"{name}.fastad")
        assert record["milliseconds_per_image"] > 0
    tried = detector.check(
        sorted((images / "train/good").iterdir()), count=15, seed=0
    )  # the judging images are new to it, the others are not
    assert tried.new_alarms.total == 2


def test_what_is_there_is_kept(fastad, compared, images):
    before = (compared / "stpm.fastad").stat().st_mtime_ns
    earlier = manifest(compared)["candidates"]["stpm"]
    code, out, err = fastad("compare", images, *ONE, "--output", compared, "--json", "-")
    assert code == 0, err
    assert f"stpm: {compared / 'stpm.fastad'} is kept" in err
    assert (compared / "stpm.fastad").stat().st_mtime_ns == before
    [row] = json.loads(out)
    assert row["synthesised"] == earlier["synthesised"]
    assert row["training_seconds"] == earlier["training_seconds"]


@pytest.mark.parametrize("change", ["seed", "file", "epochs"])
def test_what_differs_is_trained_anew(fastad, compared, images, change):
    options = {"seed": ["--seed", 1], "epochs": ["--epochs", 2], "file": []}[change]
    if change == "file":
        fastad("compare", images, *ONE, "--output", compared)
        with open(compared / "stpm.fastad", "ab") as file:
            file.write(b"x")
    before = (compared / "stpm.fastad").stat().st_mtime_ns
    code, _, err = fastad("compare", images, *ONE, *options, "--output", compared)
    assert code == 0, err
    assert "is kept" not in err
    assert (compared / "stpm.fastad").stat().st_mtime_ns > before


def test_a_model_that_fails_is_left_out(fastad, images, tmp_path, monkeypatch):
    fit = package.Detector.fit

    def failing(self, *arguments, **options):
        if self.model == "gtrans":
            raise TrainingDivergedError("the loss became NaN")
        return fit(self, *arguments, **options)

    monkeypatch.setattr(package.Detector, "fit", failing)
    arguments = [*SHORT, "--output", tmp_path / "out"]
    code, out, err = fastad("compare", images, "--models", "gtrans,stpm", *arguments)
    assert code == 0, err
    assert "warning: gtrans is left out: the loss became NaN" in err
    assert "gtrans" not in out
    code, _, err = fastad("compare", images, "--models", "gtrans", *arguments)
    assert code == 1
    assert "no model was trained" in err


def test_no_time_leaves_models_out(fastad, images, tmp_path):
    code, _, err = fastad("compare", images, *ONE, "--minutes", 0, "--output", tmp_path / "out")
    assert code == 1
    assert "stpm is left out: no time is left" in err


def test_ctrl_c_keeps_what_is_done(fastad, images, tmp_path, monkeypatch):
    fit = package.Detector.fit

    def stopped(self, *arguments, **options):
        if self.model == "gtrans":
            raise KeyboardInterrupt
        return fit(self, *arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(package.Detector, "fit", stopped)
        arguments = ["--models", "stpm,gtrans", *SHORT, "--output", tmp_path / "out"]
        code, _, err = fastad("compare", images, *arguments)
    assert code == 1
    assert "stopped by the user: the same command keeps what is done" in err
    assert "Traceback" not in err
    code, _, err = fastad("compare", images, *arguments)
    assert code == 0, err
    assert "stpm.fastad is kept" in err
    assert "gtrans.fastad is kept" not in err


def test_files_of_others_are_refused(fastad, images, tmp_path):
    (tmp_path / "stpm.fastad").write_text("mine")
    code, _, err = fastad("compare", images, *ONE, "--output", tmp_path)
    assert code == 1
    assert "stpm.fastad is not from `fastad compare`" in err
    assert (tmp_path / "stpm.fastad").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["stpm.fastad"]


@pytest.mark.parametrize(
    ("arguments", "code", "match"),
    [
        (["nowhere"], 1, "no such folder: nowhere"),
        (["IMAGES/test/good"], 1, "at least 10 good images"),
        (["IMAGES", "--models", "stpm,big"], 2, "unknown model 'big'"),
        (["IMAGES", "--image-size", "8"], 2, "image size"),
        (["IMAGES", "--minutes", "-1"], 2, "minutes"),
        (["IMAGES", "--false-positive-rate", "2"], 2, "between 0 and 1"),
        (["IMAGES", "--device", "cuda:99"], 1, "cuda:99"),
        (["IMAGES", "--json", "OUT/no/x.json"], 1, "no folder"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(
    fastad, images, tmp_path, monkeypatch, arguments, code, match
):
    monkeypatch.chdir(tmp_path)
    places = {"IMAGES": images, "OUT": tmp_path}
    for name, path in places.items():
        arguments = [a.replace(name, str(path), 1) if a.startswith(name) else a for a in arguments]
    found, out, err = fastad("compare", *arguments)
    assert (found, out) == (code, "")
    assert match in " ".join(err.replace("│", " ").split())
    assert list(tmp_path.iterdir()) == []


def test_the_usual_models_are_registered_ones_that_need_no_masks():
    from fastad import models

    usual = [name for name in module.USUAL if name in models.MODELS]
    assert {"stpm", "rstpm"} <= set(usual)
