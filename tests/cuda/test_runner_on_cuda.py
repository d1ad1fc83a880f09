"""Streams, graphs and memory of prediction on a GPU, also after a capture that fails."""

import gc
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from fastad import _extension
from fastad.engine.cuda import CudaRunner
from fastad.models import Prediction
from fastad.training.capture import can_capture

if not torch.cuda.is_available():
    pytest.skip("there is no CUDA device", allow_module_level=True)
if _extension.cuda_obstacle is not None:
    pytest.skip(f"the CUDA kernels are {_extension.cuda_obstacle}", allow_module_level=True)

DEVICE = torch.device("cuda", 0)
MEGABYTE = 2**20


class Network(torch.nn.Module):
    """Adds up channels. ``meanwhile`` is called in between, and may wait for the device."""

    def __init__(self, meanwhile=lambda sums: None, rounds=1):
        super().__init__()
        self.meanwhile, self.rounds = meanwhile, rounds

    def forward(self, images):
        sums = images.sum(1)
        for _ in range(self.rounds):  # long enough to be overtaken
            sums = sums.sin().asin()
        self.meanwhile(sums)
        return Prediction(sums.amax((1, 2)), sums)


def images_of(value, count=8, size=256):
    """Their sums over the channels are ``value`` / 1000."""
    images = torch.zeros(count, 3, size, size)
    images[:, 1] = value / 1000
    return images


def check(found, value):
    score, anomaly_map = found
    np.testing.assert_allclose(anomaly_map, value / 1000, atol=1e-4)
    np.testing.assert_allclose(score, value / 1000, atol=1e-4)


def in_use():
    """Bytes of device memory that cannot be used again, those that wait for streams included."""
    gc.collect()
    torch.cuda.synchronize()
    # The allocator looks whether streams are done when it is asked for memory.
    torch.empty(32 * MEGABYTE, dtype=torch.uint8, device=DEVICE)
    return torch.cuda.memory_stats()["active_bytes.all.current"]


def grows(runner, batches=200):
    """Bytes of device memory that batches leave behind."""
    for value in range(4):
        check(runner.start(images_of(value))(), value)
    before = in_use()
    for value in range(batches):
        check(runner.start(images_of(value))(), value)
    return in_use() - before


def test_a_graph_leaves_no_memory_behind():
    runner = CudaRunner(Network(), DEVICE, torch.float32)
    assert grows(runner) < MEGABYTE
    [graph] = runner._graphs.values()
    assert graph._graph is not None


@pytest.mark.parametrize(
    "wait",
    [
        lambda sums: sums.max().item(),
        lambda sums: sums.cpu(),
        lambda sums: sums.nonzero(),
        lambda sums: torch.cuda.current_stream().synchronize(),
    ],
    ids=["item", "cpu", "nonzero", "synchronize"],
)
def test_a_wait_is_found_before_a_capture(wait, caplog):
    runner = CudaRunner(Network(wait), DEVICE, torch.float32)
    assert grows(runner) < MEGABYTE
    assert caplog.messages == ["predicting without a CUDA graph: the model waits for the device"]
    assert can_capture()
    assert torch.cuda.get_sync_debug_mode() == 0


# In a process of its own, which captures nothing more.
FAILS = """
import logging, sys
sys.path.insert(0, sys.argv[1])
from test_runner_on_cuda import *

logging.basicConfig(level=logging.WARNING, format="%(message)s")
# A wait that torch's debug mode does not notice.
runner = CudaRunner(Network(lambda sums: torch.cuda.synchronize()), DEVICE, torch.float32)
assert grows(runner) < MEGABYTE
assert not can_capture()
other = CudaRunner(Network(), DEVICE, torch.float32)
assert grows(other) < MEGABYTE
assert [graph._graph for graph in other._graphs.values()] == [None]

# Somebody else's memory, used on another stream.
side, before = torch.cuda.Stream(), in_use()
for _ in range(20):
    x = torch.empty(8 * MEGABYTE, dtype=torch.uint8, device=DEVICE)
    x.record_stream(side)
    del x
assert in_use() - before < MEGABYTE, in_use() - before
print("done")
"""


def test_a_capture_that_fails_leaves_no_memory_behind():
    command = [sys.executable, "-c", FAILS, str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == "done\n", done.stderr
    assert done.stderr.count("predicting without a CUDA graph: ") == 1


def test_streams_of_two_threads_share_a_runner():
    runner = CudaRunner(Network(rounds=40), DEVICE, torch.float32)
    for value in range(3):
        runner.start(images_of(value))()
    errors = []

    def work(first):
        try:
            with torch.cuda.stream(torch.cuda.Stream()):
                for value in range(first, 1000, 8):
                    check(runner.start(images_of(value).cuda())(), value)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_the_callers_stream_may_write_to_its_images_again():
    runner = CudaRunner(Network(rounds=40), DEVICE, torch.float32)
    images, others = torch.empty(8, 3, 256, 256, device=DEVICE), images_of(900).cuda()
    waits = []
    for value in range(20):
        given = images_of(value).cuda()
        torch.cuda._sleep(1_000_000)  # the copy comes late
        images.copy_(given)
        waits.append(runner.start(images))
        images.copy_(others)
    for value, wait in enumerate(waits):
        check(wait(), value)


def test_results_hold_no_pinned_memory():
    runner = CudaRunner(Network(), DEVICE, torch.float32)
    for value in range(4):
        runner.start(images_of(value))()
    before = torch.cuda.host_memory_stats()["allocated_bytes.current"]
    results = [runner.start(images_of(value))() for value in range(50)]
    after = torch.cuda.host_memory_stats()["allocated_bytes.current"]
    assert after - before <= images_of(0).nbytes * 4  # the images of the last batches
    for value, found in enumerate(results):
        check(found, value)
