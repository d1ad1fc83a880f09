"""``fastad suspects``, and ``fastad train --exclude`` with what it writes."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from fastad import inference
from fastad.data import find_images
from fastad.data.finding import PICTURES


@pytest.fixture(scope="module")
def dirty(tmp_path_factory):
    """A folder of twenty images, the eighth of which is not so good."""
    folder = tmp_path_factory.mktemp("dirty") / "good"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(20):
        pixels = rng.integers(80, 120, (64, 64, 3), dtype=np.uint8)
        if i == 7:
            pixels[20:40, 10:30] = (250, 10, 10)
        Image.fromarray(pixels).save(folder / f"{i:02}.png")
    return folder


def test_what_is_listed_and_left_out(fastad, detector, dirty, weights, tmp_path):
    out = tmp_path / "look"
    code, said, err = fastad("suspects", detector, dirty, "--output", out, "--count", 3)
    assert code == 0, err
    lines = said.splitlines()
    assert lines[1].split()[0] == "1*"
    assert lines[1].endswith("07.png")
    assert "1 of 20 images stand out: look at these first" in err
    with open(out / "suspects.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 20
    assert [row["stands_out"] for row in rows[:2]] == ["True", "False"]
    pictures = sorted(path.name for path in out.glob("*.png"))
    assert len(pictures) == 3
    assert pictures[0] == "01-07.png"
    assert find_images(out) == []  # they are no images to learn from
    named = [line for line in (out / "suspects.txt").read_text().splitlines() if line[0] != "#"]
    assert named == [row["path"] for row in rows[:3]]
    (out / "suspects.txt").write_text(f"# checked\n{named[0]}\n")
    code, _, err = fastad(
        "train", dirty, "--model", "subspace", "--teacher-weights", weights, "--image-size", 64,
        "--exclude", out / "suspects.txt", "--output", tmp_path / "clean.fastad",
    )  # fmt: skip
    assert code == 0, err
    assert f"1 images in {out / 'suspects.txt'} are left out" in err
    record = inference.load(tmp_path / "clean.fastad").training
    assert record["images"] == 19
    assert "1 images excluded: 07.png" in record["notes"]


def test_json(fastad, detector, dirty):
    code, out, err = fastad("suspects", detector, dirty, "--json", "-")
    assert code == 0, err
    found = json.loads(out)
    assert (found["images"], found["standing_out"], len(found["suspects"])) == (20, 1, 20)
    assert [row["rank"] for row in found["suspects"]] == list(range(1, 21))
    scores = [row["score"] for row in found["suspects"]]
    assert scores == sorted(scores, reverse=True)


def test_wrong_use(fastad, detector, dirty, tmp_path):
    code, _, err = fastad("suspects", detector, dirty, "--output", dirty / "out")
    assert code == 1
    assert "its pictures would be taken for images" in err
    (tmp_path / "file").write_text("")
    code, _, err = fastad("suspects", detector, dirty, "--output", tmp_path / "file")
    assert code == 1
    assert "is a file; it must be a folder" in err
    code, _, err = fastad("train", dirty, "--exclude", tmp_path / "none.txt")
    assert code == 1
    assert "there is no file" in err


def test_pictures_of_an_earlier_run_are_removed(fastad, detector, dirty, tmp_path):
    out = tmp_path / "look"
    assert fastad("suspects", detector, dirty, "--output", out, "--count", 4)[0] == 0
    first = {path.name for path in out.glob("*.png")}
    Image.new("RGB", (8, 8)).save(out / "03-mine.png")  # of the user, and not in the list
    assert fastad("suspects", detector, dirty, "--output", out, "--count", 2)[0] == 0
    second = {path.name for path in out.glob("*.png")} - {"03-mine.png"}
    assert len(first) == 4
    assert len(second) == 2
    assert second < first
    assert find_images(out) == [out / "03-mine.png"]
    listed = json.loads((out / PICTURES).read_text())["files"]
    assert set(listed) == second
    # Pictures that another command listed there are its own.
    content = {"written_by": "fastad predict", "files": sorted(second)}
    (out / PICTURES).write_text(json.dumps(content))
    assert fastad("suspects", detector, dirty, "--output", out, "--count", 1)[0] == 0
    assert second < {path.name for path in out.glob("*.png")}
