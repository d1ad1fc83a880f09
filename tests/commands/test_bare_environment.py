"""What a container or a restricted account lacks stops no command that does not need it."""

import os
import subprocess
import sys

import pytest

NOWHERE = "/nonexistent"
KEPT = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "SYSTEMROOT", "OMP_NUM_THREADS")


def fastad(*arguments, cwd):
    """The command line in a process without a home, a user, a language or temporary files."""
    bare = {name: os.environ[name] for name in KEPT if name in os.environ}
    bare |= {"HOME": NOWHERE, "TMPDIR": NOWHERE, "XDG_CACHE_HOME": NOWHERE, "LC_ALL": "C"}
    bare |= {"FASTAD_WEIGHTS": NOWHERE, "MPLCONFIGDIR": NOWHERE, "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "fastad", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=bare, timeout=300)


def test_info_always_works(tmp_path):
    run = fastad("info", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert "embedded" in run.stdout
    assert "Traceback" not in run.stderr


def test_info_of_a_detector(detector, tmp_path):
    run = fastad("info", detector, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert "stpm" in run.stdout


@pytest.mark.slow
def test_the_commands_of_the_line(detector, images, tmp_path):
    short = ("--image-size", 32, "--epochs", 1, "--teacher-weights", "embedded")
    for arguments in (
        ("predict", detector, images / "test", "--heatmaps", "--output", tmp_path / "out"),
        ("evaluate", detector, images, "--report", tmp_path / "report"),
        ("train", images, "--model", "stpm", *short, "--output", tmp_path / "d.fastad"),
    ):
        run = fastad(*arguments, cwd=tmp_path)
        assert run.returncode == 0, run.stderr
        assert "Traceback" not in run.stderr
