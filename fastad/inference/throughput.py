"""How fast many images went, and what took the time."""

import time


class Throughput:
    """What takes the time of many images: seconds of each activity since the one before it."""

    def __init__(self) -> None:
        self.images = 0
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def record(self, activity: str, images: int = 0) -> None:
        """Everything since the last call was this."""
        now = time.perf_counter()
        self.seconds[activity] = self.seconds.get(activity, 0.0) + now - self._last
        self.images, self._last = self.images + images, now

    def __str__(self) -> str:
        total = sum(self.seconds.values())
        slowest = max(self.seconds, key=lambda activity: self.seconds[activity])
        return (
            f"{self.images} images at {self.images / total:.1f} a second; the slowest was {slowest}"
            f" ({self.seconds[slowest] / total:.0%} of the time)"
        )
