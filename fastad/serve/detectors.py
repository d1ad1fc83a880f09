"""The detectors of a server: the file in use of each, new ones by calibration, and the way back."""

import hashlib
import logging
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fastad.detector import Detector, load
from fastad.inference.drift import DriftMonitor, DriftReport
from fastad.inference.heatmaps import colour_scale
from fastad.inference.result import PredictionResult
from fastad.inference.threshold import scores_digest
from fastad.serve.pictures import SUFFIXES
from fastad.serve.store import Store
from fastad.serve.tables import Result, Version

REMEMBERED = 2000  # results that drift is watched on after a restart

log = logging.getLogger("fastad")


@dataclass
class Live:
    """A detector in use.

    Attributes:
        name: of its file, without the ending.
        version: which file.
        detector: what it holds.
        monitor: of drift since the version is in use. None without calibration scores.
    """

    name: str
    version: Version
    detector: Detector
    monitor: DriftMonitor | None
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def scale(self) -> float:
        """Map value of the brightest colour."""
        return colour_scale(self.detector.pixel_threshold_ or 0.0)

    def watch(self, result: PredictionResult) -> None:
        """Take results into the watch over drift, in order."""
        if self.monitor is not None:
            with self.lock:
                self.monitor.add(result)

    def drift(self) -> DriftReport | None:
        """Whether the images have drifted. None without images or calibration scores."""
        if self.monitor is None:
            return None
        with self.lock:
            try:
                return self.monitor.report()
            except ValueError:  # there was no image yet
                return None


class Detectors:
    """All detectors of a server, by name.

    Args:
        files: path of the file given for each name.
        store: remembers which file is in use.
        options: device, precision and batch_size, as of `fastad.load`.
    """

    def __init__(self, files: Mapping[str, str], store: Store, **options: Any) -> None:
        self._store, self._options = store, options
        self._changing = threading.Lock()
        self._lives = {name: self._first(name, Path(path)) for name, path in files.items()}

    def __iter__(self) -> Any:
        return iter(self._lives.values())

    def __len__(self) -> int:
        return len(self._lives)

    def get(self, name: str | None) -> Live:
        """The detector of a name. None stands for the only one. LookupError otherwise."""
        if name is None and len(self._lives) == 1:
            return next(iter(self._lives.values()))
        if name not in self._lives:
            asked = "detector: name one" if name is None else f"there is no detector {name[:80]!r}"
            raise LookupError(f"{asked}: there are {', '.join(self._lives)}")
        return self._lives[name]

    def calibrate(self, name: str, rate: float | None = None) -> str:
        """Take thresholds from the images labelled good. Returns what became of the old promise.

        A new file beside the one in use holds them. Raises ValueError where that cannot be.
        """
        with self._changing:
            live = self.get(name)
            digests = self._store.good_images(name)
            if not digests:
                raise ValueError("no image is labelled good")
            detector = load(live.version.path, **self._options)
            with tempfile.TemporaryDirectory(prefix="fastad-calibrate-") as folder:
                paths = []
                for digest in digests:
                    content, kind = self._store.content(digest)
                    path = Path(folder) / f"{digest}{SUFFIXES.get(kind, '.img')}"
                    path.write_bytes(content)
                    paths.append(path)
                try:
                    found = detector.calibrate(paths, false_positive_rate=rate)
                except ValueError as error:
                    raise ValueError(str(error).replace(f"{folder}/", "")) from None
            note = f"calibrated on {len(digests)} images labelled good"
            self._keep(live, detector, note, is_new_scale=found.images_for_means > 0)
            return found.summary

    def set_threshold(self, name: str, value: float) -> None:
        """Judge images by another threshold from now on, in a new file."""
        with self._changing:
            live = self.get(name)
            detector = load(live.version.path, **self._options)
            detector.set_threshold(value=value)
            self._keep(live, detector, f"threshold set to {value:.6g}", is_new_scale=False)

    def use(self, name: str, number: int) -> None:
        """Go back to a file that was in use before. LookupError where there is none."""
        with self._changing:
            self.get(name)
            found = next((v for v in self._store.versions(name) if v.id == number), None)
            if found is None:
                raise LookupError(f"{name} has no version {number}")
            if not _is_as_kept(found):
                raise ValueError(f"the file of version {number} is not there any more, or changed")
            detector = load(found.path, **self._options)
            self._store.activate(found)
            self._lives[name] = self._live(name, found, detector)

    def _keep(self, live: Live, detector: Detector, note: str, *, is_new_scale: bool) -> None:
        path = _new_path(Path(live.version.path))
        detector.save(path)
        scale = live.version.scale
        if is_new_scale:
            scale = 1 + max(v.scale for v in self._store.versions(live.name))
        version = self._store.add_version(
            detector=live.name,
            path=str(path),
            digest=_digest(path),
            note=note,
            scale=scale,
            parent=live.version.id,
        )
        self._lives[live.name] = self._live(live.name, version, detector)

    def _first(self, name: str, path: Path) -> Live:
        path = path.resolve()
        digest, known = _digest(path), self._store.versions(name)
        active = next((v for v in known if v.is_active), None)
        root = next((v for v in known if v.digest == digest and v.path == str(path)), None)
        if active is not None and root is not None and _is_as_kept(active):
            if active.id != root.id:
                log.info(f"{name}: {active.path} is in use, {active.note}")
            return self._live(name, active, load(active.path, **self._options))
        scale = 1 + max((v.scale for v in known), default=0)
        detector = load(path, **self._options)
        version = self._store.add_version(
            detector=name, path=str(path), digest=digest, note="given", scale=scale, parent=None
        )
        return self._live(name, version, detector)

    def _live(self, name: str, version: Version, detector: Detector) -> Live:
        scores = detector.calibration_scores_
        live = Live(name, version, detector, detector.watch() if len(scores) else None)
        if recent := self._store.recent(version.id, REMEMBERED):
            live.watch(_as_prediction(recent, scores_digest(scores)))
        return live


def _as_prediction(results: list[Result], calibration: str | None) -> PredictionResult:
    """What a monitor needs to know of results that were stored."""
    return PredictionResult(
        np.array([one.score for one in results], np.float32),
        np.empty((len(results), 0, 0), np.float32),
        appearance=np.array([one.appearance for one in results], np.float32),
        calibration=calibration,
    )


def _new_path(path: Path) -> Path:
    """A name beside a detector's file that is not taken: part-20261130-071500.fastad."""
    stem = path.stem
    if len(stem) > 16 and stem[-16] == "-" and stem[-15:].replace("-", "").isdigit():
        stem = stem[:-16]
    seconds = time.time()
    while True:
        stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime(seconds))
        found = path.with_name(f"{stem}-{stamp}.fastad")
        if not found.exists():
            return found
        seconds += 1


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _is_as_kept(version: Version) -> bool:
    path = Path(version.path)
    return path.is_file() and _digest(path) == version.digest
