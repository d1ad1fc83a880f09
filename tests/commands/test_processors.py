"""The threads of a command spin shortly, which libgomp must know before torch loads it."""

import os
import re
import subprocess
import sys

import pytest

from fastad.commands import processors
from fastad.commands.processors import CHOICES, SPIN_COUNT

OWN = {name: value for name, value in os.environ.items() if name not in CHOICES}


def libgomp_says(command, folder, **variables):
    """How often its threads spin, by libgomp itself."""
    environment = {**OWN, **variables, "OMP_DISPLAY_ENV": "verbose"}
    command = [sys.executable, *command]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env=environment, cwd=folder
    )
    found = re.findall(r"GOMP_SPINCOUNT = '(\d+)'", done.stderr)
    if not found:
        pytest.skip("this torch has another OpenMP than libgomp")
    return set(found)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, SPIN_COUNT),
        ({"GOMP_SPINCOUNT": "77"}, "77"),
        ({"OMP_WAIT_POLICY": "passive"}, "0"),
    ],
)
def test_a_command_spins_shortly_unless_the_user_chose(tmp_path, variables, expected):
    assert libgomp_says(["-m", "fastad", "info"], tmp_path, **variables) == {expected}


def test_the_library_leaves_the_environment_alone(tmp_path):
    assert libgomp_says(["-c", "import fastad.inference"], tmp_path) != {SPIN_COUNT}


def test_it_is_too_late_after_torch(monkeypatch):
    for name in CHOICES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setitem(sys.modules, "torch", sys)
    processors.share_processors()
    assert "GOMP_SPINCOUNT" not in os.environ
    monkeypatch.delitem(sys.modules, "torch")
    processors.share_processors()
    assert os.environ.pop("GOMP_SPINCOUNT") == SPIN_COUNT
