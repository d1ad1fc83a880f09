"""One bounded queue in front of the detectors, and the store behind them.

A thread takes what waits and predicts it together, in the order in which it came. A second thread
writes the results of a batch while the next one is predicted. Requests are answered after that.
"""

import logging
import math
import queue
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fastad.evaluation.regions import Region
from fastad.inference.result import PredictionResult
from fastad.serve.adding import Entry
from fastad.serve.clock import Clock
from fastad.serve.detectors import Detectors, Live
from fastad.serve.metrics import Metrics
from fastad.serve.pictures import packed_map, packed_mask
from fastad.serve.store import Store
from fastad.serve.tables import Result

RETAIN_SECONDS = 60.0

log = logging.getLogger("fastad")

Answer = Result | Exception  # of an image: an error where it cannot be read


class Busy(Exception):  # noqa: N818  the name of a state
    """The queue is full. ``seconds`` until it is worth another try."""

    def __init__(self, seconds: int) -> None:
        super().__init__(f"the queue is full: try again in {seconds} s")
        self.seconds = seconds


class Taken(Exception):  # noqa: N818  the name of a state
    """The key of a request came with other images before."""


@dataclass(frozen=True)
class Given:
    """An image of a request: its bytes, format, name at the sender and key."""

    content: bytes
    kind: str
    name: str = ""
    key: str | None = None


@dataclass
class Job:
    """A request: its images, which are answered together.

    ``has_one_key``: the keys of its images are parts of one. They are known together or not at all.
    """

    detector: str
    camera: str
    images: Sequence[Given]
    has_one_key: bool = False
    answer: "Future[list[Answer]]" = field(default_factory=Future)

    def __post_init__(self) -> None:
        # It counts as running: a client that goes away cannot cancel it.
        self.answer.set_running_or_notify_cancel()


class Inspection:
    """Predicts, stores and answers. `start` and `stop` it.

    Args:
        detectors, store, metrics: what it works with.
        batch_size: images that are predicted together.
        waiting: requests that may wait at most.
    """

    def __init__(
        self,
        detectors: Detectors,
        store: Store,
        metrics: Metrics,
        *,
        batch_size: int = 32,
        waiting: int = 64,
    ) -> None:
        self._detectors, self._store, self._metrics = detectors, store, metrics
        self._batch_size = batch_size
        self._queue: queue.Queue[Job | None] = queue.Queue(waiting)
        self._seconds = 0.1  # of a batch, as the last ones took
        self._predicting = threading.Thread(target=self._run, name="fastad-predict", daemon=True)
        self._writing = ThreadPoolExecutor(1, thread_name_prefix="fastad-store")
        self._written: Future[None] | None = None
        self._retained, self._clock = time.monotonic(), Clock()
        self._is_open = False
        metrics.waiting.set_function(self._queue.qsize)

    def start(self) -> None:
        """Begin to take requests."""
        self._is_open = True
        self._predicting.start()

    def stop(self) -> None:
        """Answer what waits, then end."""
        self._is_open = False
        self._queue.put(None)
        self._predicting.join()
        self._writing.shutdown()

    @property
    def is_running(self) -> bool:
        """Whether requests are answered."""
        return self._is_open and self._predicting.is_alive()

    def submit(self, job: Job) -> "Future[list[Answer]]":
        """Put a request at the end of the queue. Busy where that is full."""
        if not self.is_running:
            raise Busy(5)
        try:
            self._queue.put_nowait(job)
        except queue.Full:
            self._metrics.refused.inc()
            raise Busy(max(1, math.ceil(self._queue.qsize() * self._seconds))) from None
        return job.answer

    def _run(self) -> None:
        while True:
            jobs, is_last = self._next()
            for name in dict.fromkeys(job.detector for job in jobs):
                self._inspect(name, [job for job in jobs if job.detector == name])
            if is_last:
                return

    def _next(self) -> tuple[list[Job], bool]:
        """The requests that wait, up to a batch, and whether there will be no more."""
        first = self._queue.get()
        if first is None:
            return [], True
        jobs, count = [first], len(first.images)
        while count < self._batch_size:
            try:
                job = self._queue.get_nowait()
            except queue.Empty:
                break
            if job is None:
                return jobs, True
            jobs.append(job)
            count += len(job.images)
        return jobs, False

    def _inspect(self, name: str, jobs: list[Job]) -> None:
        try:
            jobs = self._new(jobs)
        except Exception as error:
            self._refuse(jobs, error)
            return
        if not jobs:
            return
        begin = time.perf_counter()
        try:
            live = self._detectors.get(name)
            failed, result = _predict(live, [g.content for job in jobs for g in job.images])
        except Exception as error:
            log.exception("a prediction failed")
            _fail(jobs, error)
            return
        self._seconds += 0.2 * (time.perf_counter() - begin - self._seconds)
        self._metrics.seconds.observe(time.perf_counter() - begin)
        if self._written is not None:
            self._written.result()  # one batch ahead of the store, and no more
        self._written = self._writing.submit(self._write, live, jobs, failed, result)

    def _new(self, jobs: list[Job]) -> list[Job]:
        """The requests that did not come before. The others are answered from the store."""
        keys = [one.key for job in jobs for one in job.images if one.key is not None]
        if not keys:
            return jobs
        known = self._store.with_keys(keys)
        new = []
        for job in jobs:
            found = [known[one.key] for one in job.images if one.key in known]
            if len(found) == len(job.images):
                job.answer.set_result(list(found))
            elif found and job.has_one_key:
                error = Taken("this Idempotency-Key came with other images before")
                job.answer.set_exception(error)
            else:
                new.append(job)
        return new

    def _refuse(self, jobs: list[Job], error: Exception) -> None:
        log.error(f"results cannot be stored: {getattr(error, 'orig', error)}")
        self._metrics.unstored.inc(len(jobs))
        _fail(jobs, StoreError("the result cannot be stored"))

    def _write(
        self,
        live: Live,
        jobs: list[Job],
        failed: dict[int, Exception],
        result: PredictionResult | None,
    ) -> None:
        try:
            given = [(job, one) for job in jobs for one in job.images]
            read = [i for i in range(len(given)) if i not in failed]
            entries = []
            for row, i in enumerate(read):
                assert result is not None  # an image was read
                entries.append(_entry(live, *given[i], result, row))
            added = iter(self._store.add(entries) if entries else ())
            answers: list[Answer] = [
                failed[i] if i in failed else next(added) for i in range(len(given))
            ]
        except Exception as error:
            self._refuse(jobs, error)
            return
        position = 0
        for job in jobs:
            own = answers[position : position + len(job.images)]
            position += len(own)
            job.answer.set_result(own)
        self._after(live, answers, result)

    def _after(self, live: Live, answers: list[Answer], result: PredictionResult | None) -> None:
        """What nobody waits for."""
        try:
            for one in answers:
                self._metrics.count(live.name, one if isinstance(one, Result) else None)
            if result is not None:
                live.watch(result)
            if time.monotonic() - self._retained > RETAIN_SECONDS:
                self._retained = time.monotonic()
                if not self._clock.is_steady():
                    return  # by a wrong clock everything may be old
                if gone := self._store.retain():
                    log.info(f"{gone} old results were deleted")
        except Exception:
            log.exception("after a batch")


