"""Capturing CUDA graphs so that a capture that cannot succeed does no harm.

A capture fails where the host waits for the device, among other things. torch's `capture_end` does
not clean up then. Its allocator believes for ever that a capture goes on, and never again frees
what was used on two streams. So waits are looked for before a capture. After one that failed all
the same, this process captures no more.
"""

import contextlib
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch

Result = TypeVar("Result")

# What torch warns of, in its debug mode for waits and when that is turned on.
WAIT = "called a synchronizing CUDA operation"
PROTOTYPE = "Synchronization debug mode is a prototype feature"

_one_at_a_time = threading.Lock()
# Graphs whose capture failed. torch's allocators keep pointers to them, so they must live on.
_failed: list[torch.cuda.CUDAGraph] = []


def can_capture() -> bool:
    """Whether no capture has failed in this process."""
    return not _failed


def watch_for_waits(run: Callable[[], Result]) -> tuple[Result, bool]:
    """``run()``, and whether this thread waited for a CUDA device in it.

    torch does not notice every wait: not `torch.cuda.synchronize`, for example.
    """
    if not torch.cuda.is_initialized():
        return run(), False
    thread, waits = threading.get_ident(), []
    # The mode is the whole process's. "error" would stop other threads, which may well wait.
    with _one_at_a_time, warnings.catch_warnings():
        before = torch.cuda.get_sync_debug_mode()
        show = warnings.showwarning

        def note(message: Warning | str, *rest: Any, **named: Any) -> None:
            if WAIT not in str(message):
                show(message, *rest, **named)
            elif threading.get_ident() == thread:
                waits.append(message)

        warnings.filterwarnings("always", message=WAIT)
        warnings.filterwarnings("ignore", message=PROTOTYPE)
        warnings.showwarning = note
        torch.cuda.set_sync_debug_mode("warn")
        try:
            result = run()
        finally:
            torch.cuda.set_sync_debug_mode(before)
    return result, bool(waits)


@contextlib.contextmanager
def capture(graph: torch.cuda.CUDAGraph) -> Iterator[None]:
    """Record into ``graph`` what runs inside on the current stream, which is not the default one.

    Nothing of it is computed. Other threads may use the device meanwhile.

    Raises:
        RuntimeError: something cannot be recorded. `can_capture` is False from then on.
    """
    stream, pool = torch.cuda.current_stream(), torch.cuda.graph_pool_handle()
    with _one_at_a_time:
        try:
            with torch.cuda.graph(graph, pool, stream, capture_error_mode="thread_local"):
                yield
        except BaseException:
            _failed.append(graph)
            # What `capture_end` left out. The first refuses where nothing was left out.
            with contextlib.suppress(RuntimeError):
                torch._C._cuda_endAllocateToPool(stream.device_index, pool)
                torch._C._cuda_releasePool(stream.device_index, pool)
            raise
