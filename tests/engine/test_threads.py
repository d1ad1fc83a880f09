"""This package's own threads: who uses them, and that nothing depends on it."""

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from fastad import _extension, models
from fastad._threads import own_threads, thread_count
from fastad.inference import Predictor

ROOT = Path(__file__).parents[2]
ops = torch.ops.fastad
linux = pytest.mark.skipif(sys.platform != "linux", reason="own threads are for Linux")


@pytest.fixture(autouse=True)
def _restored():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@linux
def test_torch_takes_one_thread_meanwhile():
    torch.set_num_threads(3)
    with own_threads():
        assert (torch.get_num_threads(), thread_count()) == (1, 3)
        with own_threads():
            assert thread_count() == 3
        assert (torch.get_num_threads(), thread_count()) == (1, 3)
        with ThreadPoolExecutor(1) as pool:  # of no other thread
            assert pool.submit(torch.get_num_threads).result() == 3
    assert (torch.get_num_threads(), thread_count()) == (3, 3)
    with pytest.raises(RuntimeError, match="images must be"), own_threads():
        ops.normalize_bytes(torch.zeros(1), torch.zeros(1))
    assert (torch.get_num_threads(), thread_count()) == (3, 3)
    with own_threads(False):
        assert torch.get_num_threads() == 3


def test_one_thread_stays_torchs():
    torch.set_num_threads(1)
    with own_threads():
        assert not _extension._C.enter_own_threads()
        assert thread_count() == 1


def results(threads: int, own: bool) -> list[torch.Tensor]:
    """What all ops that prediction uses make of large and odd shapes."""
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(0)

    def bytes_(*shape: int) -> torch.Tensor:
        return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)

    def floats(*shape: int) -> torch.Tensor:
        values = torch.randn(shape, generator=generator)
        return values.to(memory_format=torch.channels_last) if len(shape) == 4 else values

    images, table = bytes_(3, 3, 131, 257), floats(3, 256)
    levels = [[floats(3, c, s, s + 1) for c, s in ((64, 33), (96, 16))] for _ in range(2)]
    with own_threads(own):
        normal = ops.normalize_bytes(images, table)
        maps, maxima, distances = ops.anomaly_map(*levels, 131, 257, True, [1.0, 2.0], 1e-12)
        found = [
            ops.resize_bytes(images, 77, 45),
            normal,
            ops.normalize_floats(normal, table[:, 0].contiguous(), table[:, 1].contiguous()),
            maps,
            maxima,
            *distances,
        ]
        if _extension.cpu_convolutions:
            weight = ops.pack_3x3(floats(64, 64, 3, 3).double().contiguous())
            found.append(ops.convolve_3x3(levels[0][0], weight, floats(64), True))
        return found


def test_results_are_the_same_bytes_with_any_threads():
    expected = results(1, False)
    for threads in (2, 3, 7):
        for own in (False, True):
            assert all(map(torch.equal, results(threads, own), expected)), (threads, own)


def test_nothing_to_do():
    torch.set_num_threads(2)
    with own_threads():
        empty = torch.zeros(0, 3, 8, 8, dtype=torch.uint8)
        assert ops.normalize_bytes(empty, torch.zeros(3, 256)).shape == (0, 3, 8, 8)


@linux
@pytest.mark.skipif(not _extension.cpu_int16, reason="no products of 16-bit integers")
@pytest.mark.parametrize(("options", "own"), [({}, True), ({"subspace": True}, False)])
def test_prediction_waits_for_none_of_torchs_threads(monkeypatch, options, own):
    built = models.build(
        "stpm", backbone="resnet18", **options, **models.without_weights("stpm")
    ).eval()
    predictor = Predictor(built, (64, 64), device="cpu", precision="int16")
    seen = []

    def count(module, inputs):
        seen.append((torch.get_num_threads(), thread_count()))

    torch.set_num_threads(2)
    images = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    predictor.predict_batch(images)
    predictor._network(predictor.dtype, True).register_forward_pre_hook(count)
    predictor.predict_batch(images)
    assert seen == [(1, 2) if own else (2, 2)]
    assert torch.get_num_threads() == 2


SCRIPT = """
import os, random, torch
from concurrent.futures import ThreadPoolExecutor
from fastad._threads import own_threads
images = torch.arange(8 * 3 * 70 * 80).remainder(256).to(torch.uint8).view(8, 3, 70, 80)
table = torch.arange(3 * 256.0).view(3, 256)
expected = torch.ops.fastad.normalize_bytes(images, table)

def call(seed):
    torch.set_num_threads(random.Random(seed).choice((1, 2, 3, 5)))
    with own_threads():
        assert torch.equal(torch.ops.fastad.normalize_bytes(images, table), expected)

def in_a_copy():
    copy = os.fork()
    if copy == 0:
        call(1)
        os._exit(0)
    assert os.waitpid(copy, 0)[1] == 0

call(1)
with ThreadPoolExecutor(4) as pool:
    for start in range(0, CALLS, 1000):
        list(pool.map(call, range(start, start + 1000)))
        in_a_copy()
print("done")
"""


@linux
def test_many_calls_threads_and_copies(tmp_path):
    script = SCRIPT.replace("CALLS", "10000")
    command = [sys.executable, "-W", "ignore", "-c", script]
    # Elsewhere: the sources here may not be built.
    run = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert run.stdout == "done\n", run.stderr
    assert run.returncode == 0


@linux
@pytest.mark.parametrize(("flags", "copies"), [("-O2", 10), ("-fsanitize=thread", 0)])
def test_pool_under_stress(tmp_path, flags, copies):
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        pytest.skip("no compiler")
    program, source = tmp_path / "stress", Path(__file__).with_name("thread_pool.cpp")
    command = [compiler, "-std=c++20", "-g", flags, "-I", str(ROOT / "csrc"), str(source)]
    built = subprocess.run([*command, "-o", str(program), "-pthread"], capture_output=True)
    if built.returncode != 0 and b"tsan" in built.stderr:
        pytest.skip("no ThreadSanitizer")
    assert built.returncode == 0, built.stderr.decode()
    # ThreadSanitizer stops where the system draws addresses from too wide a range.
    prefix = ["setarch", "-R"] if shutil.which("setarch") else []
    command = [*prefix, str(program), "2500", str(copies)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
