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


@pytest.mark.slow
def test_ops_are_typed_strictly():
    pytest.importorskip("mypy", reason="mypy is not installed: pip install -e '.[dev]'")
    command = [sys.executable, "-m", "mypy", "--strict", "-p", "fastad.ops"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


SNIPPET = """
import torch
from torch import Tensor
from fastad import ops
teacher: list[Tensor] = [torch.rand(2, 64, 32, 32)]
student = tuple(level.clone().requires_grad_() for level in teacher)
mask = torch.ones(9, 9)
loss: Tensor = ops.distillation_loss(teacher, student, weights=mask, hard=0.99, reduction="mean")
maps: list[Tensor] = ops.distances(teacher, student, weights=[mask])
plain: Tensor = ops.anomaly_map(teacher, student, (64, 64), level_weights=[1.0])
pair: tuple[Tensor, Tensor] = ops.anomaly_map(teacher, student, (64, 64), return_maximum=True)
pair = ops.anomaly_map(teacher, student, (64, 64), score="top_share", share=0.05)
plain = ops.aggregate_maps(maps, (64, 64), aggregate="sum")
ops.anomaly_map(teacher, student, 64)  # wrong
ops.anomaly_map(teacher, student, (64, 64), score="mean")  # wrong
ops.anomaly_map(teacher, student, (64, 64), score="maximum", return_maximum=True)  # wrong
plain = ops.aggregate_maps(maps, (64, 64), return_maximum=True)  # wrong
ops.distillation_loss(teacher, student, hard="0.9")  # wrong
ops.distances(teacher, student)[0].nonsense  # wrong
plain = ops.reference.distances(teacher, teacher)  # wrong
"""


@pytest.mark.slow
def test_users_of_ops_are_checked_strictly(tmp_path):
    pytest.importorskip("mypy", reason="mypy is not installed: pip install -e '.[dev]'")
    script = tmp_path / "script.py"
    script.write_text(SNIPPET)
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", str(script)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    found = {int(line.split(":")[1]) for line in run.stdout.splitlines() if "error:" in line}
    lines = SNIPPET.splitlines()
    assert found == {i for i, line in enumerate(lines, 1) if "# wrong" in line}, run.stdout


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
