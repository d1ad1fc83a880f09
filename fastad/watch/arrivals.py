"""Which images of a folder are new, and complete."""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fastad.data.finding import ENDINGS, find_images, holds_images, natural_key, output_above
from fastad.watch.journal import Stamp


@dataclass
class _Waiting:
    """A file that is not known: its stamp, since when it has it, and when it was first seen."""

    stamp: Stamp
    since: float
    seen: float
    not_before: float = 0.0


class Arrivals:
    """Files that were seen, until they are complete.

    A file is complete when its size and its time of modification stay as they are for ``settle``
    seconds. A file that is renamed to its name is complete at once, but nothing tells it from one
    whose writer pauses. So it waits, too.

    Args:
        folder: the folder. Images in it, at any depth, count as `find_images` finds them.
        knows: whether an image (its path relative to the folder) is known by its stamp.
        settle: seconds.
        without: folders below it that do not count.
    """

    def __init__(
        self,
        folder: Path,
        knows: Callable[[Path, Stamp], bool],
        settle: float,
        without: Sequence[Path] = (),
    ) -> None:
        self.folder, self.settle = folder, settle
        self._knows = knows
        self._without = [os.path.realpath(path) for path in without]
        self._waiting: dict[Path, _Waiting] = {}

    def all_files(self) -> list[tuple[Path, Stamp]]:
        """Every image in the folder now, relative to it, with its stamp."""
        found = ((self._inside(path), stamp_of(path)) for path in find_images(self.folder))
        return [(path, stamp) for path, stamp in found if stamp and self._counts(path)]

    def look(self, now: float) -> None:
        """Look through the whole folder."""
        for path, stamp in self.all_files():
            self._note(path, stamp, now)

    def changed(self, paths: Iterable[str | Path], now: float) -> None:
        """Something happened to these files and folders."""
        for path in map(Path, paths):
            if path.is_dir():
                if all(map(holds_images, self._folders(path))) and not self._is_output(path):
                    for file in find_images(path):
                        self._note_file(file, now)
            elif path.name.lower().endswith(ENDINGS) and not path.name.startswith("."):
                folder = path.parent
                if all(map(holds_images, self._folders(folder))) and not self._is_output(folder):
                    self._note_file(path, now)

    def ready(self, now: float) -> list[tuple[Path, Stamp]]:
        """The files that are complete, in the order of their modification, then by name."""
        found = []
        for path, waiting in list(self._waiting.items()):
            stamp = stamp_of(self.folder / path)
            if stamp is None or self._knows(path, stamp):  # it is gone, or was taken back
                del self._waiting[path]
            elif stamp != waiting.stamp:
                waiting.stamp, waiting.since, waiting.not_before = stamp, now, 0.0
            elif now >= max(waiting.since + self.settle, waiting.not_before):
                found.append((path, stamp))
        found.sort(key=lambda one: (one[1].modified, natural_key(one[0].as_posix())))
        return found

    def age(self, path: Path, now: float) -> float:
        """Seconds since a file has been as it is."""
        waiting = self._waiting.get(path)
        return 0.0 if waiting is None else now - waiting.since

    def postpone(self, path: Path, until: float) -> None:
        """A file is not to be ready before a time, unless it changes."""
        if path in self._waiting:
            self._waiting[path].not_before = until

    def taken(self, path: Path) -> None:
        """A file was inspected."""
        self._waiting.pop(path, None)

    def _note_file(self, path: Path, now: float) -> None:
        stamp = stamp_of(path)
        if stamp is not None and self._counts(inside := self._inside(path)):
            self._note(inside, stamp, now)

    def _note(self, path: Path, stamp: Stamp, now: float) -> None:
        if path not in self._waiting and not self._knows(path, stamp):
            self._waiting[path] = _Waiting(stamp, now, now)

    def _inside(self, path: Path) -> Path:
        return path.relative_to(self.folder)

    def _folders(self, folder: Path) -> list[Path]:
        """A folder and those above it, below the one that is watched."""
        return [f for f in (folder, *folder.parents) if self.folder in f.parents]

    def _is_output(self, folder: Path) -> bool:
        return output_above(folder, self.folder) is not None

    def _counts(self, path: Path) -> bool:
        if not self._without:
            return True
        real = os.path.realpath((self.folder / path).parent)
        return not any(real == other or real.startswith(other + os.sep) for other in self._without)


def stamp_of(path: Path) -> Stamp | None:
    """How a file looks now; None where there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return Stamp(found.st_size, found.st_mtime_ns)
