"""Captures that fail, and waits that are found before; with a CUDA that notes what is asked."""

import threading
import warnings
from contextlib import contextmanager

import pytest
import torch

from fastad.training import capture as module
from fastad.training.capture import can_capture, capture, watch_for_waits

POOL = (0, 7)


class Stream:
    device_index = 3


@pytest.fixture
def cuda(monkeypatch):
    """What was asked of CUDA, in order. Its debug mode is `mode`."""

    class Cuda(list):
        mode = 0
        ended = False  # whether the capture's end has ended the allocations, too
        stream = Stream()

    asked = Cuda()

    @contextmanager
    def graph(graph, pool, stream, capture_error_mode):
        asked.append(("begin", graph, pool, stream, capture_error_mode))
        yield
        asked.append("end")

    def end(device, pool):
        if asked.ended:
            raise RuntimeError("endAllocatePool: not currently recording to mempool_id")
        asked.append(("end of allocations", device, pool))

    def set_mode(mode):
        asked.mode = {"default": 0, "warn": 1, "error": 2}.get(mode, mode)
        if asked.mode:
            warnings.warn("Synchronization debug mode is a prototype feature and ...", stacklevel=1)

    monkeypatch.setattr(module, "_failed", [])
    monkeypatch.setattr(torch.cuda, "graph", graph)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: asked.stream)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: POOL)
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: asked.mode)
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", set_mode)
    monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", end, raising=False)
    release = lambda *given: asked.append(("release", *given))  # noqa: E731
    monkeypatch.setattr(torch._C, "_cuda_releasePool", release, raising=False)

    def item():
        if asked.mode == 1:
            warnings.warn(f"{module.WAIT} (Triggered internally at ...)", stacklevel=1)
        if asked.mode == 2:
            raise RuntimeError(module.WAIT)
        return 5

    asked.item = item
    return asked


def test_a_capture_that_succeeds(cuda):
    with capture("graph"):
        cuda.append("work")
    begin = ("begin", "graph", POOL, cuda.stream, "thread_local")
    assert cuda == [begin, "work", "end"]
    assert can_capture()


def test_a_capture_that_fails_is_cleaned_up_and_the_last(cuda):
    with pytest.raises(RuntimeError, match="not permitted"), capture("graph"):
        raise RuntimeError("operation not permitted when stream is capturing")
    assert cuda[1:] == [("end of allocations", 3, POOL), ("release", 3, POOL)]
    assert module._failed == ["graph"]  # torch's allocators point to it
    assert not can_capture()


def test_what_torch_has_cleaned_up_is_not_released_twice(cuda):
    cuda.ended = True
    with pytest.raises(ValueError, match="of the model"), capture("graph"):
        raise ValueError("of the model")
    assert len(cuda) == 1


def test_captures_take_turns(cuda):
    def second():
        with capture("second"):
            cuda.append("work of the second")

    thread = threading.Thread(target=second)
    with capture("first"):
        thread.start()
        thread.join(0.05)
        cuda.append("work of the first")
    thread.join(10)
    assert [x for x in cuda if "work" in x] == ["work of the first", "work of the second"]
    assert cuda.index("end") < cuda.index("work of the second")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("mode", [0, 1, 2])
def test_a_wait_is_found(cuda, mode):
    cuda.mode = mode
    assert watch_for_waits(cuda.item) == (5, True)
    assert watch_for_waits(lambda: 6) == (6, False)
    assert cuda.mode == mode


def test_other_warnings_are_shown(cuda):
    def run():
        warnings.warn("a warning of the model", stacklevel=1)
        cuda.item()

    with pytest.warns(UserWarning, match="of the model") as shown:
        _, waits = watch_for_waits(run)
    assert waits
    assert [str(w.message) for w in shown] == ["a warning of the model"]


def test_a_wait_of_another_thread_is_none_of_this_and_goes_on(cuda):
    found = []

    def run():
        thread = threading.Thread(target=lambda: found.append(cuda.item()))
        thread.start()
        thread.join()

    assert watch_for_waits(run) == (None, False)
    assert found == [5]


def test_the_mode_is_as_before_after_an_error(cuda):
    with pytest.raises(ZeroDivisionError):
        watch_for_waits(lambda: 1 / 0)
    assert cuda.mode == 0
    assert warnings.showwarning.__module__ != module.__name__


def test_without_cuda_nothing_is_asked(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    assert watch_for_waits(lambda: 4) == (4, False)
