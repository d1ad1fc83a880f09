"""Memory of the process while a CPU trains."""

import contextlib
import ctypes
import sys
import threading
from collections.abc import Iterator

import torch

# Parameters of glibc's mallopt (malloc.h).
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_NEVER = -1
# What glibc's own thresholds grow to in a process with large blocks; once set they stay.
_USUAL = {_TRIM_THRESHOLD: 64 * 2**20, _MMAP_THRESHOLD: 32 * 2**20, _MMAP_MAX: 65536}

_lock = threading.Lock()
_users = 0


@contextlib.contextmanager
def freed_memory_kept(device: torch.device) -> Iterator[None]:
    """Within, glibc keeps what is freed for the next step instead of returning it to the system.

    A step frees and allocates gigabytes in blocks of tens of MB. By default each of them is a new
    mapping, whose pages the kernel fills with zeros one fault at a time: half of a step's time on
    two fast cores. Afterwards the memory is returned. Nothing happens on a CUDA device or without
    glibc.
    """
    global _users
    libc = _glibc() if device.type == "cpu" else None
    if libc is None:
        yield
        return
    with _lock:
        _users += 1
        libc.mallopt(_MMAP_MAX, 0)
        libc.mallopt(_TRIM_THRESHOLD, _NEVER)
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if _users == 0:  # of several trainings at once the last
                for parameter, value in _USUAL.items():
                    libc.mallopt(parameter, value)
                libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None
