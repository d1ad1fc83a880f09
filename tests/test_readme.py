"""The README can be read in three minutes, and its numbers are those of the records."""

import importlib.util
import json
import math
import re
import statistics
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8").replace("\N{MULTIPLICATION SIGN}", "x")
PROSE = re.sub(r"^```.*?^```\n", "", TEXT, flags=re.M | re.S)  # as `sed '/^```/,/^```/d'`
DEMO = (
    "python3 -m venv .venv && . .venv/bin/activate && pip install torch==2.13.0 "
    '&& pip install ".[imagenet]" && fastad demo'
)
TESTS = (
    "python3 -m venv .venv && . .venv/bin/activate && pip install torch==2.13.0 "
    '&& pip install ".[test]" && pytest -n 2'
)


def record(name: str) -> dict:
    return json.loads((ROOT / "bench" / "results" / name).read_text(encoding="utf-8"))


def plain(text: str) -> str:
    """Without inline code and the targets of links."""
    return re.sub(r"\]\([^)]*\)", "]", re.sub(r"`[^`]*`", "code", text))


def sentences(text: str) -> list[str]:
    """A paragraph, a list item and a cell of a table each end one, as a full stop does."""
    ends = r"(?<=[.!?])[*_]*\s+|\n\s*\n|\n(?=#|[-*] |\|)|\|"
    return [" ".join(part.split()) for part in re.split(ends, plain(text)) if part.strip()]


def nested(text: str) -> bool:
    depth = 0
    for character in plain(text):
        depth += (character == "(") - (character == ")")
        if depth > 1:
            return True
    return False


def commands_of_ci() -> str:
    """What .ci/run runs, in one line, with a folder and an output like the README's."""
    lines = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    found = [line for line in lines if re.match(r"python3|\. |pip|pytest", line)]
    text = " && ".join(found).replace('"${VENV:=$(mktemp -d)/venv}"', ".venv")
    return text.replace('"$VENV/bin/activate"', ".venv/bin/activate").replace(" -q", "")


def test_it_is_short():
    assert len(PROSE.split()) <= 900
    assert len(TEXT.splitlines()) <= 150


def test_its_sentences_are_plain():
    found = sentences(PROSE)
    assert len(found) > 50
    assert [s for s in found if len(s.split()) > 25] == []
    assert ";" not in plain(PROSE)
    assert not nested(PROSE)


def test_what_is_not_plain_is_noticed():
    long = "word " * 25 + "end."
    assert [len(s.split()) for s in sentences(f"One.\n{long} Two.\n\n- three\n- four\n")] == [
        1,
        26,
        1,
        2,
        2,
    ]
    assert nested("a (b (c))")
    assert not nested("a (b) [c](d) (e)")


def test_the_two_commands_are_there_and_the_tests_are_ci_s():
    blocks = re.findall(r"^```bash\n(.*?)\n```", TEXT, re.M | re.S)
    assert blocks[:2] == [DEMO, TESTS]
    assert commands_of_ci() == TESTS


def test_one_picture_one_chart_and_few_tables():
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", TEXT)
    assert pictures == ["docs/images/heatmaps.png", "docs/images/speed.png"]
    assert [p for p in pictures if not (ROOT / p).is_file()] == []
    assert len(re.findall(r"^\|[-| ]+\|$", TEXT, re.M)) <= 2


def test_versions_are_the_packages():
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    [python] = re.findall(r'requires-python = ">=([\d.]+)"', project)
    [torch] = re.findall(r'"torch>=([\d.]+)"', project)
    assert f"Python {python} or newer" in TEXT
    assert f"torch from {torch} on" in TEXT


def test_numbers_of_held_out_images_are_the_rules():
    found = re.findall(r"rate of (\d+) % needs at least (\d+)", TEXT)
    assert len(found) == 2
    for rate, images in found:  # rank ceil((n + 1) * (1 - rate)) is at most n
        assert int(images) == math.ceil(100 / int(rate)) - 1


