"""``fastad check``: its table, page and JSON, and what it refuses."""

import base64
import io
import json
import re
import shutil
from pathlib import Path

import pytest
from PIL import Image


def test_a_table_and_a_line(fastad, detector, images):
    code, out, err = fastad("check", detector, images, "--count", 30)
    assert code == 0, err
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert lines[0] == "found of tried small medium large all image AUROC AUPRO"
    assert [line.split()[0] for line in lines[1:7]] == [
        "scratch",
        "spot",
        "stain",
        "patch",
        "dent",
        "all",
    ]
    cells = [re.findall(r"(\d+)/(\d+)", line) for line in lines[1:7]]
    found = [[int(hits) for hits, _ in row] for row in cells]
    assert [total for _, total in cells[0]] == ["2", "2", "2", "6"]
    assert [total for _, total in cells[5]] == ["10", "10", "10", "30"]
    assert found[5] == [sum(column) for column in zip(*found[:5], strict=True)]
    assert f"finds {found[5][3]} of 30 synthesised defects" in lines[-1]
    assert "held-out good images" in lines[-1]
    [line] = [line for line in lines if line.startswith("false alarms by conditions: ")]
    assert re.search(r"undisturbed \d/2, light -20 % \d/2, .*, mild noise \d/2$", line)
    assert "note: synthesised defects are no real ones" in out
    assert "note: 8 images that the detector was trained on are left out" in out


def test_json_alone_on_stdout(fastad, detector, images):
    code, out, err = fastad(
        "check", detector, images / "test/good", "--json", "-", "--count", 15, "--seed", 7
    )
    assert code == 0, err
    content = json.loads(out)
    assert content["false_alarms"]["new"]["total"] == 2
    assert content["found"]["total"] == 15
    assert content["seed"] == 7


def test_a_page_with_its_pictures_inside(fastad, detector, images, tmp_path):
    page, numbers = tmp_path / "check.html", tmp_path / "check.json"
    code, _, err = fastad(
        "check", detector, images, "--output", page, "--json", numbers, "--count", 30
    )
    assert code == 0, err
    assert f"page: {page}" in err
    text, content = page.read_text(encoding="utf-8"), json.loads(numbers.read_text())
    assert content["summary"] in text
    assert "Synthesised defects are no real ones" in text
    pictures = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', text)
    captions = re.findall(r'<span class="(missed|found)">', text)
    cells = [c for sizes in content["by_kind_and_size"].values() for c in sizes.values()]
    kinds_of_outcome = [(c["hits"] > 0) + (c["hits"] < c["total"]) for c in cells]
    assert len(pictures) == len(captions) == sum(kinds_of_outcome)
    with Image.open(io.BytesIO(base64.b64decode(pictures[0]))) as picture:
        assert picture.size == (3 * 64 + 12, 64)
    assert not re.search(r'(src|href)="(https?:)?//', text)
    share = content["by_size"]["small"]
    low, high = share["interval"]
    shown = " ".join(text.split())
    assert f"{share['hits']} of {share['total']} <small>{share['rate']:.0%} (" in shown
    assert f"({low:.0%} to {high:.0%})</small>" in shown


def test_another_rate_is_another_threshold(fastad, detector, images):
    def threshold(*more):
        code, out, err = fastad("check", detector, images, "--json", "-", "--count", 1, *more)
        assert code == 0, err
        return json.loads(out)["threshold"]

    assert threshold("--false-positive-rate", 0.7) < threshold()


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["nowhere.fastad", "IMAGES"], "nowhere.fastad"),
        (["DETECTOR", "nowhere"], "no such folder: nowhere"),
        (["DETECTOR", "OUT"], "no images"),
        (["DETECTOR", "IMAGES", "--output", "OUT/no/check.html"], "no folder"),
        (["DETECTOR", "IMAGES", "--json", "DETECTOR"], "would be overwritten"),
        (["DETECTOR", "IMAGES", "--output", "IMAGES/train/good/0.png"], "would be overwritten"),
    ],
)
def test_failures_exit_with_1_and_one_line(fastad, images, detector, tmp_path, arguments, match):
    places = {"IMAGES": images, "OUT": tmp_path, "DETECTOR": detector}
    for name, path in places.items():
        arguments = [a.replace(name, str(path), 1) if a.startswith(name) else a for a in arguments]
    code, out, err = fastad("check", *arguments)
    assert code == 1
    assert out == ""
    assert len([line for line in err.splitlines() if line.startswith("error: ")]) == 1
    assert match in err


def test_images_trained_on_prove_nothing(fastad, detector, images, tmp_path):
    from fastad.inference import load

    held_out = load(detector).training["held_out"]
    for n in set(range(10)) - set(held_out):
        shutil.copy(images / f"train/good/{n}.png", tmp_path / f"{n}.png")
    code, _, err = fastad("check", detector, tmp_path)
    assert code == 1
    assert "trained on all 8 of them, which proves nothing" in err


def test_the_words_of_the_guide_are_the_codes():
    from fastad.commands.comparison import MARGIN
    from fastad.evaluation.check import ALARMS, CHANCE, UNCERTAIN, VERDICTS

    page = Path(__file__).resolve().parents[2] / "docs/how-to/choosing.md"
    text = page.read_text(encoding="utf-8")
    table = dict(re.findall(r"^\| `([^`]+)` \| (.*) \|$", text, re.M))
    assert list(table) == [*(word for _, word in VERDICTS), ALARMS, UNCERTAIN, CHANCE]
    for least, word in VERDICTS[:-1]:
        assert f" {least:.0%}".replace("%", " %") in table[word]
    assert f"within {MARGIN} of the highest" in text


def test_wrong_usage_exits_with_2(fastad, images, detector):
    for arguments in ([detector], [detector, images, "--count", "0"]):
        code, _, _ = fastad("check", *arguments)
        assert code == 2
