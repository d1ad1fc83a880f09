"""Atomic file writes: a reader sees the old file or the whole new one, never a part of one."""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Give a temporary path beside ``path``; on success it is flushed to disk and renamed to it.

    The temporary file exists, is empty, and ends like ``path`` (some writers choose the format by
    the suffix). On any exception inside the block it is removed and ``path`` stays as it was.

    Raises:
        FileNotFoundError: the folder of ``path`` does not exist.
        IsADirectoryError: ``path`` is a folder.
        OSError: ``path`` is a device or a pipe, which a rename would replace.
        PermissionError: the folder cannot be written to.
    """
    # Through a link the file that it points to is replaced, not the link.
    path = Path(path).resolve()
    if path.is_dir():
        raise IsADirectoryError(f"cannot write the file {path}: it is a folder")
    if path.exists() and not path.is_file():
        raise OSError(f"cannot write {path}: it is no regular file")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"cannot write {path}: there is no folder {path.parent}")
    try:
        handle, name = tempfile.mkstemp(
            prefix=f".{path.stem[:100]}.", suffix=path.suffix, dir=path.parent
        )
    except OSError as error:
        raise type(error)(
            error.errno, f"cannot write {path}: {error.strerror or error}", str(path.parent)
        ) from None
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp makes the file private; keep the mode of the file replaced, else the usual one.
        os.chmod(temporary, path.stat().st_mode & 0o777 if path.exists() else 0o666 & ~_umask())
        # Opened for writing, because Windows refuses to flush a file opened for reading.
        with open(temporary, "r+b") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(FileNotFoundError):
            temporary.unlink()
        raise
    _sync_folder(path.parent)


def write_atomically(path: str | os.PathLike, writer: Callable[[Path], object]) -> None:
    """Call ``writer(temporary_path)`` and move what it wrote to ``path``; see `atomic_path`."""
    with atomic_path(path) as temporary:
        writer(temporary)


def _umask() -> int:
    # The only portable way to read it is to set it.
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    # The rename itself is on disk only once the folder is; not every system can open a folder.
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
