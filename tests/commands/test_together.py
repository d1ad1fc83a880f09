"""``fastad train --together``: one student, and a detector of each product with its networks."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from fastad import cli, load
from fastad.commands import train_together
from fastad.inference import fitting
from fastad.training import map_choice

OPTIONS = [
    *("--model", "stpm", "--set", "layers=layer1", "--teacher-weights", "embedded"),
    *("--image-size", 32, "--precision", "float32", "--device", "cpu"),
    *("--epochs", 2, "--batch-size", 4),
]


def product(folder, seed, low, count=12):
    """Good images of grey noise, and one to test."""
    rng = np.random.default_rng(seed)
    for name in (*(f"train/good/{i}.png" for i in range(count)), "test/good/0.png"):
        pixels = rng.integers(low, low + 60, (32, 32, 3), dtype=np.uint8)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / name)


@pytest.fixture(scope="module", autouse=True)
def quick():
    """Few synthesised defects."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fitting, "TRIED", 15)
        patch.setattr(map_choice, "DEFECTS", 15)
        yield


@pytest.fixture(scope="module")
def factory(tmp_path_factory):
    root = tmp_path_factory.mktemp("factory") / "root"
    product(root / "cap", 0, 20)
    product(root / "line_2/bottle", 1, 120, count=30)
    return root


@pytest.fixture(scope="module")
def trained(factory, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "out"
    with pytest.raises(SystemExit) as stop:
        cli.main([str(a) for a in ("train", factory, "--together", "--output", folder, *OPTIONS)])
    assert stop.value.code == 0
    return folder


def row_of(folder, name):
    return json.loads((folder / f"{name}.json").read_text())


def test_every_product_has_a_detector_with_the_same_networks(trained):
    student = load(trained / ".together/student.fastad")
    record = student.training_record_
    assert (record["n_train"], record["n_validation"]) == (31, 11)
    networks = dict(student.model_.student.named_parameters())
    for name, held_out in (("cap", 5), ("line_2/bottle", 6)):
        detector, row = load(trained / f"{name}.fastad"), row_of(trained, name)
        assert row["status"] == "done"
        assert row["threshold"] == detector.threshold_
        assert row["held_out"] == held_out == len(detector.calibration_scores_)
        assert row["defects"] == 15
        for key, value in detector.model_.student.named_parameters():
            assert torch.equal(value, networks[key])
        start = detector.training_record_["start_from"]
        assert start["file"] == "student.fastad"
        assert {detector.training_record_["image_digests"][i]
                for i in detector.training_record_["held_out"]} <= {
            record["image_digests"][i] for i in record["held_out"]}  # fmt: skip
    page = (trained / "index.html").read_text()
    assert "with one student" in page
    assert "2 of 2 products" in page


def test_what_is_done_is_kept(fastad, factory, trained, tmp_path):
    folder = tmp_path / "out"
    shutil.copytree(trained, folder)
    (folder / "cap.fastad").unlink()
    student = (folder / ".together/student.fastad").read_bytes()
    code, _, err = fastad("train", factory, "--together", "--output", folder, *OPTIONS)
    assert code == 0, err
    assert "the student: kept" in err
    assert err.count(": kept") == 2  # and bottle
    assert (folder / ".together/student.fastad").read_bytes() == student
    assert load(folder / "cap.fastad").threshold_ == load(trained / "cap.fastad").threshold_


def test_a_stopped_training_goes_on_and_other_options_begin_anew(
    fastad, factory, trained, tmp_path, monkeypatch
):
    """Stopped in the second epoch."""
    given, train = [], train_together.train

    def stopped(*arguments, **options):
        given.append(options["resume"])
        from fastad.training.loop import StageLoop

        with pytest.MonkeyPatch.context() as patch:
            look = StageLoop._look

            def interrupted(loop, epoch):
                if epoch == 2:
                    raise KeyboardInterrupt
                return look(loop, epoch)

            patch.setattr(StageLoop, "_look", interrupted)
            return train(*arguments, **options)

    folder = tmp_path / "out"
    monkeypatch.setattr(train_together, "train", stopped)
    code, _, err = fastad("train", factory, "--together", "--output", folder, *OPTIONS)
    assert code == 1
    assert "stopped by the user: the same command goes on" in err
    assert not (folder / "cap.json").exists()

    def whole(*arguments, **options):
        given.append(options["resume"])
        return train(*arguments, **options)

    monkeypatch.setattr(train_together, "train", whole)
    code, _, err = fastad("train", factory, "--together", "--output", folder, *OPTIONS)
    assert code == 0, err
    scores = [load(f / "cap.fastad").calibration_scores_ for f in (folder, trained)]
    assert scores[0] == pytest.approx(scores[1], rel=1e-5)

    def none(*arguments, **options):
        given.append(options["resume"])
        raise ValueError("enough is known")

    monkeypatch.setattr(train_together, "train", none)
    (folder / ".together/student.fastad.checkpoint").write_text("of the training before")
    options = [*OPTIONS, "--seed", 1]
    code, _, err = fastad("train", factory, "--together", "--output", folder, *options)
    assert code == 1
    assert given == [False, True, False]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "--together needs --output DIR"),
        (["--output", "out", "--each"], "exclude each other"),
        (["--output", "out.fastad"], "--together fills a folder with detectors"),
        (["--output", "out", "--model", "rstpm"], "Take the model stpm or gtrans"),
        (["--output", "out", "--model", "stpm", "--resume"], "--resume is for one"),
        (["--output", "out", "--model", "stpm", "--report", "r"], "has no --report"),
        (["--output", "out", "--model", "stpm", "--tile", "64"], "has no --tile"),
        (["--output", "out", "--model", "stpm", "--set", "nothing=1"], "nothing"),
    ],
)
def test_wrong_options_are_refused_before_anything(
    fastad, factory, tmp_path, monkeypatch, options, said
):
    monkeypatch.chdir(tmp_path)
    code, _, err = fastad("train", factory, "--together", *options)
    assert code == 2
    assert said in " ".join(err.replace("│", " ").split())
    assert list(tmp_path.iterdir()) == []


def test_a_product_with_too_few_images_is_named(fastad, tmp_path):
    product(tmp_path / "root/cap", 0, 20)
    product(tmp_path / "root/nut", 1, 20, count=4)
    arguments = ["train", tmp_path / "root", "--together", "--output", tmp_path / "out"]
    code, _, err = fastad(*arguments, *OPTIONS)
    assert code == 1
    assert f"{tmp_path / 'root/nut'}: 4 good images are too few" in err
