"""The race of engines: that it runs, goes on where it stopped, and what it concludes."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fastad import ops

BENCH = Path(__file__).parents[1] / "bench"


def loaded(name):
    spec = importlib.util.spec_from_file_location(name, BENCH / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # by which one imports the other
    spec.loader.exec_module(module)
    return module


page = loaded("engines_page")
peer = loaded("stfpm")


def speed(detector="stpm", batch=1, **times):
    names = {
        "int16": "fastad, int16",
        "float32": "fastad, float32",
        "openvino": "openvino, float32",
    }
    names |= {"int8": "openvino, int8", "eager": "eager, float32"}
    found = {names[short]: time for short, time in times.items()}
    cell = {"height": 256, "width": 256, "batch": batch, "threads": 2}
    return {"detector": detector, **cell, "median_ms": found, "fastest_ms": found}


def accuracy(int8, detector="stpm"):
    engines = {
        name: {"image_auroc": auroc, "score_difference": 0.01}
        for name, auroc in (
            ("fastad, int16", 0.91),
            ("fastad, float32", 0.9),
            ("openvino, float32", 0.9),
            ("openvino, int8", int8),
            ("eager, float32", 0.9),
        )
    }
    return {"detector": detector, "set": "bottle", "engines": engines}


def record(speeds, accuracies=()):
    versions = {"torch": "2.13.0"}
    facts = {"processor": "A processor", "cores": 2, "units": ["avx2"], "versions": versions}
    return {**facts, "speed": list(speeds), "accuracy": list(accuracies)}


ROW = {"int16": 10.0, "float32": 20.0, "openvino": 30.0, "int8": 11.0, "eager": 60.0}


@pytest.mark.parametrize(
    ("accuracies", "best", "lead"),
    [
        ([], "openvino, float32", 3.0),  # 8-bit networks count once they are measured
        ([accuracy(0.8991)], "openvino, int8", 1.1),
        ([accuracy(0.8989)], "openvino, float32", 3.0),
        ([accuracy(0.9), accuracy(0.8)], "openvino, float32", 3.0),
    ],
)
def test_the_best_other_engine_loses_nothing(accuracies, best, lead):
    (found,) = page.leads(record([speed(**ROW)], accuracies))
    assert (found["ours"], found["best"], found["lead"]) == ("fastad, int16", best, lead)


def test_the_peer_is_the_product_of_the_cosine_distances():
    images = torch.rand(2, 3, 6, 10)

    def levels(turn):
        return lambda x: [x.roll(turn, 1), x[:, :, ::2, ::2].roll(turn, 3)]

    scores, maps = peer.stfpm(levels(0), levels(1), images)
    exact = (images.double() - peer.MEAN) / peer.DEVIATION
    expected = ops.reference.anomaly_map(levels(0)(exact), levels(1)(exact), (6, 10))
    torch.testing.assert_close(maps[:, 0], expected.float())
    assert torch.equal(scores, maps.amax((1, 2, 3)))


def test_floors():
    lite = speed("stpm, lite0", **{name: time / 1.5 for name, time in ROW.items()})
    assert page.missed(record([speed(**ROW), lite])) == []
    slow = speed("stpm, lite0", **ROW | {"int16": 10.1, "float32": 14.4, "openvino": 9.0})
    short = speed(**ROW | {"openvino": 12.9})
    found = page.missed(record([short, slow], [accuracy(0.9)]))
    assert [text.split(":")[0] for text in found] == [
        "STPM, ResNet-18, one image of 256x256, 2 threads",
        "STPM, ResNet-18, one image of 256x256, 2 threads",
        "EfficientNet-Lite0, one image of 256x256, 2 threads, fastad, int16",
        "EfficientNet-Lite0, one image of 256x256, 2 threads, fastad, float32",
    ]
    assert "openvino, int8 takes 1.1 times" in found[0]
    assert "openvino, float32 is faster than fastad in float32" in found[1]


def test_the_tables_say_what_is_recorded(tmp_path):
    text = page.tables(record([speed(**ROW)], [accuracy(0.7)]), tmp_path / "engines_a.json")
    assert "| **fastad, int16** | **10.0 ms** an image | 1e-02 | 0.910 |" in text
    assert "| openvino, int8 | 1.10 \N{MULTIPLICATION SIGN} | 1e-02 | 0.700 |" in text
    stays = "| fastad, int16 | openvino, float32 | 3.0 to 3.0 times as long | `native` stays |"
    assert stays in text


def test_how_much_faster_the_smaller_network_is(tmp_path):
    lite = speed("stpm, lite0", **ROW | {"int16": 8.0})
    text = page.tables(record([speed(**ROW), lite]), tmp_path / "engines_a.json")
    assert "| one image of 256x256, 2 threads | 1.00 | 1.25 |" in text


def test_the_page_is_that_of_the_records(tmp_path, monkeypatch):
    written = page.PAGE.read_text(encoding="utf-8")
    copy = tmp_path / "engines.md"
    copy.write_text(written, encoding="utf-8")
    monkeypatch.setattr(page, "PAGE", copy)
    page.write_page()
    assert copy.read_text(encoding="utf-8") == written


@pytest.mark.slow
def test_it_runs_and_goes_on(tmp_path):
    path = tmp_path / "record.json"
    command = [sys.executable, BENCH / "engines.py", "--quick", "--json", path, "--seconds", "0"]
    command += ["--detector", "stpm, lite0", "--sizes", "32x64", "--rounds", "1"]
    command += ["--work", tmp_path / "graphs"]
    done = subprocess.run([*command, "--minutes", "0"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not path.exists()
    assert "the minutes are over" in done.stdout
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = json.loads(path.read_text())["speed"]
    assert [(row["batch"], row["threads"]) for row in rows] == [(1, 2), (1, 1), (8, 2), (8, 1)]
    assert all({"fastad, float32", "eager, float32"} <= {*row["median_ms"]} for row in rows)
    before = path.stat().st_mtime_ns
    subprocess.run(command, capture_output=True, text=True, check=True)
    assert path.stat().st_mtime_ns == before  # there was nothing left to measure
