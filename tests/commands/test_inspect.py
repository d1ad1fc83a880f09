"""``fastad inspect``, and the options of the other commands that name folders."""

import json
import os
import re
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from fastad.data import describe
from fastad.data.layouts.inspection import duplicates, inspect_files, look


class Done(NamedTuple):
    status: int
    out: str
    err: str


@pytest.fixture
def run(fastad):
    return lambda *arguments: Done(*fastad(*arguments))


def draw(path, value=100, size=(48, 40), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value if mode != "RGB" else (value,) * 3).save(path)
    return path


@pytest.fixture
def bottle(tmp_path):
    data = tmp_path / "bottle"
    for i in range(3):
        draw(data / f"train/good/{i}.png", i)
    draw(data / "test/good/0.png", 2)  # of the training, too
    draw(data / "test/hole/0.png", 50, (96, 40))
    draw(data / "test/hole/1.png", 51)
    draw(data / "ground_truth/hole/0_mask.png", 255, (96, 40), "L")
    draw(data / "ground_truth/hole/9_mask.png", 255, mode="L")
    return data


def test_the_table(run, bottle):
    done = run("inspect", bottle)
    assert done.status == 0
    lines = [re.sub(r"\s+", " ", line).strip() for line in done.out.splitlines()]
    assert "train/good normal train 3 40x48 RGB 8 bit 1.20" in lines
    assert "test/hole defect test 2 40x96, 40x48 RGB 8 bit 1.20 to 2.40" in lines
    assert "1 test images have the same bytes as training images: 2.png = 0.png" in lines
    assert "1 masks belong to no image of a defect: 9_mask.png" in lines
    assert "1 images of defects have no mask: 1.png" in lines
    assert lines[-2:] == [
        "train takes 3 normal images, a fifth of them is held out",
        "evaluate measures on 1 normal and 2 defective images, 1 with masks",
    ]


def test_json(run, bottle):
    done = run("inspect", bottle, "--json", "-", "--quiet")
    found = json.loads(done.out)
    assert (done.status, found["layout"], found["train"]["images"]) == (0, "MVTec AD", 3)
    assert found["evaluate"] == {"normal": 1, "defect": 2, "problem": ""}
    assert {"height": 40, "width": 96, "files": 1} in found["folders"][2]["sizes"]
    assert [len(pair) for pair in found["duplicates"]] == [2]


def test_unclear_folders_end_with_1(run, tmp_path):
    draw(tmp_path / "foo/1.png")
    draw(tmp_path / "bar/1.png")
    done = run("inspect", tmp_path)
    assert done.status == 1
    assert "foo" in done.out
    assert "train     refuses: none of the folders" in done.out
    assert "bar (1 image), foo (1 image). Name the folder of good images with --good" in done.err
    done = run("inspect", tmp_path, "--good", "foo")
    assert done.status == 0
    assert "measures on 1 normal and 1 defective images" in done.out
    done = run("train", tmp_path)
    assert done.status == 1
    assert f"`fastad inspect {tmp_path}` shows what was found" in done.err


def test_good_images_alone_are_clear(run, tmp_path):
    draw(tmp_path / "1.png")
    done = run("inspect", tmp_path)
    assert done.status == 0
    assert "takes 1 normal image," in done.out


def test_unreadable_files(run, tmp_path):
    draw(tmp_path / "0.png")
    (tmp_path / "1.png").write_bytes(b"no image")
    content = draw(tmp_path / "2.bmp").read_bytes()
    (tmp_path / "2.bmp").write_bytes(content[:-99])
    done = run("inspect", tmp_path)
    assert done.status == 1
    assert "1 of 3 files cannot be read" in done.err
    assert "2 of 3 files cannot be read" in run("inspect", tmp_path, "--deep").err


@pytest.mark.parametrize(
    ("name", "array", "expected"),
    [
        ("a.png", np.zeros((4, 6), np.uint8), ("L", 8)),
        ("b.png", np.zeros((4, 6), np.uint16), ("I", 16)),
        ("c.tif", np.zeros((4, 6), np.uint16), ("I", 16)),
        ("d.tif", np.zeros((4, 6), np.float32), ("F", 32)),
        ("e.png", np.zeros((4, 6), bool), ("1", 1)),
        ("f.jpg", np.zeros((4, 6, 3), np.uint8), ("RGB", 8)),
    ],
)
def test_modes_and_depths(tmp_path, name, array, expected):
    Image.fromarray(array).save(tmp_path / name)
    seen = look(tmp_path / name)
    assert (seen.shape, (seen.mode, seen.bits)) == ((4, 6), expected)


def test_duplicates_are_told_by_content(tmp_path):
    a, b, c = (tmp_path / name for name in "abc")
    a.write_bytes(b"1234")
    b.write_bytes(b"1234")
    c.write_bytes(b"1235")
    assert duplicates([a], [a, b, c, tmp_path / "nowhere"]) == [(a, b)]


