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


@pytest.mark.slow
def test_users_types_are_checked(tmp_path):
    """What `import fastad` gives is typed, although it is imported on first use."""
    pytest.importorskip("mypy", reason="mypy is not installed: pip install -e '.[dev]'")
    script = tmp_path / "script.py"
    script.write_text(
        "import fastad\n"
        "fastad.Detector('rstpm', image_size=256)\n"
        "fastad.Detector('rstpm', image_size=1.5)\n"
        "fastad.load(3)\n"
        "fastad.nonsense\n"
    )
    command = [sys.executable, "-m", "mypy", "--follow-imports=silent", str(script)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    wrong = [int(line.split(":")[1]) for line in run.stdout.splitlines() if "error:" in line]
    assert wrong == [3, 4, 5], run.stdout
