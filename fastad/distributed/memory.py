"""The most memory that this process had, over a piece of its work."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_OWN = Path("/proc/self")


@contextmanager
def peak_memory() -> Iterator[Callable[[], float | None]]:
    """Give a function that says the most memory since the block began, in MiB.

    It counts what is resident: torch and the networks, too. None where the system does not tell,
    which Linux alone does.
    """
    try:
        (_OWN / "clear_refs").write_text("5")  # forgets the peak so far
        knows = True
    except OSError:
        knows = False
    yield lambda: _peak() if knows else None


def _peak() -> float | None:
    for line in (_OWN / "status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return None
