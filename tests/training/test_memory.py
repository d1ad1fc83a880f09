"""Freed memory stays with the process during a training, and goes back afterwards.

Measured in processes of their own: what a heap does depends on all that was in it.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from fastad.training.memory import _glibc

pytestmark = pytest.mark.skipif(_glibc() is None, reason="the C library is not glibc")

MEASURE = """
import json, resource
from pathlib import Path
import torch
from fastad.training.memory import freed_memory_kept

LARGE = 48 * 2**20 // 4  # floats: above what glibc ever keeps by itself
SMALL = 6 * 2**20 // 4  # below

def faults(floats):
    # An allocation; the least of several rounds, as a heap takes some to settle.
    rounds = []
    for _ in range(12):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(5):
            torch.ones(floats)
        rounds.append((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / 5)
    return min(rounds)

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

found = {"usual": faults(LARGE)}
with freed_memory_kept(torch.device(DEVICE)):
    found["within"] = faults(LARGE)
    with freed_memory_kept(torch.device(DEVICE)):  # two trainings at once
        found["twice"] = faults(LARGE)
    found["one left"] = faults(LARGE)
    before = resident()
found["returned"] = (before - resident()) / (4 * LARGE)
kept = torch.ones(SMALL)
found["small afterwards"] = faults(SMALL)
print(json.dumps(found))
"""


def measured(device: str, folder: Path) -> dict[str, float]:
    command = [sys.executable, "-c", MEASURE.replace("DEVICE", repr(device))]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder)
    return json.loads(done.stdout)


def test_blocks_are_used_again_and_given_back(tmp_path):
    found = measured("cpu", tmp_path)
    assert found["usual"] > 20
    for kept in ("within", "twice", "one left"):
        assert found[kept] < found["usual"] / 10
    assert found["returned"] > 0.8
    assert found["small afterwards"] < found["usual"] / 10


def test_devices_that_have_their_own_allocator_change_nothing(tmp_path):
    found = measured("cuda", tmp_path)
    assert found["within"] > found["usual"] / 2