def test_the_table_of_models_is_the_record_s():
    systems = record("systems.json")
    cells = {(c["system"], c["set"]): c for c in systems["cells"] if c["seed"] == 0}
    rows = re.findall(r"^\| \[`(\w+)`\].*\| ([\d. ·]+) \| ([\d.]+) x \|$", TEXT, re.M)
    assert [name for name, *_ in rows] == ["rstpm", "stpm", "gtrans", "prn", "utad"]
    sets = ("bottle", "magnetic_tile", "kolektor_sdd")
    for name, accuracy, time in rows:
        found = [f"{cells[name, data]['image_auroc']:.3f}" for data in sets]
        assert accuracy.split(" · ") == found, name
        assert float(time) == systems["speed"]["times_stpm"][name], name
    for data, name, model in (
        ("bottle", "bottle", "PatchCore"),
        ("magnetic_tile", "tile", "RSTPM or PatchCore"),
        ("kolektor_sdd", "KolektorSDD", "RSTPM or PatchCore"),
    ):
        own = [c for c in systems["cells"] if (c["system"], c["set"]) == ("auto", data)]
        assert {c["kept"] for c in own} == set(model.lower().split(" or "))
        mean = statistics.mean(c["image_auroc"] for c in own)
        assert f"{mean:.3f} on {name}, by {model}" in TEXT
    shown = [cells[name, data] for name, *_ in rows for data in sets]
    minutes = [cell["training_minutes"] for cell in shown]
    assert f"{min(minutes):.0f} to {max(minutes):.0f} minutes on one thread" in TEXT
    assert {cell["threads"] for cell in shown} == {1}
    held_out = [cells["stpm", data]["held_out"] for data in sets]
    assert "{} of bottle, {} of tile, {} of KolektorSDD".format(*held_out) in TEXT
    assert [cells["rstpm", data]["held_out"] for data in sets] == [(n + 1) // 2 for n in held_out]
    assert (systems["speed"]["precision"], systems["speed"]["threads"]) == ("float32", 2)


def test_the_speed_is_the_record_s(chart):
    rows = json.loads(chart.RECORD.read_text(encoding="utf-8"))["speed"]
    times = next(row for row in rows if chart.CELL.items() <= row.items())["median_ms"]
    own, peer = times["fastad, int16"], times["anomalib, float32"]
    assert f"{1000 / own:.0f} images of 256x256 a second" in TEXT
    assert f"{peer / own:.1f} times the rate of anomalib's" in TEXT
    assert f"{times['openvino, bfloat16'] / own:.1f} times OpenVINO's" in TEXT
    assert f"In float32 it is {peer / times['fastad, float32']:.1f} times as fast" in TEXT


@pytest.fixture
def chart():
    spec = importlib.util.spec_from_file_location("speed_chart", ROOT / "tools" / "speed_chart.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_chart_is_of_the_record(chart, tmp_path):
    chart.write(chart.RECORD, tmp_path / "speed.png")
    with Image.open(tmp_path / "speed.png") as new, Image.open(chart.PICTURE) as kept:
        assert new.size == kept.size
        assert json.loads(kept.text["Description"]) == json.loads(new.text["Description"])
    times = json.loads(kept.text["Description"])
    first = next(iter(times))
    assert first.startswith("fastad, int16")
    assert min(times, key=times.__getitem__) == first
    engines = ("fastad", "OpenVINO", "ONNX Runtime", "torch.compile", "eager", "anomalib")
    assert [name for name in engines if not any(label.startswith(name) for label in times)] == []


def test_the_chart_shows_the_fastest_at_equal_accuracy(chart):
    times = {"fastad, int16": 10.0, "fastad, float32": 20.0, "eager, float32": 60.0}
    times |= {"openvino, float32": 30.0, "openvino, int8": 11.0, "anomalib, float32": 70.0}
    found = chart.bars({"speed": [chart.CELL | {"median_ms": times}], "accuracy": []})
    names = ["fastad, int16", "fastad, float32", "OpenVINO, float32", "eager PyTorch, float32"]
    assert [label.partition(" (")[0] for label in found][:4] == names
    assert list(found.values()) == [10.0, 20.0, 30.0, 60.0, 70.0]
    with pytest.raises(ValueError, match="the record has no cell"):
        chart.bars({"speed": [], "accuracy": []})
