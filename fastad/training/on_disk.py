"""Tensors on disk, for what memory has no room for."""

import math
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

MOUNTS = "/proc/mounts"


class DiskError(OSError):
    """There is no such room on disk; the message says why."""


def disk_tensor(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """An uninitialised tensor in a file of the folder for temporary files, mapped into memory.

    The space is reserved at once; it is free again when the tensor goes, also after a crash: the
    file has no name any more.

    Raises:
        DiskError: there is no such space, the folder lies in memory itself, or this system cannot
            do it.
    """
    with disk_file(size_of(shape, dtype)) as name:
        try:
            return mapped(name, shape, dtype)
        except OSError as error:
            raise _no_room(error) from error


@contextmanager
def disk_file(size: int) -> Iterator[str]:
    """Give the name of a file of so many bytes in the folder for temporary files.

    It loses its name at the end. Who has mapped it by then keeps it. Errors as `disk_tensor`.
    """
    folder = tempfile.gettempdir()
    if not hasattr(os, "posix_fallocate"):
        raise DiskError("this system cannot reserve space in a file")
    if _in_memory(Path(folder).resolve()):
        raise DiskError(f"{folder} lies in memory (set TMPDIR to a folder on a disk)")
    try:
        file, name = tempfile.mkstemp(prefix="fastad-features-", dir=folder)
    except OSError as error:
        raise _no_room(error) from error
    opened = f"/proc/{os.getpid()}/fd/{file}"
    has_two_names = os.path.exists(opened)
    try:
        if has_two_names:  # so that nothing is left however the process ends
            os.unlink(name)
        try:
            # Without it a full disk would end the process at the first write to the mapping.
            os.posix_fallocate(file, 0, size)
        except OSError as error:
            raise _no_room(error) from error
        yield opened if has_two_names else name
    finally:
        os.close(file)
        if not has_two_names:
            os.unlink(name)


@contextmanager
def memory_file(size: int) -> Iterator[str]:
    """Give a name by which other processes of the user can map so many bytes of memory.

    It has the name until the end. It needs no file system, and no limit of /dev/shm holds for it.

    Raises:
        DiskError: there is no such memory, or this system cannot do it.
    """
    if not hasattr(os, "memfd_create"):
        raise DiskError("this system cannot share memory by name")
    file = os.memfd_create("fastad-features")
    try:
        try:
            os.posix_fallocate(file, 0, size)
        except OSError as error:
            raise DiskError(f"no memory for them: {error.strerror}") from error
        yield f"/proc/{os.getpid()}/fd/{file}"
    finally:
        os.close(file)


def mapped(name: str, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """The tensor in a file. Several processes that map it see each other's writes."""
    size = math.prod(shape)
    return torch.from_file(name, shared=True, size=size, dtype=dtype).view(tuple(shape))


def size_of(shape: Sequence[int], dtype: torch.dtype) -> int:
    """Bytes of a tensor, at least one."""
    return max(1, math.prod(shape) * dtype.itemsize)


def _no_room(error: OSError) -> DiskError:
    return DiskError(f"no room for them in {tempfile.gettempdir()}: {error.strerror}")


def _in_memory(folder: Path) -> bool:
    try:
        lines = Path(MOUNTS).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # only Linux has it
        return False
    kinds = {Path(place): kind for _, place, kind, *_ in map(str.split, lines)}
    return next((kinds[at] for at in (folder, *folder.parents) if at in kinds), "") in (
        "tmpfs",
        "ramfs",
    )
