"""A source of frames under watch: each frame is inspected, and its result goes to every place."""

import logging
import time
from collections.abc import Iterable
from datetime import datetime, timezone
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from fastad._files import write_atomically
from fastad.watch.arrivals import stamp_of
from fastad.watch.journal import Journal, Stamp
from fastad.watch.judge import Judge
from fastad.watch.moves import PLACE
from fastad.watch.places import PAUSE, Places
from fastad.watch.sources import Newest, Source

log = logging.getLogger("fastad")


class FrameWatcher:
    """Inspects the frames of a source.

    Args:
        progress: names what was inspected of a source that is not live: its path, and how it was
            read.
        spool: the folder that frames are saved in before they are moved. None where none are.
        stamp: of a video file. Frames of one that has changed are new. None for a live source.
    """

    def __init__(
        self,
        source: Source,
        judge: Judge,
        journal: Journal,
        places: Places,
        *,
        progress: Path,
        spool: Path | None = None,
        stamp: Stamp | None = None,
    ) -> None:
        self._source, self._judge, self._journal, self._places = source, judge, journal, places
        self._progress, self._spool, self._stamp = progress, spool, stamp
        self.inspected = self.anomalous = self.unreadable = 0

    def run(self) -> None:
        """Inspect until the source ends."""
        self._clean()
        number = 0
        frames: Iterable[np.ndarray] = (
            Newest(self._source) if self._source.is_live else self._source
        )
        if self._stamp is not None:
            known = self._journal.stamp_of(self._progress)
            if known is not None and known.modified == self._stamp.modified:
                number = known.size
                log.info(f"{self._source.name}: {number} frames were inspected before")
            frames = islice(frames, number, None)
        try:
            for frame in frames:
                number += 1
                while not self._inspect(frame, number):
                    time.sleep(PAUSE)
                self._places.write()
        finally:
            self._source.close()

    def _inspect(self, frame: np.ndarray, number: int) -> bool:
        """Inspect one frame. False where its result cannot be kept for now."""
        now = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%S.%f")[:-3]
        label = now if self._stamp is None else f"{number:06d}"
        name = Path(f"{Path(self._source.name).stem or 'frame'}-{label}.png")
        row = self._judge.frame(frame) | {"path": f"{self._source.name}#{label}"}
        stamp = Stamp(0, 0)
        if self._spool is not None:
            try:
                saved = self._spool / name
                picture = Image.fromarray(frame)
                write_atomically(saved, lambda path: picture.save(path, "PNG"))
                stamp = stamp_of(saved) or stamp
            except OSError as error:
                log.warning(f"{error}; the frame is tried again")
                return False
        progress = []
        if self._stamp is not None:
            progress = [(self._progress, Stamp(number, self._stamp.modified))]
        result = (name, stamp, *self._places.dated(name, row))
        if not self._places.record([result], progress):
            return False
        self.inspected += 1
        self.anomalous += row["is_anomalous"] is True
        return True

    def _clean(self) -> None:
        """Remove frames that a crash left before their results were kept."""
        if self._spool is None:
            return
        waiting = {one.path.name for one in self._journal.pending(PLACE, most=-1)}
        for path in self._spool.iterdir():
            if path.name not in waiting:
                path.unlink()
