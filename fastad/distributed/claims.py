"""Claims of pieces of work, so that of several processes one alone does each.

A claim is a lock on a file. The system frees it when its process ends, however it ends, also by
SIGKILL. So nothing is left behind, and no process must watch the others. Processes on several
machines share the files on a network file system that has locks, as NFS from version 3 on.
"""

import logging
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, TypeVar

from fastad.distributed.ranks import this_rank

try:
    import fcntl
except ImportError:  # Windows: one process does all
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger("fastad")
Item = TypeVar("Item")

SAID_AFTER = 30.0  # seconds of waiting for another process, until its name is said
_PAUSES = 0.01, 0.5  # seconds between two tries: the first, and the most


@contextmanager
def claimed(path: Path, *, wait: bool = False) -> Iterator[bool]:
    """Claim the file ``path`` for as long as the block runs.

    Args:
        path: of the lock. The file stays, and names who had it last.
        wait: until whoever has it gives it back or ends. A warning names who that is.

    Returns:
        Whether the claim is ours: with ``wait`` it always is.

    Raises:
        OSError: the file cannot be made, or its file system has no locks.
    """
    with open(path, "ab+") as file:
        is_ours = _take(file)
        if wait and not is_ours:
            _wait(file, path)
            is_ours = True
        if is_ours:
            with suppress(OSError):  # a full disk: the claim counts, not the name
                os.ftruncate(file.fileno(), 0)
                os.write(file.fileno(), _own_name().encode())
        yield is_ours


def claim_each(
    items: Sequence[Item], lock: Callable[[Item], Path], work: Callable[[Item], None]
) -> None:
    """Do a piece of work for every item, each claimed by one process at a time.

    First come the items that nobody has, then those that another process had: each of them is
    waited for and claimed, too. So ``work`` is called once for every item, by each process, and
    finds out whether another one has done it.

    Args:
        items: the same for all processes. They begin at places apart.
        lock: the file of an item's claim.
        work: what to do with an item. What it raises ends the work on all.
    """
    rank, left = this_rank(), list(items)
    first = rank.number * len(left) // rank.count  # so that few meet at one item
    left = [*left[first:], *left[:first]]
    for wait in (False, True):
        for item in list(left):
            with claimed(lock(item), wait=wait) as is_ours:
                if is_ours:
                    work(item)
                    left.remove(item)


def _take(file: BinaryIO) -> bool:
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _wait(file: BinaryIO, path: Path) -> None:
    """Try again and again, rather than in the system, to say what it waits for."""
    begin, is_said, pause = time.monotonic(), False, _PAUSES[0]
    while not _take(file):
        if not is_said and time.monotonic() - begin > SAID_AFTER:
            is_said = True
            file.seek(0)
            name = file.read().decode(errors="replace") or "another process"
            log.warning(f"waiting for {name}, which has {path}")
        time.sleep(pause)
        pause = min(2 * pause, _PAUSES[1])


def _own_name() -> str:
    return f"rank {this_rank().number}, process {os.getpid()} on {socket.gethostname()}"
