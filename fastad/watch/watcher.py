"""A folder under watch: each new image is inspected once, and its result goes to every place."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

from fastad.evaluation.score_table import unreadable_row
from fastad.watch.arrivals import Arrivals, stamp_of
from fastad.watch.journal import Stamp

TICK = 0.1  # seconds between two looks at what is not complete yet
AGAIN = 1.0  # seconds until an unreadable file is tried again
SHARE = 0.05  # of the time may go into looks through the whole folder
LOOK = 15.0  # seconds between two such looks, at least

log = logging.getLogger("fastad")


class FileJudge(Protocol):
    """What judges images, such as a `Judge`."""

    def files(self, paths: list[Path]) -> dict[Path, dict[str, Any] | Exception]: ...


class Record(Protocol):
    """Where results go, such as `Places`."""

    @property
    def can_record(self) -> bool: ...
    def dated(self, path: Path, row: dict[str, Any]) -> tuple[float, dict[str, Any]]: ...
    def record(self, results: list[Any]) -> bool: ...
    def write(self) -> None: ...


class Watcher:
    """Inspects what comes to a folder.

    Args:
        folder: as the rows are to name it.
        arrivals: of that folder.
        patience: seconds for which a file that cannot be read is tried again.
        poll: seconds between two looks through the whole folder, where the system tells nothing of
            changes, as of a network folder. None to be told.
        batch_size: images that are inspected and recorded at once.
        ends: makes `run` return when it is set.
    """

    def __init__(
        self,
        folder: Path,
        arrivals: Arrivals,
        judge: FileJudge,
        places: Record,
        *,
        patience: float = 30.0,
        poll: float | None = None,
        batch_size: int = 32,
        clock: Callable[[], float] = time.monotonic,
        ends: threading.Event | None = None,
    ) -> None:
        self._folder, self._arrivals, self._judge = folder, arrivals, judge
        self._ends = ends or threading.Event()
        self._places = places
        self._patience, self._poll, self._batch_size = patience, poll, batch_size
        self._clock = clock
        self.inspected = self.anomalous = self.unreadable = 0

    def run(self) -> None:
        """Watch until ``ends`` is set.

        Raises RuntimeError where the folder is taken away.
        """
        began = _identity(self._arrivals.folder)
        next_look = self._clock()
        for paths in self._changes():  # the first comes when the system watches already
            now = self._clock()
            self._arrivals.changed(paths, now)
            if now >= next_look:
                if _identity(self._arrivals.folder) != began:
                    raise RuntimeError(f"{self._folder} was removed, or is another folder now")
                self._arrivals.look(now)
                took = self._clock() - now
                next_look = now + (self._poll or max(LOOK, took / SHARE))
            self.step()

    def step(self) -> None:
        """Inspect what is complete now."""
        now = self._clock()
        ready = self._arrivals.ready(now) if self._places.can_record else []
        for start in range(0, len(ready), self._batch_size):
            self._inspect(ready[start : start + self._batch_size], now)
        self._places.write()

    def _inspect(self, files: list[tuple[Path, Stamp]], now: float) -> None:
        folder = self._arrivals.folder
        found = self._judge.files([folder / path for path, _ in files])
        results: list[tuple[Path, Stamp, float, dict[str, Any]]] = []
        for path, stamp in files:
            # What was written to while it was read is looked at again.
            if stamp_of(folder / path) != stamp:
                continue
            row = found[folder / path]
            if isinstance(row, Exception):
                if self._arrivals.age(path, now) < self._patience:
                    self._arrivals.postpone(path, now + AGAIN)
                    continue
                said = " ".join(str(row).split())
                row = unreadable_row(path, said) | {"threshold": None, "regions": None}
            row["path"] = str(self._folder / path)
            results.append((path, stamp, *self._places.dated(path, row)))
        if not self._places.record(results):
            return  # they are inspected again
        for path, _, _, row in results:
            self._arrivals.taken(path)
            self._count(row)

    def _count(self, row: dict[str, Any]) -> None:
        self.inspected += 1
        self.anomalous += row["is_anomalous"] is True
        if row["status"] != "ok":
            self.unreadable += 1
            log.warning(f"not inspected: {row['error']}")

    def _changes(self) -> Iterator[list[str]]:
        """Files and folders that changed, and an empty list now and then."""
        if self._poll is not None:
            while not self._ends.wait(TICK):
                yield []
            return
        from watchfiles import Change, watch

        options: dict[str, Any] = {"watch_filter": None, "yield_on_timeout": True}
        options |= {"debounce": 50, "step": 10, "rust_timeout": round(TICK * 1000)}
        options["stop_event"] = self._ends
        for changes in watch(self._arrivals.folder, **options):
            yield [
                path
                for change, path in changes
                if change is Change.added or (change is Change.modified and not Path(path).is_dir())
            ]


def _identity(folder: Path) -> tuple[int, int] | None:
    try:
        found = folder.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
