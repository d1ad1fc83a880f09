"""A watcher with a detector that costs nothing, to be killed. Run as a script it kills itself:

crashing.py FOLDER STATE KILLS IMAGES: writes IMAGES images to FOLDER while a watcher is started and
killed at KILLS random moments, then lets one finish. CSV, JSON lines and moves go beside STATE.
"""

import os
import random
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
from PIL import Image

from fastad.data import read_image
from fastad.inference import PredictionResult
from fastad.watch.arrivals import Arrivals
from fastad.watch.journal import Journal
from fastad.watch.judge import Judge
from fastad.watch.moves import PLACE, Moves
from fastad.watch.places import Places
from fastad.watch.result_files import CsvLines, JsonLines, ResultFile
from fastad.watch.watcher import Watcher


class MeanDetector:
    """The score is the mean grey level, 0 to 1. Above a half an image is anomalous."""

    threshold_ = 0.5

    def stream(self, images, skip=None, strict=False):
        kept, scores = [], []
        for item in images:
            try:
                image = read_image(item) if isinstance(item, Path) else np.asarray(item)
                scores.append(float(np.asarray(image, np.float64).mean() / 255))
                kept.append(item)
            except (ValueError, OSError) as error:
                skip(item, error)
        if not kept:
            raise ValueError("images: none can be read")
        score = np.array(scores, np.float32)
        maps = np.zeros((len(kept), 4, 4), np.float32)
        are_paths = isinstance(kept[0], Path)
        yield PredictionResult(score, maps, score > 0.5, paths=kept if are_paths else None)


def watcher(folder, state, settle=0.05, moves=True, on_disk=None, **options):
    """A watcher of a folder with its journal, and what it writes beside the state."""
    folder, state = Path(folder), Path(state)
    good, bad = state.parent / "good", state.parent / "bad"
    journal = Journal(state, str(folder))
    arrivals = Arrivals(folder, journal.knows, settle, [good, bad])
    if journal.is_new:
        journal.begin(str(folder), arrivals.all_files())
    places = {
        "csv": ResultFile(str(state.parent / "out.csv"), "csv", CsvLines(), journal),
        "json": ResultFile(str(state.parent / "out.jsonl"), "json", JsonLines(), journal),
    }
    mover = Moves(folder, good, bad, journal) if moves else None
    places |= {PLACE: mover} if moves else {}
    kept = Places(journal, places | (on_disk or {}), options.pop("deliveries", ()), mover)
    return Watcher(folder, arrivals, Judge(MeanDetector()), kept, **options)


def write_image(folder, number, size=8):
    """An atomic writer: image number N has the grey level N modulo 256."""
    hidden = folder / f".{number}.png"
    Image.fromarray(np.full((size, size, 3), number % 256, np.uint8)).save(hidden)
    os.replace(hidden, folder / f"{number}.png")


def main():
    folder, state, kills, images = Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:])
    rng = random.Random(0)

    def child():
        number = os.fork()
        if number == 0:
            try:
                watcher(folder, state).run()
            finally:
                os._exit(1)
        return number

    started = child()  # the first start takes what is there for old
    time.sleep(0.5)

    def camera():
        for number in range(1, images + 1):
            write_image(folder, number)
            time.sleep(0.01)

    thread = threading.Thread(target=camera)
    thread.start()
    for _ in range(kills):
        time.sleep(rng.uniform(0.02, 0.3))
        os.kill(started, signal.SIGKILL)
        os.waitpid(started, 0)
        started = child()
    thread.join()
    end = time.monotonic() + 15
    while any(folder.glob("*.png")) and time.monotonic() < end:
        time.sleep(0.1)
    time.sleep(0.3)
    os.kill(started, signal.SIGKILL)
    os.waitpid(started, 0)


if __name__ == "__main__":
    main()
