"""The bench of a busy machine: what it compares, and when it finds a floor missed."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from fastad.commands.processors import SPIN_COUNT

PATH = Path(__file__).parents[1] / "bench" / "busy.py"
_spec = importlib.util.spec_from_file_location("busy_bench", PATH)
busy = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(busy)


def row(loops, **others):
    return {"busy_loops": loops, "of_fastad": {"fastad": 1.0, "fastad, torch's own": 1.0, **others}}


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([row(0, eager=0.5), row(1, eager=1.0, openvino=1.3), row(2, eager=0.1)], None),
        ([row(1, eager=2.0, onnxruntime=0.9)], "one busy loop: onnxruntime takes 0.9 of the time"),
        ([row(0) | {"of_fastad": {"fastad, torch's own": 0.96}}], "idle: torch's own way"),
        ([row(0) | {"of_fastad": {"fastad, torch's own": 0.98}}], None),
        ([row(2) | {"of_fastad": {"fastad, torch's own": 1.2}}], None),
        ([row(2) | {"of_fastad": {"fastad, torch's own": 5.0}}], "2 busy loops: torch's own way"),
    ],
)
def test_floors(rows, said):
    found = busy.missed(rows)
    assert len(found) == (said is not None)
    assert all(said in text for text in found)


def test_the_command_lines_setting_is_the_one_measured():
    found = busy.settings()
    assert found["fastad"] == {"GOMP_SPINCOUNT": SPIN_COUNT}
    assert found["fastad, torch's own"] == found["eager"] == {}


def test_busy_loops_end(monkeypatch):
    loops = []

    class Noted(subprocess.Popen):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            loops.append(self)

    monkeypatch.setattr(subprocess, "Popen", Noted)
    with busy.busy_loops(2):
        assert [loop.poll() for loop in loops] == [None, None]
    assert None not in [loop.poll() for loop in loops]


@pytest.mark.slow
def test_every_competitor_runs(tmp_path):
    command = [sys.executable, PATH, "--loops", "0", "--seconds", "0", "--repeats", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for name in busy.settings():
        assert name in done.stdout
