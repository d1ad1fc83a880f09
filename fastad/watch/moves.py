"""Inspected images go to a folder of good ones or of bad ones, and replace nothing there."""

import errno
import logging
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from fastad.watch.arrivals import stamp_of
from fastad.watch.journal import Journal, Pending

PLACE = "move"

log = logging.getLogger("fastad")


class Moves:
    """Moves images by their verdicts.

    Args:
        folder: where they lie.
        good, bad: where they go, in subfolders as they are. An image that could not be read stays.
    """

    def __init__(self, folder: Path, good: Path, bad: Path, journal: Journal) -> None:
        self._folder, self._good, self._bad, self._journal = folder, good, bad, journal
        good.mkdir(parents=True, exist_ok=True)
        bad.mkdir(parents=True, exist_ok=True)
        waiting = journal.pending(PLACE, most=-1)
        self._promised: set[str | None] = {one.row["moved_to"] for one in waiting}

    def promise(self, path: Path, is_anomalous: bool | None) -> str | None:
        """Where an image will go; None where it stays. A name that is taken gets a number."""
        if is_anomalous is None:
            return None
        wanted = (self._bad if is_anomalous else self._good) / path
        free, number = wanted, 1
        while str(free) in self._promised or os.path.lexists(free):
            number += 1
            free = wanted.with_name(f"{wanted.stem}-{number}{wanted.suffix}")
        self._promised.add(str(free))
        return str(free)

    def take_back(self, target: str | None) -> None:
        """Nothing will be moved there after all."""
        self._promised.discard(target)

    def write(self) -> None:
        """Move what is pending. OSError where that fails; a later call goes on."""
        while pending := self._journal.pending(PLACE):
            for one in pending:
                moved = one.row["moved_to"] is not None and self._move(one)
                self._journal.done([one.id], forget=one.path if moved else None)
                self.take_back(one.row["moved_to"])

    def _move(self, pending: Pending) -> bool:
        source, target = self._folder / pending.path, Path(pending.row["moved_to"])
        if stamp_of(source) != pending.stamp:  # moved before a crash, or replaced or removed since
            return not source.exists()
        target.parent.mkdir(parents=True, exist_ok=True)
        if not os.path.lexists(target):
            _rename(source, target)
        elif target.stat().st_size == pending.stamp.size:  # copied before a crash
            source.unlink()
        else:
            log.warning(f"{source} stays: another file came to {target} meanwhile")
            return False
        return True


def _rename(source: Path, target: Path) -> None:
    try:
        os.rename(source, target)
        return
    except OSError as error:
        if error.errno != errno.EXDEV:  # on another disk
            raise
    handle, name = tempfile.mkstemp(prefix=".", suffix=".part", dir=target.parent)
    os.close(handle)
    try:
        shutil.copy2(source, name)
        with open(name, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(name, target)
    except BaseException:
        with suppress(OSError):
            os.unlink(name)
        raise
    source.unlink()
