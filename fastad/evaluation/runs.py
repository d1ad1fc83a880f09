"""Sorted pixels in memory, and beyond a limit in a temporary file; read from the highest on.

The file has no name where the system allows that (POSIX). So nothing of it is left, whatever ends
the process.
"""

import bisect
import errno
import functools
import os
import tempfile
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np


class Kept(NamedTuple):
    """Where an array (N,) lies in a store."""

    at: int
    size: int
    dtype: np.dtype


class Store:
    """Keeps arrays in memory as long as they fit, then all of them in one temporary file.

    Args:
        memory_bytes: what all arrays may take in memory.
    """

    def __init__(self, memory_bytes: int) -> None:
        self._limit = memory_bytes
        self._starts: list[int] = []  # of the arrays in memory
        self._arrays: list[np.ndarray] = []  # as bytes
        self._file: Any = None
        self.nbytes = 0

    @property
    def on_disk(self) -> bool:
        """Whether the arrays are in a temporary file."""
        return self._file is not None

    def put(self, array: np.ndarray) -> Kept:
        """Add an array (N,), which must not change. Raises OSError where the disk is full."""
        at, data = self.nbytes, array.view(np.uint8)
        if not self.on_disk and at + data.nbytes > self._limit:
            self._file = tempfile.TemporaryFile(prefix="fastad-", buffering=0)  # noqa: SIM115
            while self._arrays:
                self._write(self._arrays.pop(0).data)
        if self.on_disk:
            self._write(data.data)
        else:
            self._starts.append(at)
            self._arrays.append(data)
        self.nbytes += data.nbytes
        return Kept(at, len(array), array.dtype)

    def get(self, kept: Kept) -> np.ndarray:
        """What lies there, or a part of it. Raises OSError where it cannot be read."""
        count = kept.size * kept.dtype.itemsize
        if not self.on_disk:
            i = bisect.bisect_right(self._starts, kept.at) - 1
            first = kept.at - self._starts[i]
            return self._arrays[i][first : first + count].view(kept.dtype)
        found = np.empty(count, np.uint8)
        rest = found.data
        self._file.seek(kept.at)
        while rest.nbytes:
            done = self._file.readinto(rest)
            if not done:
                raise OSError(errno.EIO, "the temporary file of sorted pixels is cut off")
            rest = rest[done:]
        return found.view(kept.dtype)

    def _write(self, rest: memoryview) -> None:
        self._file.seek(0, os.SEEK_END)
        try:
            while rest.nbytes:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            reached = self._file.tell() / 2**20
            self._file.close()  # which frees the disk, and what is half written is never read
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            raise OSError(
                error.errno,
                f"{error.strerror}: sorted pixels take 4 bytes a pixel of float32 maps here, and "
                f"there is no room beyond {reached:.0f} MiB. Name another folder by TMPDIR in the "
                "environment",
                tempfile.gettempdir(),
            ) from None


class Descending:
    """An array of a store in ascending order, read block by block from its end.

    Args:
        store: what holds it.
        kept: where. Its type is a number, or has a field "value".
        block: items in memory.
    """

    def __init__(self, store: Store, kept: Kept, block: int) -> None:
        self._store, self._kept, self._block = store, kept, block
        self._left = kept.size  # items that were not read
        self._held = np.empty(0, kept.dtype)

    def lowest(self) -> float | None:
        """The lowest value in memory, where half a block at least then is; None at the end."""
        if len(self._held) < (self._block + 1) // 2:
            self._read()
        return float(self._values()[0]) if len(self._held) else None

    @property
    def is_read(self) -> bool:
        """Whether there is nothing but what is in memory."""
        return self._left == 0

    def take(self, down_to: float) -> Iterator[np.ndarray]:
        """The items at or above a value, in blocks, which are ascending in themselves."""
        limit = _at_least(down_to, self._values().dtype)
        while True:
            first = int(self._values().searchsorted(limit))
            taken, self._held = self._held[first:], self._held[:first]
            if len(taken):
                yield taken
            if len(self._held) or self.is_read:
                return
            self._read()

    def _values(self) -> np.ndarray:
        return self._held if self._kept.dtype.names is None else self._held["value"]

    def _read(self) -> None:
        """Fill up the block from below."""
        count = min(self._block - len(self._held), self._left)
        self._left -= count
        at = self._kept.at + self._left * self._kept.dtype.itemsize
        read = self._store.get(Kept(at, count, self._kept.dtype))
        self._held = np.concatenate([read, self._held])


@functools.lru_cache
def _at_least(value: float, dtype: np.dtype) -> np.floating:
    """The lowest value of a type that is no lower; a search for another type copies the array."""
    with np.errstate(over="ignore"):
        found = dtype.type(value)
    return np.nextafter(found, dtype.type(np.inf)) if float(found) < value else found
