"""torchrun itself: its agent killed amid the work on many products, and kills at random."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastad import load

sys.path.append(str(Path(__file__).parents[2] / "bench"))
import faults

OPTIONS = ["--model", "subspace", "--set", "smoothing=1", "--teacher-weights", "embedded"]
OPTIONS += ["--image-size", "32", "--precision", "float32", "--quiet"]
PRODUCTS = 6


@pytest.fixture
def factory(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(PRODUCTS):
        folder = tmp_path / f"root/product_{number}"
        folder.mkdir(parents=True)
        for i in range(10):
            pixels = rng.integers(80, 120, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{i}.png")
    return tmp_path


def start(folder):
    """torchrun with two processes, in a session of its own."""
    words = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    words += ["--master-port", "0", "--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0"]
    words += ["-m", "fastad", "train", str(folder / "root"), "--each"]
    words += ["--output", str(folder / "out"), *OPTIONS]
    return subprocess.Popen(
        words,
        cwd=folder,  # in the checkout its sources would hide the installed package
        stderr=subprocess.DEVNULL,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )


def done(folder):
    """Products whose row says so, with what their files hold."""
    found = {}
    for path in (folder / "out").glob("product_*.json"):
        row = json.loads(path.read_text())
        if row["status"] == "done":
            found[row["product"]] = (folder / f"out/{row['product']}.fastad").read_bytes()
    return found


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs sessions and SIGKILL")
def test_the_agent_is_killed(factory):
    """Its ranks end with it; the next start keeps what is done."""
    agent = start(factory)
    deadline = time.monotonic() + 300
    while not done(factory) and time.monotonic() < deadline:
        time.sleep(0.05)
    kept = done(factory)
    assert 0 < len(kept) < PRODUCTS, "the kill comes too late to mean anything"
    os.kill(agent.pid, signal.SIGKILL)
    agent.wait()
    assert start(factory).wait(timeout=300) == 0
    after = done(factory)
    assert len(after) == PRODUCTS
    assert {name: after[name] for name in kept} == kept  # trained once
    for name in after:
        assert len(load(factory / f"out/{name}.fastad").calibration_scores_) == 2
    assert (factory / "out/index.html").is_file()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and SIGKILL")
def test_kills_at_random_moments_change_nothing(tmp_path):
    """Two of what `python bench/faults.py` does fifty times."""
    desk = faults.Desk(tmp_path / "desk").make()
    found = faults.disturbed(faults.WORKS["predict"], desk, tmp_path / "work", kills=2, seed=0)
    assert found.wrong == []
    assert found.kills == 2
    assert found.results > 0
