"""A sign of life in a log: a line wherever nothing else was written for a while."""

import threading
import time
from collections.abc import Callable

SILENCE = 30.0  # seconds


class Heartbeat:
    """Calls ``say`` from a thread of its own whenever `SILENCE` seconds went by without a `beat`.

    Args:
        say: is given the seconds since the last `beat` that came from outside.
    """

    def __init__(self, say: Callable[[float], None]):
        self._say = say
        self._outside = self._last = time.monotonic()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def beat(self) -> None:
        """Something was written."""
        self._outside = self._last = time.monotonic()

    def stop(self) -> None:
        """Nothing is said any more."""
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(min(1.0, SILENCE / 4)):
            now = time.monotonic()
            if now - self._last >= SILENCE:
                self._last = now
                self._say(now - self._outside)
