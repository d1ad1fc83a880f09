"""Numbers in the order in which they came, in memory that does not grow without end."""

import numpy as np

MOST = 16_384


class History:
    """Keeps every number, and from `MOST` on every second, then every fourth, and so on.

    Attributes:
        count: how many came.
        step: every so many of them one is kept, the first among them.
    """

    def __init__(self) -> None:
        self.count, self.step = 0, 1
        self._kept = np.empty(64)
        self._length = 0

    def add(self, value: float) -> None:
        """Take in the next number."""
        if self.count % self.step == 0:
            if self._length == MOST:
                self._kept[: MOST // 2] = self._kept[:MOST:2].copy()
                self._length, self.step = MOST // 2, self.step * 2
            if self._length == len(self._kept):
                self._kept = np.concatenate([self._kept, np.empty(self._length)])
            self._kept[self._length] = value
            self._length += 1
        self.count += 1

    def values(self) -> np.ndarray:
        """A copy of what is kept, (n,): the numbers 0, `step`, 2 * `step` and so on."""
        return self._kept[: self._length].copy()
