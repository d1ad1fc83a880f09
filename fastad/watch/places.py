"""All the places that results go to, and what happens where one of them fails."""

import logging
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Protocol

from fastad.watch.delivery import Delivery
from fastad.watch.journal import UNDELIVERED, Journal, Stamp
from fastad.watch.moves import Moves

PAUSE = 5.0  # seconds until what failed is tried again

log = logging.getLogger("fastad")


class Place(Protocol):
    """Somewhere on a disk that results go to."""

    def write(self) -> None:
        """Write what is pending in the journal. OSError where that fails for now."""


class Places:
    """Keeps results in the journal, then brings them to every place.

    A full disk loses nothing. Results that the journal cannot keep are not recorded, and their
    images are inspected again. Results that a place cannot take stay in the journal.

    Args:
        on_disk: the places to write to, by name. The last one may be `UNDELIVERED`.
        deliveries: those over a network. They are started here.
        moves: of images, by their verdicts; a place by its own name, too. None for none.
    """

    def __init__(
        self,
        journal: Journal,
        on_disk: Mapping[str, Place],
        deliveries: Sequence[Delivery] = (),
        moves: Moves | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._journal, self._on_disk, self._deliveries = journal, on_disk, deliveries
        self._moves, self._clock = moves, clock
        self._not_before: dict[str, float] = {}
        dropped = journal.serve(
            [*(name for name in on_disk if name != UNDELIVERED), *(d.place for d in deliveries)]
        )
        if dropped:
            log.warning(f"{dropped} results are dropped that were left for what is no longer named")
        for delivery in deliveries:
            delivery.start()

    def dated(self, path: Path, row: dict[str, Any]) -> tuple[float, dict[str, Any]]:
        """A row with its "time" and "moved_to", and the time in seconds."""
        now = time.time()
        text = datetime.fromtimestamp(now, timezone.utc).isoformat(timespec="milliseconds")
        moves = self._moves
        moved_to = None if moves is None else moves.promise(path, row["is_anomalous"])
        return now, {"time": text} | row | {"moved_to": moved_to}

    def record(
        self,
        results: Sequence[tuple[Path, Stamp, float, Mapping[str, Any]]],
        known: Sequence[tuple[Path, Stamp]] | None = None,
    ) -> bool:
        """Keep results as `Journal.record`. False where that failed: they must be made again."""
        if not results:
            return True
        try:
            self._journal.record(results, known)
        except sqlite3.OperationalError as error:
            for *_, row in results:
                if self._moves is not None:
                    self._moves.take_back(row["moved_to"])
            self._failed("", f"{self._journal.path}: {error}; nothing is recorded until it can be")
            return False
        self._worked("")
        return True

    @property
    def can_record(self) -> bool:
        """Whether it is worth while to make results: not for a while after `record` failed."""
        return self._clock() >= self._not_before.get("", 0.0)

    def write(self) -> None:
        """Bring what is pending to every place."""
        for name, place in self._on_disk.items():
            if self._clock() < self._not_before.get(name, 0.0):
                continue
            try:
                place.write()
            except (OSError, sqlite3.OperationalError) as error:
                self._failed(name, f"{name}: {error}; it is tried again")
            else:
                self._worked(name)
        for delivery in self._deliveries:
            delivery.notify()

    def close(self, wait: float = 10.0) -> None:
        """End the deliveries, after what is being sent, for at most so many seconds each."""
        for delivery in self._deliveries:
            delivery.stop(wait)

    def _failed(self, name: str, text: str) -> None:
        if name not in self._not_before:
            log.warning(text)
        self._not_before[name] = self._clock() + PAUSE

    def _worked(self, name: str) -> None:
        if self._not_before.pop(name, None) is not None:
            log.info(f"{name or self._journal.path}: works again")
