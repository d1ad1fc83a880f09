"""A long list worked through by one process or several, in parts that are kept until all are done.

The list is cut into parts of equal length, the same for any number of processes. Each part is
claimed by one process, which writes its result to a file, atomically. So a part is either done or
not: nothing is lost or doubled, whichever process ends when. The first rank joins the files in
order.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import fastad
from fastad._files import atomic_path, remove_left
from fastad.distributed.claims import claimed
from fastad.distributed.ranks import meet, this_rank

MARK = ".parts-"  # between the name of a result and the digest of what was asked for


class Parts:
    """The parts of ``count`` items, of ``size`` each but the last.

    Args:
        target: the result that is made of them. Their folder lies beside it.
        asked: a digest of all that decides the result. Parts of another request are removed.
        count: number of items.
        size: items of a part.
        ending: of the files of the parts.

    All ranks make it at the same time.
    """

    def __init__(self, target: Path, asked: str, count: int, size: int, ending: str):
        self.folder = target.resolve().parent / f".{target.name}{MARK}{asked[:16]}"
        starts = range(0, count, size)
        self._ranges = [range(start, min(start + size, count)) for start in starts]
        self._ending = ending
        if this_rank().is_first:
            self._remove_others()
        self.folder.mkdir(parents=True, exist_ok=True)
        if this_rank().count > 1:
            meet()  # nobody makes the folder again once the first rank has removed it

    def work(self, do: Callable[[range, Path], None]) -> bool:
        """Do the parts that are not done yet; the first rank waits for those of others.

        Args:
            do: is called with the indices of a part and the file to write.

        Returns:
            Whether this process is the first rank: all parts are done then.
        """
        rank = this_rank()
        first = rank.number * len(self._ranges) // rank.count  # so that few meet at one part
        left = [*range(first, len(self._ranges)), *range(first)]
        for wait in (False, True) if rank.is_first else (False,):
            for number in list(left):
                try:
                    if self._is_done(number, wait, do):
                        left.remove(number)
                except FileNotFoundError:
                    if self.folder.is_dir():
                        raise
                    return False  # the first rank has joined all parts
        return rank.is_first

    def _is_done(self, number: int, wait: bool, do: Callable[[range, Path], None]) -> bool:
        """Whether a part is done, by this process where nobody else has it."""
        path = self._path(number)
        if path.exists():
            return True
        with claimed(path.with_suffix(".lock"), wait=wait) as is_ours:
            if is_ours and not path.exists():
                with atomic_path(path) as temporary:
                    do(self._ranges[number], temporary)
            return is_ours

    @property
    def done(self) -> int:
        """How many items are in parts that are done."""
        return sum(len(r) for r, path in zip(self._ranges, self, strict=True) if path.exists())

    def __iter__(self) -> Iterator[Path]:
        """The files of the parts, in order."""
        return (self._path(number) for number in range(len(self._ranges)))

    def remove(self, results: Iterable[Path]) -> None:
        """Remove the files, once the results are written, and what killed processes left."""
        remove_left(results)
        _remove(self.folder)

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:08d}{self._ending}"

    def _remove_others(self) -> None:
        """Remove parts that an earlier request for the same result left."""
        name = self.folder.name
        begin = name[: name.rindex(MARK) + len(MARK)]
        for folder in self.folder.parent.glob(f"{_literal(begin)}*"):
            if folder != self.folder:
                _remove(folder)


def request(
    options: Mapping[str, Any], contents: Iterable[str | Path], files: Iterable[Path]
) -> str:
    """A digest of a request: two requests that may differ in their results have two.

    Args:
        options: of the command, as JSON.
        contents: files that count by their content.
        files: many, that count by name, size and time of change.
    """
    digest = hashlib.sha256(json.dumps([fastad.__version__, options], sort_keys=True).encode())
    for path in contents:
        digest.update(Path(path).read_bytes())
    for path in files:
        digest.update(os.fsencode(path) + b"\0")
        with suppress(OSError):  # whoever reads it says what is wrong
            facts = path.stat()
            digest.update(f"{facts.st_size} {facts.st_mtime_ns}\0".encode())
    return digest.hexdigest()


def _remove(folder: Path) -> None:
    """Remove a folder: it is gone at once for whoever still works in it, and writes no more."""
    hidden = folder.with_name(f"{folder.name}-removed")
    with suppress(OSError):
        os.replace(folder, hidden)
    shutil.rmtree(hidden, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)  # where it could not be renamed


def _literal(name: str) -> str:
    """A name in which a pattern's letters stand for themselves."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)
