"""Results for receivers over a network: one at a time, in order, again until they are taken."""

import logging
import threading
import time
from typing import Protocol

from fastad.watch.journal import Journal, Pending

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0  # seconds after a failure; each is twice the one before

log = logging.getLogger("fastad")


class RefusedError(Exception):
    """A receiver will never take this result, so nothing is tried again."""


class Receiver(Protocol):
    """Where results are sent."""

    @property
    def name(self) -> str: ...

    def send(self, pending: Pending) -> None:
        """Returns when the receiver has taken the result. Raises RefusedError or any other."""

    def close(self) -> None: ...


class Delivery(threading.Thread):
    """Sends the results of one place, in a thread of its own.

    A receiver may get a result twice, where the process ends between the answer and the note of it.
    The result's number tells.

    Args:
        place: the name of the place in the journal.
        give_up_after: seconds. A result that is older and fails once more counts as undelivered.
    """

    def __init__(
        self,
        place: str,
        receiver: Receiver,
        journal: Journal,
        give_up_after: float,
        first_pause: float = FIRST_PAUSE,
    ) -> None:
        super().__init__(name=f"fastad {place}", daemon=True)
        self.place, self._receiver, self._journal = place, receiver, journal
        self._give_up_after, self._first_pause = give_up_after, first_pause
        self._news, self._ends = threading.Event(), threading.Event()
        self._failures = 0

    def run(self) -> None:
        while not self._ends.is_set():
            try:
                pause = self._deliver()
            except Exception as error:  # as of a full disk under the journal
                log.warning(f"{self._receiver.name}: {error}")
                pause = LONGEST_PAUSE
            if pause is None:
                self._news.wait()
                self._news.clear()
            else:
                self._ends.wait(pause)
        self._receiver.close()

    def notify(self) -> None:
        """There may be new results."""
        self._news.set()

    def stop(self, wait: float) -> None:
        """Finish what is being sent, for at most so many seconds."""
        self._ends.set()
        self._news.set()
        self.join(wait)

    def _deliver(self) -> float | None:
        """Send what is pending. Gives the seconds to pause, None until there is news."""
        while pending := self._journal.pending(self.place, most=50):
            for one in pending:
                if self._ends.is_set():
                    return 0.0
                try:
                    self._receiver.send(one)
                except RefusedError as error:
                    self._bury(one, str(error))
                except Exception as error:
                    if time.time() - one.time > self._give_up_after:
                        self._bury(one, str(error))
                        continue
                    if not self._failures:
                        log.warning(f"{self._receiver.name}: {error}; it is tried again")
                    self._failures += 1
                    pause = self._first_pause * 2 ** min(self._failures - 1, 16)
                    return min(pause, LONGEST_PAUSE)
                else:
                    self._journal.done([one.id])
                    if self._failures:
                        log.info(f"{self._receiver.name}: answers again")
                    self._failures = 0
        return None

    def _bury(self, pending: Pending, error: str) -> None:
        self._journal.bury(pending, f"{self.place}: {error}")
        log.warning(f"{self._receiver.name}: result {pending.number} is given up: {error}")
