"""Types: those of the package hold, and users' type checkers see them."""

import subprocess
import sys
from pathlib import Path

import pytest

import fastad

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
def test_mypy_passes():
    pytest.importorskip("mypy", reason="mypy is not installed: pip install -e '.[dev]'")
    run = subprocess.run([sys.executable, "-m", "mypy"], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


def test_the_mark_of_a_typed_package_is_installed():
    assert (Path(fastad.__file__).parent / "py.typed").is_file()