def test_progress_and_many_folders(tmp_path):
    for i in range(60):
        draw(tmp_path / f"train/good/{i}/0.png")
    seen = []
    result = inspect_files(describe(tmp_path), progress=lambda done, of: seen.append((done, of)))
    assert seen == [(60, 60)]
    assert [(row.folder, row.count) for row in result.rows] == [("train/good", 60)]


def test_the_options_of_train_and_evaluate(run, bottle, weights, tmp_path):
    os.rename(bottle / "train/good", bottle / "train/foo")
    os.rename(bottle / "test/good", bottle / "test/negative")
    file = tmp_path / "d.fastad"
    train = ["train", bottle, "--model", "stpm", "--image-size", "32", "--epochs", "1"]
    train += ["--teacher-weights", weights, "--output", file]
    assert run(*train).status == 1
    assert run(*train, "--good", "foo").status == 0
    done = run("evaluate", file, bottle)
    assert done.status == 1
    assert "hole (2 images)" not in done.err
    assert "negative (1 image)" in done.err
    done = run("evaluate", file, bottle, "--good", "negative")
    assert (done.status, "1 normal images, 2 with defects" in done.out) == (0, True)


def test_masks_are_not_predicted(run, detector, bottle, tmp_path):
    draw(tmp_path / "new/1.png")
    draw(tmp_path / "new/1_mask.png")
    draw(tmp_path / "new/Masks/1.png")
    done = run("predict", detector, tmp_path / "new")
    assert done.status == 0
    assert len(done.out.splitlines()) == 2
    assert "2 masks in" in done.err
    assert len(run("predict", detector, tmp_path / "new/Masks").out.splitlines()) == 2


def test_unlabelled_test_images_are_said(run, detector, bottle):
    os.rename(bottle / "test", bottle / "test_public")
    os.rename(bottle / "ground_truth", bottle / "test_public/ground_truth")
    draw(bottle / "test_private/1.png")
    done = run("evaluate", detector, bottle)
    assert "1 test images have no published labels and are not measured" in done.err
    assert "1 normal images, 2 with defects" in done.out


def test_the_range_that_would_be_chosen(run, tmp_path):
    Image.fromarray(np.full((20, 20), 1000, np.uint16)).save(tmp_path / "1.png")
    done = run("inspect", tmp_path)
    assert "16-bit values would be read as 10 bits, 0 to 1023 (--bit-depth 10)" in done.out
    found = json.loads(run("inspect", tmp_path, "--json", "-").out)
    assert found["train"]["bit_depth"] == 10


def test_a_folder_of_visa_without_its_table(run, tmp_path):
    images = tmp_path / "candle/Data/Images"
    draw(images / "Normal/1.png")
    draw(images / "Anomaly/2.png")
    draw(tmp_path / "candle/Data/Masks/Anomaly/2.png", 255, mode="L")
    done = run("inspect", tmp_path / "candle")
    assert done.status == 1
    assert "Data/Images/Normal" in done.out.splitlines()[2] + done.out.splitlines()[3]
    assert "--good Data/Images/Normal --defects Data/Images/Anomaly" in done.err
    named = ["--good", "Data/Images/Normal", "--defects", "Data/Images/Anomaly"]
    done = run("inspect", tmp_path / "candle", *named, "--masks", "Data/Masks/Anomaly")
    assert done.status == 0
    assert "measures on 1 normal and 1 defective images, 1 with masks" in done.out


def test_what_is_passed_over_is_named(run, bottle):
    draw(bottle / "test/todo/3.png")
    draw(bottle / "report/pictures/1.png")
    (bottle / "report/fastad-report.json").write_text("{}")
    os.symlink(bottle / "test/hole", bottle / "test/link")
    done = run("inspect", bottle)
    assert "1 folders that nobody has judged are passed over: test/todo" in done.out
    assert "1 folders of what fastad wrote are passed over: report" in done.out
    assert "1 links lead to what counts already: test/link" in done.out


def test_folders_named_wrongly(run, bottle):
    done = run("inspect", bottle, "--masks", "test/hole")
    assert (done.status, "no file in test/hole is the mask of a defect" in done.err) == (1, True)
    done = run("inspect", bottle, "--defects", "train/good")
    assert done.status == 1
    assert "--good FOLDER" in done.err


def test_pictures_of_predict_are_no_images(run, detector, bottle):
    done = run("predict", detector, bottle / "test/hole", "--output", bottle / "out", "--heatmaps")
    assert done.status == 0, done.err
    done = run("predict", detector, bottle / "test/good", "--output", bottle / "out", "--masks")
    assert done.status == 0, done.err
    listed = json.loads((bottle / "out/fastad-pictures.json").read_text())["files"]
    assert listed == ["0.png", "0_mask.png", "1.png"]
    assert not any("out" in file.path.parts for file in describe(bottle).files)
    assert "1 folders of what fastad wrote are passed over: out" in run("inspect", bottle).out


@pytest.mark.parametrize(
    ("name", "said"),
    [("*.png", "patterns are not expanded"), ("nosuch://host/1.png", "needs fsspec")],
)
def test_what_is_no_path(run, detector, name, said):
    done = run("predict", detector, name)
    assert (done.status, said in done.err) == (1, True)
