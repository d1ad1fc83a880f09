"""Serving on CUDA, with a CUDA of which every stream does its work only when somebody waits.

That shows an order that nobody asked for, and memory that is used again too early.
"""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext

import numpy as np
import pytest
import torch

from fastad.engine import cuda
from fastad.engine.cuda import BUFFERS, MOST_GRAPHS, CudaRunner

DEVICE = torch.device("cpu")


class Stream:
    """Work to do in order; a piece may wait for the pieces of another stream before it."""

    lock = threading.RLock()  # of all streams: one piece of work is done at a time

    def __init__(self, name="caller's"):
        self.name, self.work, self.done = name, [], 0

    def do(self, run):
        self.work.append(run)

    def wait_stream(self, other):
        position = len(other.work)
        self.do(lambda: other.finish(position))

    def record_event(self):
        return Event(self, len(self.work))

    def finish(self, position=None):
        position = len(self.work) if position is None else position
        with self.lock, torch.inference_mode():
            while self.done < position:
                self.done += 1
                self.work[self.done - 1]()


class Event:
    def __init__(self, stream, position):
        self.stream, self.position = stream, position

    def synchronize(self):
        self.stream.finish(self.position)


class Machine:
    """Streams, and the one that is current in a thread."""

    def __init__(self):
        self.streams, self.pinned = [], []
        self._here = threading.local()

    @property
    def current(self):
        if not hasattr(self._here, "stream"):
            self._here.stream = Stream()
        return self._here.stream

    def new(self, device):
        assert device == DEVICE
        self.streams.append(Stream(("inward", "computing", "outward")[len(self.streams) % 3]))
        return self.streams[-1]

    @contextmanager
    def on(self, stream):
        before, self._here.stream = self.current, stream
        yield
        self._here.stream = before


@pytest.fixture
def machine(monkeypatch):
    """Every `copy_`, `to` and run of the network becomes work of the current stream."""
    machine = Machine()
    copy, empty, to = torch.Tensor.copy_, torch.empty, torch.Tensor.to

    def later_copy(self, source, non_blocking=False):
        machine.current.do(lambda: copy(self, source))
        return self

    def later_to(self, *arguments, non_blocking=False, **named):
        if arguments != (DEVICE,) or not non_blocking:
            return to(self, *arguments, **named)
        assert machine.current.name == "inward"
        result = torch.full_like(self, 255)
        machine.current.do(lambda: copy(result, self))
        return result

    def pinned(*size, pin_memory=False, **named):
        if pin_memory:
            machine.pinned.append(size[0])
        return empty(*size, **named)

    monkeypatch.setattr(torch.cuda, "Stream", machine.new)
    monkeypatch.setattr(torch.cuda, "stream", machine.on)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: machine.current)
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(torch.Tensor, "copy_", later_copy)
    monkeypatch.setattr(torch.Tensor, "to", later_to)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self)
    monkeypatch.setattr(torch, "empty", pinned)
    machine.copy = copy
    return machine


@pytest.fixture
def runner(machine, monkeypatch):
    """Of a network whose map is the images' first channel, and whose score the mean."""

    def compute(self, images):
        assert machine.current.name == "computing"
        score, anomaly_map = torch.zeros(len(images)), torch.zeros_like(images[:, 0]).float()

        def work():
            machine.copy(anomaly_map, images[:, 0].float())
            machine.copy(score, anomaly_map.mean((1, 2)))

        machine.current.do(work)
        return score, anomaly_map

    monkeypatch.setattr(CudaRunner, "compute", compute)
    monkeypatch.setattr(cuda, "Graph", lambda function, example: function)  # its tests are below
    return CudaRunner(None, DEVICE, torch.float32)


def images_of(value, count=2):
    return torch.full((count, 3, 2, 4), value, dtype=torch.uint8)


def check(found, value, count=2):
    score, anomaly_map = found
    np.testing.assert_array_equal(score, np.full(count, value, np.float32))
    np.testing.assert_array_equal(anomaly_map, np.full((count, 2, 4), value, np.float32))


def test_results_wait_for_copies_and_for_the_network(runner):
    check(runner.start(images_of(7))(), 7)


def test_many_batches_under_way_share_few_buffers(runner, machine):
    waits = [runner.start(images_of(value)) for value in range(5 * BUFFERS)]
    for value in reversed(range(5 * BUFFERS)):
        check(waits[value](), value)
        check(waits[value](), value)  # as often as one likes
    assert machine.pinned == [2 + 2 * 8] * BUFFERS


def test_results_are_the_callers_own(runner):
    first = runner.start(images_of(1))()
    for value in range(2 * BUFFERS):
        runner.start(images_of(50 + value))()
    check(first, 1)
    assert all(array.base is None and array.flags.writeable for array in first)


