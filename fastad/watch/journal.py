"""What a watcher remembers over restarts: one SQLite file.

An image is inspected when its result stands here, in one transaction with a note for each place
that still has to get it. A process may end at any moment: the next one goes on with the notes.
"""

import json
import os
import sqlite3
import threading
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

FORMAT = 1
UNDELIVERED = "undelivered"  # the place of what a receiver did not take

_TABLES = """
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS known (
    path BLOB PRIMARY KEY, size INTEGER, modified INTEGER
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS results (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    path BLOB, size INTEGER, modified INTEGER, time REAL, row TEXT
);
CREATE TABLE IF NOT EXISTS pending (
    id INTEGER PRIMARY KEY AUTOINCREMENT, place TEXT, number INTEGER, error TEXT
);
CREATE INDEX IF NOT EXISTS pending_by_place ON pending (place, id);
CREATE INDEX IF NOT EXISTS pending_by_number ON pending (number);
"""


class Stamp(NamedTuple):
    """How a file looked: its size in bytes, and when it was modified, in nanoseconds."""

    size: int
    modified: int


@dataclass(frozen=True)
class Pending:
    """A result that one place has not got yet.

    Attributes:
        id: of the note, in the order in which notes were made.
        number: of the result, 1 for the first.
        key: a name of the result that no other journal gives.
        path: of the image, relative to the folder.
        stamp: of the image.
        time: when it was inspected, in seconds of the Unix clock.
        row: the result by name of the column.
        error: why its receiver did not take it. None but for `UNDELIVERED`.
    """

    id: int
    number: int
    key: str
    path: Path
    stamp: Stamp
    time: float
    row: dict[str, Any]
    error: str | None


