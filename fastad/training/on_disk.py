"""Tensors on disk, for what memory has no room for."""

import math
import os
import tempfile
from pathlib import Path

import torch
from torch import Tensor

MOUNTS = "/proc/mounts"


class DiskError(OSError):
    """There is no such room on disk; the message says why."""


def disk_tensor(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """An uninitialised tensor in a file of the folder for temporary files, mapped into memory.

    The space is reserved at once; it is free again when the tensor goes, also after a crash: the
    file has no name any more.

    Raises:
        DiskError: there is no such space, the folder lies in memory itself, or this system cannot
            do it.
    """
    folder = tempfile.gettempdir()
    if not hasattr(os, "posix_fallocate"):
        raise DiskError("this system cannot reserve space in a file")
    if _in_memory(Path(folder).resolve()):
        raise DiskError(f"{folder} lies in memory (set TMPDIR to a folder on a disk)")
    elements = math.prod(shape)
    try:
        with tempfile.NamedTemporaryFile(prefix="fastad-features-", dir=folder) as file:
            # Without it a full disk would end the process at the first write to the mapping.
            os.posix_fallocate(file.fileno(), 0, max(1, elements * dtype.itemsize))
            flat = torch.from_file(file.name, shared=True, size=elements, dtype=dtype)
    except OSError as error:
        raise DiskError(f"no room for them in {folder}: {error.strerror}") from error
    return flat.view(shape)


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