def test_buffers_grow_with_the_batches(runner, machine):
    for count in (1, 4, 2, 3, 4, 1):
        for _ in range(BUFFERS):
            check(runner.start(images_of(count, count))(), count, count)
    assert machine.pinned == [9] * BUFFERS + [36] * BUFFERS


@pytest.mark.parametrize("finish_first", [False, True])
def test_the_callers_stream_comes_before_and_after(runner, machine, monkeypatch, finish_first):
    # Images that are on the device already: written to just before, and again just after.
    monkeypatch.setattr(torch.Tensor, "device", property(lambda self: torch.device("meta")))
    mine = Stream()
    images = images_of(0)
    with machine.on(mine):
        mine.do(lambda: machine.copy(images, images_of(3)))
        wait = runner.start(images)
        mine.do(lambda: machine.copy(images, images_of(9)))
    if finish_first:
        mine.finish()
    check(wait(), 3)


def test_what_streams_use_lives_until_they_are_done(runner):
    fetching = runner.start(images_of(2))
    (score, _), (given, copied) = fetching._keep
    assert score.shape == (2,)
    assert given.shape == copied.shape == (2, 3, 2, 4)
    fetching()
    assert fetching._keep is None


def test_threads_share_a_runner(runner):
    def many(value):
        waits = [runner.start(images_of(value, 1 + i % 3)) for i in range(20)]
        return [wait() for wait in waits]

    with ThreadPoolExecutor(4) as threads:
        for value, results in enumerate(threads.map(many, range(8))):
            for i, found in enumerate(results):
                check(found, value, 1 + i % 3)


def test_a_shape_gets_a_graph_when_it_comes_again(runner, monkeypatch):
    made = []
    monkeypatch.setattr(cuda, "Graph", lambda f, example: made.append(example.shape[0]) or f)
    for count in [1, 2, 1, 1, 2, *range(10, 10 + MOST_GRAPHS), 1, 1]:
        check(runner.start(images_of(count, count))(), count, count)
    assert made == [1, 2, 1]  # that of one image was the oldest, and made again
    assert len(runner._graphs) == MOST_GRAPHS


class Recorded:
    """A CUDA graph: captures the function's work, and does it again."""

    made = 0

    def __init__(self):
        type(self).made += 1
        self.replays = 0

    def replay(self):
        self.replays += 1


@pytest.fixture
def captures(monkeypatch):
    """What was captured; of `fails` an error."""

    class Captures(list):
        fails = ""

    captures = Captures()

    @contextmanager
    def capture(graph):
        captures.append(graph)
        if captures.fails:
            raise RuntimeError(captures.fails)
        yield

    monkeypatch.setattr(Recorded, "made", 0)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Recorded)
    monkeypatch.setattr(cuda, "capture", capture)
    return captures


def twice(calls):
    def function(images):
        calls.append(images)
        return images.sum((1, 2, 3)), images[:, 0] * 2

    return function


def test_a_graph_runs_on_memory_of_its_own(captures):
    calls, images = [], torch.ones(2, 3, 4, 4)
    graph = cuda.Graph(twice(calls), images)
    assert len(calls) == cuda.WARM_UP + 1
    assert len(captures) == 1
    own = calls[-1]
    assert {x.data_ptr() for x in calls} == {own.data_ptr()} != {images.data_ptr()}
    first = graph(images * 3)
    assert torch.equal(own, images * 3)
    assert captures[0].replays == 1
    assert len(calls) == cuda.WARM_UP + 1
    assert first[0].data_ptr() != graph(images)[0].data_ptr()


def test_a_function_that_waits_is_never_captured(captures, monkeypatch, caplog):
    watched = []

    def watch(run):
        watched.append(True)
        return run(), True

    monkeypatch.setattr(cuda, "watch_for_waits", watch)
    calls, images = [], torch.ones(2, 3, 4, 4)
    graph = cuda.Graph(twice(calls), images)
    assert captures == []
    assert Recorded.made == 0
    assert len(calls) == cuda.WARM_UP
    assert torch.equal(graph(images)[1], images[:, 0] * 2)
    assert len(calls) == cuda.WARM_UP + 1
    assert watched == [True]
    assert caplog.messages == ["predicting without a CUDA graph: the model waits for the device"]


def test_a_capture_that_fails_leaves_the_function(captures, monkeypatch, caplog):
    captures.fails = "operation not permitted when stream is capturing"
    calls, images = [], torch.ones(2, 3, 4, 4)
    graph = cuda.Graph(twice(calls), images)
    assert torch.equal(graph(images)[1], images[:, 0] * 2)
    assert "predicting without a CUDA graph: operation not permitted" in caplog.text
    monkeypatch.setattr(cuda, "can_capture", lambda: False)
    before = len(calls)
    later = cuda.Graph(twice(calls), images)
    assert len(calls) == before
    assert torch.equal(later(images)[1], images[:, 0] * 2)
    assert len(captures) == 1
