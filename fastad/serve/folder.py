"""A folder whose new images go through the server's queue, as if a camera had sent them.

`fastad.watch` finds what is new and complete. Each image has a key made of its place and its stamp.
So where the process ends between the store and the watcher's journal, the image is sent again, and
the store gives the result that it has.
"""

import hashlib
import logging
import os
import sqlite3
import threading
from pathlib import Path
from typing import Any

from fastad.data.images import ImageError
from fastad.serve.inspection import Answer, Given, Inspection, Job
from fastad.serve.pictures import kind_and_shape
from fastad.serve.settings import Settings
from fastad.watch.arrivals import Arrivals, stamp_of
from fastad.watch.journal import Journal
from fastad.watch.watcher import Watcher

STATE = ".fastad-serve.db"
SETTLE = 1.0  # seconds without a change until an image is complete
AGAIN = 1.0  # seconds until what the queue or the store refused is tried again

log = logging.getLogger("fastad")


class WatchedFolder(threading.Thread):
    """Sends the new images of a folder to the queue, in order. `start` and `stop` it.

    Args:
        folder: images in it at the very first start are left.
        detector: the name of the one that judges them.

    Attributes:
        left: how many those were.

    Raises:
        NotADirectoryError: there is no such folder.
        RuntimeError: another server watches it.
        OSError: its state cannot be written there.
    """

    def __init__(
        self,
        folder: str,
        detector: str,
        inspection: Inspection,
        settings: Settings,
        settle: float = SETTLE,
    ) -> None:
        super().__init__(name=f"fastad {folder}", daemon=True)
        path = Path(os.path.abspath(Path(folder).expanduser()))
        if not path.is_dir():
            raise NotADirectoryError(f"there is no folder {folder} to watch")
        self.folder, self._detector = path, detector
        self._inspection, self._settings = inspection, settings
        self._ends = threading.Event()
        subject = f"the folder {path}"
        self._journal = Journal(path / STATE, subject)
        arrivals = Arrivals(path, self._journal.knows, settle)
        self.left = 0
        if self._journal.is_new:
            old = arrivals.all_files()
            self._journal.begin(subject, old)
            self.left = len(old)
        self._watcher = Watcher(path, arrivals, self, _Record(self._journal), ends=self._ends)

    def run(self) -> None:
        try:
            self._watcher.run()
        except _EndedError:
            pass
        except Exception as error:
            log.error(f"{self.folder} is not watched any more: {error}")
        finally:
            self._journal.close()

    def stop(self) -> None:
        """End after the images that are in the queue."""
        self._ends.set()
        if self.is_alive():
            self.join()

    def files(self, paths: list[Path]) -> dict[Path, dict[str, Any] | Exception]:
        """Judge images, which are in the store then. Of each its row, or why it is not there."""
        found: dict[Path, dict[str, Any] | Exception] = {}
        given: dict[Path, Given] = {}
        for path in paths:
            try:
                given[path] = self._read(path)
            except (ImageError, OSError) as error:
                found[path] = error
        while given:
            answers = self._answers(list(given.values()))
            if answers is None:
                continue
            for path, answer in zip(given, answers, strict=True):
                if isinstance(answer, Exception):
                    found[path] = answer
                else:
                    found[path] = {"is_anomalous": answer.is_anomalous, "status": "ok"}
            break
        return found

    def _read(self, path: Path) -> Given:
        stamp, most = stamp_of(path), self._settings
        if stamp is not None and stamp.size > most.max_bytes:
            raise ImageError(f"{path}: {stamp.size} bytes are more than {most.max_bytes}")
        content = path.read_bytes()
        if stamp is None or stamp_of(path) != stamp:
            raise ImageError(f"{path}: it changed while it was read")
        kind, height, width = kind_and_shape(content)
        if height * width > most.max_pixels:
            raise ImageError(f"{path}: {height}x{width} is more than {most.max_pixels} pixels")
        text = f"{path}\0{stamp.size}\0{stamp.modified}"
        digest = hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
        name = "".join(c for c in path.name if c.isprintable())[:120]
        return Given(content, kind, name, f"watch/{digest}")

    def _answers(self, images: list[Given]) -> list[Answer] | None:
        """What became of images. None where they have to be sent again."""
        if self._ends.is_set():
            raise _EndedError
        try:
            camera = self.folder.name[:200]
            return self._inspection.submit(Job(self._detector, camera, images)).result()
        except Exception as error:  # the queue is full, or the results cannot be stored
            log.debug(f"{self.folder}: {error}")
            self._ends.wait(AGAIN)
            return None


class _EndedError(Exception):
    """The server ends."""


class _Record:
    """Where a watcher's results go: they are in the store already, and the journal notes that."""

    can_record = True

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def dated(self, _: Path, row: dict[str, Any]) -> tuple[float, dict[str, Any]]:
        return 0.0, row

    def record(self, results: list[Any]) -> bool:
        try:
            self._journal.record([], [(path, stamp) for path, stamp, *_ in results])
        except sqlite3.OperationalError as error:
            log.warning(f"{self._journal.path}: {error}; its images are sent again")
            return False
        return True

    def write(self) -> None:
        """There is nothing else to write."""
