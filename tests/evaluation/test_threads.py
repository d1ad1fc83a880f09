"""Metrics where the system gives no more threads."""

import subprocess
import sys

import pytest

SCRIPT = """
import resource, numpy as np, torch
from fastad import _C
masks, maps = np.zeros((64, 8, 8), bool), np.random.default_rng(0).random((64, 8, 8), np.float32)
masks[:, 2:4, 2:4] = True
expected = _C.pixel_curve(masks, maps, False, 1)
with open("/proc/self/statm") as statm:
    used = int(statm.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (20 << 20), -1))  # room for two stacks
found = _C.pixel_curve(masks, maps, False, 64)
assert all(np.array_equal(a, b) for a, b in zip(found, expected))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space as Linux does")
def test_a_thread_that_cannot_start_is_done_without(tmp_path):
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, cwd=tmp_path
    )
    assert run.returncode == 0, run.stderr
