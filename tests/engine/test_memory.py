"""A detector that runs all day must not grow."""

import copy
import gc
from pathlib import Path

import numpy as np
import pytest

from fastad.inference import Predictor

STATUS = Path("/proc/self/status")


def resident_bytes() -> int:
    [line] = [x for x in STATUS.read_text().splitlines() if x.startswith("VmRSS")]
    return int(line.split()[1]) * 1024


@pytest.mark.slow
@pytest.mark.skipif(not STATUS.exists(), reason="reads the memory in use from /proc")
def test_memory_is_flat_over_two_thousand_predictions(tiny_stpm):
    predictor = Predictor(copy.deepcopy(tiny_stpm), (32, 32), device="cpu", precision="float32")
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (4, 1, 40, 36, 3), dtype=np.uint8)  # resized at every call
    for i in range(200):
        predictor.predict(frames[i % 4])
    # What other tests left in this process may settle once; a leak grows in every round.
    growth = []
    for _ in range(3):
        gc.collect()
        before = resident_bytes()
        for i in range(2000):
            predictor.predict(frames[i % 4])
        gc.collect()
        growth.append(resident_bytes() - before)
        if growth[-1] < 4e6:
            break
    # Keeping only the maps (4 kB a call) would already be 8 MB.
    assert min(growth) < 4e6
