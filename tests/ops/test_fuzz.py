"""No call of a schema crashes, reads beside its tensors, or returns what the reference does not."""

import random
import subprocess
import sys
from pathlib import Path

import pytest


def fuzz(tmp_path: Path, calls: int) -> str:
    """What a process of its own prints that makes so many calls."""
    log, seed = tmp_path / "log", random.SystemRandom().randrange(2**31)
    command = [sys.executable, Path(__file__).with_name("fuzz.py")]
    command += ["--calls", str(calls), "--seed", str(seed), "--log", log]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    last = log.read_text() if log.exists() else "before the first call"
    assert run.returncode == 0, f"exit code {run.returncode} at {last}{run.stdout}{run.stderr}"
    return run.stdout


@pytest.mark.parametrize("calls", [2000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_calls(tmp_path, calls):
    lines = [line.split() for line in fuzz(tmp_path, calls).splitlines()]
    assert len(lines) >= 17
    for name, _, accepted, _, refused in lines:
        assert int(accepted) > calls / 200, f"{name} is hardly ever called rightly"
        assert int(refused) > calls / 500, f"{name} is hardly ever called wrongly"