class Journal:
    """The state of one watcher. Several threads may share it; a second process may not open it.

    Args:
        path: of the SQLite file. It is made where there is none.
        subject: what is watched. A file made for another subject is refused.

    Attributes:
        is_new: whether nothing was remembered yet.

    Raises:
        RuntimeError: another process has the file open.
        ValueError: the file is another subject's, of a later version, or no journal.
        OSError: it cannot be opened.
    """

    def __init__(self, path: str | os.PathLike[str], subject: str) -> None:
        self.path = Path(path)
        self._lock = threading.RLock()
        try:
            self._base = sqlite3.connect(self.path, check_same_thread=False, timeout=0.5)
        except sqlite3.OperationalError as error:
            raise OSError(f"cannot open the state {self.path}: {error}") from error
        try:
            # Alone with the file, SQLite needs no shared memory: network folders have none.
            self._base.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._base.execute("PRAGMA journal_mode = WAL")
            self._base.execute("PRAGMA synchronous = FULL")
            self._base.executescript(_TABLES)
            self.is_new = self._fact("subject") is None
            self._check(subject)
            self._name = self._fact("name") or uuid.uuid4().hex
        except sqlite3.OperationalError as error:
            self._base.close()
            if "locked" in str(error):
                raise RuntimeError(f"another process uses the state {self.path}") from error
            raise OSError(f"cannot write the state {self.path}: {error}") from error
        except sqlite3.DatabaseError as error:
            self._base.close()
            raise ValueError(f"{self.path} is no state of `fastad watch`: {error}") from error

    def _check(self, subject: str) -> None:
        if self.is_new:
            return
        if self._fact("format") != str(FORMAT):
            raise ValueError(f"the state {self.path} is of another version of fastad")
        if (of := self._fact("subject")) != subject:
            raise ValueError(f"the state {self.path} is of {of}, not of {subject}")

    def begin(self, subject: str, old: Iterable[tuple[Path, Stamp]]) -> None:
        """Begin a new journal. The ``old`` images are known: they are never inspected."""
        with self._lock, self._base:
            facts = {"format": str(FORMAT), "subject": subject, "name": self._name}
            self._base.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?)", facts.items())
            rows = ((os.fsencode(path), *stamp) for path, stamp in old)
            self._base.executemany("INSERT OR REPLACE INTO known VALUES (?, ?, ?)", rows)
        self.is_new = False

    def serve(self, places: Sequence[str]) -> int:
        """Name the places that get results from now on.

        Returns how many notes of other places were dropped.
        """
        self._places = tuple(places)
        marks = ", ".join("?" * (len(places) + 1))
        with self._lock, self._base:
            dropped = self._base.execute(
                f"DELETE FROM pending WHERE place NOT IN ({marks})", (*places, UNDELIVERED)
            ).rowcount
            self._base.execute(
                "DELETE FROM results WHERE number NOT IN (SELECT number FROM pending)"
            )
        return dropped

    def knows(self, path: Path, stamp: Stamp) -> bool:
        """Whether an image was inspected, or was old, in just this state."""
        return self.stamp_of(path) == stamp

    def stamp_of(self, path: Path) -> Stamp | None:
        """The stamp with which a path is known."""
        with self._lock:
            found = self._base.execute(
                "SELECT size, modified FROM known WHERE path = ?", (os.fsencode(path),)
            ).fetchone()
        return None if found is None else Stamp(*found)

    def record(
        self,
        results: Sequence[tuple[Path, Stamp, float, Mapping[str, Any]]],
        known: Sequence[tuple[Path, Stamp]] | None = None,
    ) -> None:
        """Keep results (path, stamp, time, row) for all places, at once or not at all.

        ``known``: what is inspected by that. None for the paths of the results.
        """
        with self._lock, self._base:
            for path, stamp, time, row in results:
                key = os.fsencode(path)
                number = self._base.execute(
                    "INSERT INTO results (path, size, modified, time, row) VALUES (?, ?, ?, ?, ?)",
                    (key, *stamp, time, json.dumps(row)),
                ).lastrowid
                self._base.executemany(
                    "INSERT INTO pending (place, number) VALUES (?, ?)",
                    [(place, number) for place in self._places],
                )
            if known is None:
                known = [(path, stamp) for path, stamp, _, _ in results]
            rows = [(os.fsencode(path), *stamp) for path, stamp in known]
            self._base.executemany("INSERT OR REPLACE INTO known VALUES (?, ?, ?)", rows)

    def pending(self, place: str, most: int = 500) -> list[Pending]:
        """The first results that a place has not got, in order."""
        with self._lock:
            found = self._base.execute(
                "SELECT id, number, path, size, modified, time, row, error FROM pending "
                "JOIN results USING (number) WHERE place = ? ORDER BY id LIMIT ?",
                (place, most),
            ).fetchall()
        return [
            Pending(
                id=id,
                number=number,
                key=f"{self._name}-{number}",
                path=Path(os.fsdecode(path)),
                stamp=Stamp(size, modified),
                time=time,
                row=json.loads(row),
                error=error,
            )
            for id, number, path, size, modified, time, row, error in found
        ]

    def count(self, place: str) -> int:
        """How many results a place has not got."""
        with self._lock:
            return self._base.execute(
                "SELECT COUNT(*) FROM pending WHERE place = ?", (place,)
            ).fetchone()[0]

    def done(
        self,
        ids: Iterable[int],
        position: tuple[str, int] | None = None,
        forget: Path | None = None,
    ) -> None:
        """A place has got the results of these notes.

        ``position``: the file that they went to, and its length in bytes now. ``forget``: an image
        that is no longer in the folder.
        """
        marks = [(id,) for id in ids]
        with self._lock, self._base:
            # AUTOINCREMENT keeps the numbers growing, whatever is deleted.
            for mark in marks:
                [(number,)] = self._base.execute(
                    "DELETE FROM pending WHERE id = ? RETURNING number", mark
                ).fetchall()
                self._base.execute(
                    "DELETE FROM results WHERE number = ? "
                    "AND NOT EXISTS (SELECT 1 FROM pending WHERE number = ?)",
                    (number, number),
                )
            if position is not None:
                name, length = position
                self._base.execute(
                    "INSERT OR REPLACE INTO facts VALUES (?, ?)", (f"length of {name}", str(length))
                )
            if forget is not None:
                self._base.execute("DELETE FROM known WHERE path = ?", (os.fsencode(forget),))

    def bury(self, pending: Pending, error: str) -> None:
        """A receiver did not take a result: it goes to `UNDELIVERED`."""
        with self._lock, self._base:
            self._base.execute("DELETE FROM pending WHERE id = ?", (pending.id,))
            self._base.execute(
                "INSERT INTO pending (place, number, error) VALUES (?, ?, ?)",
                (UNDELIVERED, pending.number, error),
            )

    def position(self, name: str) -> int | None:
        """The length in bytes of a file of results, as far as it is known to be whole."""
        value = self._fact(f"length of {name}")
        return None if value is None else int(value)

    def close(self) -> None:
        """Close the file. Nothing more can be asked."""
        with self._lock:
            self._base.close()

    def _fact(self, name: str) -> str | None:
        with self._lock:
            found = self._base.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return None if found is None else found[0]
