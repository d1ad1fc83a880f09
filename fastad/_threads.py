"""Whose threads compute: torch's, or this package's own (csrc/parallel.h)."""

import contextlib
from collections.abc import Iterator

from fastad._extension import _C


@contextlib.contextmanager
def own_threads(wanted: bool = True) -> Iterator[None]:
    """Within it this thread's ops of ``torch.ops.fastad`` run on own threads, as many as torch has.

    All else of torch takes one thread. So it is for networks that consist of such ops, and for work
    so small that torch's threads would only wait for each other.
    """
    entered = wanted and _C.enter_own_threads()
    try:
        yield
    finally:
        if entered:
            _C.leave_own_threads()


def thread_count() -> int:
    """How many threads compute, own ones or torch's."""
    return _C.thread_count()
