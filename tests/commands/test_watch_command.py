"""``fastad watch`` as a process: options, signals, kills."""

import csv
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("watchfiles")


def arrive(folder, number):
    """An image under its name at once, as an atomic writer makes it."""
    rng = np.random.default_rng(number)
    hidden = folder / f".{number}.png"
    Image.fromarray(rng.integers(80, 120, (72, 64, 3), dtype=np.uint8)).save(hidden)
    os.replace(hidden, folder / f"{number}.png")


@pytest.fixture
def watch(detector, tmp_path):
    """Start ``fastad watch`` on the folder "line"; gives the process once it watches."""
    folder, log = tmp_path / "line", tmp_path / "log"
    folder.mkdir()
    started = []

    def start(*options, waits=True):
        words = ["-m", "fastad", "watch", folder, "--detector", detector, "--device", "cpu"]
        begin = log.stat().st_size if log.exists() else 0
        with open(log, "ab") as err:
            process = subprocess.Popen(
                [sys.executable, *map(str, [*words, *options])],
                stdout=subprocess.PIPE,
                stderr=err,
                text=True,
                cwd=tmp_path,  # not beside the sources
            )
        started.append(process)
        while waits and "watching" not in log.read_text()[begin:]:
            assert process.poll() is None, log.read_text()
            time.sleep(0.05)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def table(path):
    if not path.exists():
        return []
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def wait(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.slow
def test_images_are_inspected_until_a_signal(watch, fastad, detector, tmp_path):
    folder = tmp_path / "line"
    arrive(folder, 0)
    process = watch("--settle", 0, "--json-lines", tmp_path / "out.jsonl", "--csv", "-")
    arrive(folder, 1)
    wait(lambda: (tmp_path / "out.jsonl").exists() and (tmp_path / "out.jsonl").read_text())
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    [line] = (tmp_path / "out.jsonl").read_text().splitlines()
    result = json.loads(line)
    log = (tmp_path / "log").read_text()
    assert "1 images are in" in log
    assert "stopped: 1 images, " in log
    code, predicted, _ = fastad("predict", detector, folder / "1.png", "--json", "-", "--quiet")
    assert code == 0
    [expected] = json.loads(predicted)["images"]
    assert {name: result[name] for name in expected} == expected
    assert result["number"] == 1
    assert re.fullmatch(r"20..-..-..T..:..:..\.\d{3}\+00:00", result["time"])
    [row] = csv.DictReader(out.splitlines())
    assert (row["path"], float(row["score"])) == (expected["path"], expected["score"])


@pytest.mark.slow
def test_kills_lose_and_double_nothing(watch, tmp_path):
    folder, rng, count = tmp_path / "line", random.Random(1), 0
    options = ["--settle", 0, "--csv", tmp_path / "out.csv", "--move-to", tmp_path / "good"]
    options += [tmp_path / "bad", "--batch-size", 2, "--quiet"]
    watch(*options[:-1]).kill()
    for _ in range(6):
        process = watch(*options, waits=False)
        end = time.monotonic() + rng.uniform(1.0, 5.0)
        while time.monotonic() < end:
            count += 1
            arrive(folder, count)
            time.sleep(0.1)
        process.kill()
        process.wait()
    process = watch(*options, waits=False)
    count += 1
    arrive(folder, count)  # it takes this one itself, and so is ready for a signal then
    wait(lambda: not list(folder.glob("*.png")), seconds=120)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    rows = table(tmp_path / "out.csv")
    assert [int(row["number"]) for row in rows] == list(range(1, count + 1))
    assert {Path(row["path"]).stem for row in rows} == {str(n + 1) for n in range(count)}
    assert all(Path(row["moved_to"]).exists() for row in rows)


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--move-to", "x", "x"], 2, "--move-to needs two folders"),
        (["--move-to", "{line}", "x"], 2, "is the folder under watch, or holds it"),
        (["--webhook-token-file", "x"], 2, "--webhook-token-file needs --webhook"),
        (["--webhook", "host"], 1, "--webhook must begin with http://"),
        (["--mm-per-pixel", "0"], 2, "--mm-per-pixel must be above 0"),
        (["--csv", "{line}/none/out.csv"], 1, "there is no folder"),
        (["--csv", "{detector}"], 1, "is a detector: give the results another name"),
        (["--state", "{line}/none/state.db"], 1, "cannot open the state"),
    ],
)
def test_wrong_options_are_said(fastad, detector, tmp_path, options, code, said):
    (tmp_path / "line").mkdir()
    places = {"line": tmp_path / "line", "detector": detector}
    words = [word.format(**places) for word in options]
    result = fastad("watch", tmp_path / "line", "--detector", detector, *words)
    assert result[0] == code, result[2]
    assert said in " ".join(re.sub(r"[│\n]+", " ", result[2]).split())


def test_a_video_is_watched_to_its_end(fastad, detector, tmp_path, monkeypatch):
    av = pytest.importorskip("av")
    monkeypatch.chdir(tmp_path)
    with av.open("line.mkv", "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 72, "bgr0"
        for level in (90, 100, 110):
            frame = av.VideoFrame.from_ndarray(np.full((72, 64, 3), level, np.uint8), "rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    words = ["watch", "--source", "line.mkv", "--detector", detector, "--csv", "out.csv"]
    for _ in range(2):  # the second start has nothing left to do
        code, _, err = fastad(*words, "--move-to", "good", "bad", "--quiet")
        assert code == 0, err
        rows = table(tmp_path / "out.csv")
        assert [row["path"] for row in rows] == [f"line.mkv#00000{i}" for i in (1, 2, 3)]
        assert all((tmp_path / row["moved_to"]).is_file() for row in rows)


def test_a_folder_or_a_source_is_needed(fastad, detector, tmp_path):
    for words in ([], [tmp_path, "--source", "0"]):
        code, _, err = fastad("watch", *words, "--detector", detector)
        assert code == 2
        assert "give either FOLDER or --source" in err


def test_a_folder_that_is_not_there_is_said(fastad, detector, tmp_path):
    code, _, err = fastad("watch", tmp_path / "none", "--detector", detector)
    assert code == 1
    assert f"there is no folder {tmp_path / 'none'} to watch" in err
