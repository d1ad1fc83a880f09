"""Atomic file writes: a reader sees the old file or the whole new one, never a part of one.

And folders that a command fills: it replaces what it wrote there itself, and nothing else.
"""

import json
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

_unfinished: set[Path] = set()  # temporary files that are being written
_TEMPORARY = re.compile(r"\.(.*)\.[a-z0-9_]{8}(\.[^.]*|)", re.DOTALL)  # as mkstemp names them


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
    _unfinished.add(temporary)
    try:
        yield temporary
        # mkstemp makes the file private; keep the mode of the file replaced, else the usual one.
        os.chmod(temporary, path.stat().st_mode & 0o777 if path.exists() else 0o666 & ~_umask())
        # Opened for writing, because Windows refuses to flush a file opened for reading.
        with open(temporary, "r+b") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with suppress(FileNotFoundError):
            temporary.unlink()
        if isinstance(error, OSError) and error.errno and error.filename in (None, str(temporary)):
            raise type(error)(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        _unfinished.discard(temporary)
    _sync_folder(path.parent)


def remove_unfinished() -> None:
    """Remove what `atomic_path` has given and not renamed yet, before the process ends at once."""
    for path in list(_unfinished):
        with suppress(OSError):
            path.unlink()


def remove_left(paths: Iterable[Path]) -> None:
    """Remove temporary files of `atomic_path` that killed processes left beside these files.

    Nobody else may be writing them.
    """
    written: dict[Path, set[tuple[str, str]]] = {}
    for path in (path.resolve() for path in paths):
        written.setdefault(path.parent, set()).add((path.stem[:100], path.suffix))
    for folder, names in written.items():
        for entry in os.scandir(folder):
            match = _TEMPORARY.fullmatch(entry.name)
            if match and (match[1], match[2]) in names:
                with suppress(OSError):
                    os.unlink(entry)


def write_atomically(path: str | os.PathLike, writer: Callable[[Path], object]) -> None:
    """Call ``writer(temporary_path)`` and move what it wrote to ``path``; see `atomic_path`."""
    with atomic_path(path) as temporary:
        writer(temporary)


def check_folder(
    folder: str | os.PathLike, writer: str, names: Iterable[str], own_folders: Sequence[str] = ()
) -> set[str]:
    """Refuse to write into a folder where files of others are in the way; nothing is changed.

    writer: the name in the manifest of what is about to write; names: the files that it will write,
    below the folder, the manifest first; own_folders: folders below it in which nobody else's files
    may be, hidden ones aside. Returns the files there that an earlier run of the same writer wrote.

    Raises FileExistsError that names the first file of others.
    """
    folder, names = Path(folder), list(names)
    known = _manifest(folder, names[0], writer)
    present = [name for name in names if os.path.lexists(folder / name)]
    for own in own_folders:
        files = (p for p in (folder / own).rglob("[!.]*") if not p.is_dir())
        present += [p.relative_to(folder).as_posix() for p in files]
    if foreign := [name for name in present if name not in known]:
        raise FileExistsError(
            f"{folder / foreign[0]} is not from `{writer}` and would be overwritten or mixed with "
            "its files: choose another folder"
        )
    return known


def claim_folder(
    folder: str | os.PathLike,
    writer: str,
    names: Iterable[str],
    page: str,
    own_folders: Sequence[str] = (),
) -> None:
    """Write down in the manifest which files are the writer's, before any other is written.

    Arguments and errors as `check_folder`. The folder is made. Removed are the ``page``, because it
    shows what another run found, and files of an earlier run that this one does not write.
    """
    folder, names = Path(folder), list(dict.fromkeys(names))
    known = check_folder(folder, writer, names, own_folders)
    folder.mkdir(parents=True, exist_ok=True)
    for name in known - set(names) | {page}:
        (folder / name).unlink(missing_ok=True)
    text = json.dumps({"written_by": writer, "files": names}, indent=2) + "\n"
    write_atomically(folder / names[0], lambda path: path.write_text(text, encoding="utf-8"))


def _manifest(folder: Path, name: str, writer: str) -> set[str]:
    """The files that the manifest lists; empty where there is none, or none of this writer."""
    try:
        content = json.loads((folder / name).read_text(encoding="utf-8"))
        names = content["files"] if content["written_by"] == writer else []
        root = folder.resolve()
        return {name for name in names if (root / name).resolve().is_relative_to(root)}
    except (FileNotFoundError, NotADirectoryError, ValueError, LookupError, TypeError):
        return set()


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
