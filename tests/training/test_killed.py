"""A training killed again and again ends with the bytes of an undisturbed one."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from toy import RandomToy
from toy_stages import TwoStages, two_options

from fastad.training import Trainer
from fastad.training.checkpoint import load_checkpoint

# Forks a training for every line it reads, so that torch is imported once.
SCRIPT = """
import os
import sys
from pathlib import Path

import torch

sys.path.insert(0, sys.argv[2])
from test_killed import train

torch.set_num_threads(int(sys.argv[3]))
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        train(sys.argv[4], Path(sys.argv[1]))
        os._exit(0)
    print(child, flush=True)
    print(os.waitpid(child, 0)[1], flush=True)
"""
EPOCHS = 100
# Of two stages, the second with many epochs or the first: most kills come in the longer one.
CONFIGS = {
    "one stage": (RandomToy, {"epochs": EPOCHS}),
    "first stage": (TwoStages, {"stages": {"students": {"epochs": 80}, "head": {"epochs": 20}}}),
    "second stage": (TwoStages, {"stages": {"students": {"epochs": 2}, "head": {"epochs": 98}}}),
}


def train(kind, path):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (10, 3, 32, 32), dtype=torch.uint8, generator=generator)
    model, changes = CONFIGS[kind][0](), CONFIGS[kind][1]
    resume = path is not None and path.exists()
    config = two_options(pseudo_anomalies=6, **changes)
    return model, Trainer(model, config).fit(images, checkpoint=path, resume=resume)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
@pytest.mark.parametrize("kind", CONFIGS)
def test_kill_9_at_random_moments(tmp_path, kind):
    """After each kill the checkpoint is absent or whole.

    A kill in the middle of a write leaves the temporary file of that write, whose name begins with
    a dot; nothing else is left.
    """
    path = tmp_path / "a.ckpt"
    folder, threads = str(Path(__file__).parent), str(torch.get_num_threads())
    server = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(path), folder, threads, kind],
        cwd=tmp_path,  # in the checkout its sources would hide the installed package
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    )
    rng = random.SystemRandom()
    done = [0]
    with server:
        for turn in range(6):
            print("train", file=server.stdin)
            child = int(server.stdout.readline())
            # The first is killed at any time, mostly while it starts; the others in their epochs.
            before, deadline = written_at(path), time.monotonic() + 60
            while turn and written_at(path) == before and time.monotonic() < deadline:
                time.sleep(0.001)
            time.sleep(rng.uniform(0, 0.06))
            os.kill(child, signal.SIGKILL)
            assert int(server.stdout.readline()) == signal.SIGKILL
            if path.exists():
                done.append(load_checkpoint(path).record.epochs)
        assert done == sorted(done)
        assert 0 < done[-1] < EPOCHS, "the kills came too late to mean anything"
        print("train", file=server.stdin)
        server.stdout.readline()
        assert int(server.stdout.readline()) == 0
        server.stdin.close()
    found = load_checkpoint(path)
    assert found.record.epochs == EPOCHS
    model, record = train(kind, None)
    assert [s.losses for s in found.record.stages] == [s.losses for s in record.stages]
    for name, value in model.trained_state().items():
        assert torch.equal(found.best[name], value), name
    left = [p.name for p in tmp_path.iterdir() if p != path]
    assert len(left) <= 6
    assert all(name.startswith(".a.") for name in left)


def written_at(path):
    return path.stat().st_mtime_ns if path.exists() else 0