class StoreError(RuntimeError):
    """A result was found, and cannot be kept: it is not given out."""


def _predict(
    live: Live, contents: list[bytes]
) -> tuple[dict[int, Exception], PredictionResult | None]:
    failed: dict[int, Exception] = {}

    def skip(position: Any, error: Exception) -> None:
        failed[int(position)] = error

    try:
        return failed, live.detector.predict(contents, skip=skip)
    except ValueError:
        if len(failed) == len(contents):  # there was nothing to predict
            return failed, None
        raise


def _entry(live: Live, job: Job, given: Given, results: PredictionResult, row: int) -> Entry:
    one = results[row]
    regions = [] if one.mask is None else [_region(region) for region in one.regions()]
    assert results.appearance is not None  # a predictor measures it
    height, width = one.size or one.anomaly_map.shape
    peak = float(one.anomaly_map.max())
    scale = live.scale if live.detector.pixel_threshold_ else max(peak, 1e-12)
    values = {
        "time": time.time(),
        "detector": live.name,
        "version": live.version.id,
        "camera": job.camera,
        "name": given.name,
        "key": given.key,
        "score": one.score,
        "p_value": one.p_value,
        "is_anomalous": one.is_anomalous,
        "threshold": live.detector.threshold_,
        "input": one.input or "unknown",
        "height": int(height),
        "width": int(width),
        "regions": regions,
        "appearance": np.asarray(results.appearance[row], np.float64).tolist(),
    }
    mask = None if one.mask is None else packed_mask(one.mask)
    return Entry(given.content, given.kind, values, packed_map(one.anomaly_map, scale), mask)


def _region(region: Region) -> dict[str, Any]:
    numbers = ("area", "share", "peak", "mean", "length", "width", "angle")
    found: dict[str, Any] = {name: float(getattr(region, name)) for name in numbers}
    return {
        "box": list(map(float, region.box)),
        "centroid": list(map(float, region.centroid)),
    } | found


def _fail(jobs: list[Job], error: Exception) -> None:
    for job in jobs:
        job.answer.set_exception(error)
