"""Whether the clock of the machine can be trusted to say how old something is."""

import time
from time import monotonic

STEADY_SECONDS = 3600.0
JUMP_SECONDS = 60.0


class Clock:
    """Compares the clock with one that never jumps."""

    def __init__(self) -> None:
        self._since, self._ahead = monotonic(), time.time() - monotonic()
        self._has_jumped = False

    def is_steady(self) -> bool:
        """False for an hour after the clock was seen to jump by a minute or more."""
        now = monotonic()
        ahead = time.time() - now
        if abs(ahead - self._ahead) > JUMP_SECONDS:
            self._since, self._ahead, self._has_jumped = now, ahead, True
        return not self._has_jumped or now - self._since >= STEADY_SECONDS
