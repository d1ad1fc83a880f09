"""Where frames come from: a video file, a network stream, a camera, or a class of the user's."""

import importlib
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol, runtime_checkable
from urllib.parse import urlsplit

import numpy as np

STREAMS = ("rtsp", "rtsps", "rtmp", "http", "https", "udp", "tcp")
TIMEOUT = 10.0  # seconds without a frame of a stream
LONGEST_PAUSE = 30.0  # seconds until a camera that failed is opened again

log = logging.getLogger("fastad")


@runtime_checkable
class Source(Protocol):
    """What gives frames. A camera of any maker is a class with these four.

    Attributes:
        name: of the source, as rows have it.
        is_live: whether frames come by themselves, as of a camera. Of those that come while one is
            inspected, the newest is inspected next and the others are dropped. Of a source that is
            not live every frame is inspected, and a restart goes on behind the last one.
    """

    name: str
    is_live: bool

    def __iter__(self) -> Iterator[np.ndarray]:
        """Frames (H, W, 3) uint8, RGB, or grey (H, W). Each is an array of its own."""

    def close(self) -> None:
        """Let the camera go. It is called once."""


class Video:
    """Frames of a video file, a stream or a camera, decoded by PyAV.

    Args:
        source: the path of a file, an address such as ``rtsp://host/stream``, or the number of a
            camera, 0 for the first.
        every: seconds of the source between two frames. 0 gives all.

    Raises:
        ImportError: PyAV is not installed.
        FileNotFoundError: there is no such file.
    """

    def __init__(self, source: str, every: float = 0.0) -> None:
        try:
            import av
        except ImportError as error:
            raise ImportError(
                'a video or camera needs PyAV: pip install "fastad[camera]"'
            ) from error
        self._av, self._every, self._ends = av, every, threading.Event()
        parts = urlsplit(source)
        self.is_live = source.isdecimal() or parts.scheme in STREAMS
        self._file = source
        self._options: dict[str, Any] = {}
        self.name = source
        if source.isdecimal():
            self._file, self._options = _device(int(source))
            self.name = f"camera {source}"
        elif self.is_live:
            port = f":{parts.port}" if parts.port else ""  # a password is not for the rows
            self.name = f"{parts.scheme}://{parts.hostname or ''}{port}{parts.path}"
            if parts.scheme.startswith("rtsp"):
                self._options = {"options": {"rtsp_transport": "tcp"}}
        elif not Path(source).is_file():
            raise FileNotFoundError(f"there is no video {source}")

    def __iter__(self) -> Iterator[np.ndarray]:
        if not self.is_live:
            yield from self._frames()
            return
        pause = 1.0
        while not self._ends.is_set():
            try:
                for frame in self._frames():
                    pause = 1.0
                    yield frame
                said = "it ended"
            except self._av.FFmpegError as error:
                said = error.strerror or str(error)
            if not self._ends.is_set():
                log.warning(f"{self.name}: {said}; it is opened again in {pause:.0f} s")
                self._ends.wait(pause)
                pause = min(2 * pause, LONGEST_PAUSE)

    def _frames(self) -> Iterator[np.ndarray]:
        timeout = TIMEOUT if self.is_live else None
        with self._av.open(self._file, timeout=timeout, **self._options) as container:
            if not container.streams.video:
                raise ValueError(f"{self.name} holds no video")
            container.streams.video[0].thread_type = "AUTO"
            due = -float("inf")
            for frame in container.decode(video=0):
                if self._ends.is_set():
                    return
                now = time.monotonic() if self.is_live or frame.time is None else frame.time
                if now >= due - 1e-6:  # times of frames are rounded
                    # After a pause of the source frames do not come closer than otherwise.
                    due = due + self._every if due + self._every > now else now + self._every
                    yield frame.to_ndarray(format="rgb24")

    def close(self) -> None:
        self._ends.set()


class Newest:
    """The newest frame of a live source, read in a thread, so that none waits in a queue."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._news = threading.Condition()
        self._frame: np.ndarray | None = None
        self._error: BaseException | None = None
        self._has_ended = False
        threading.Thread(target=self._read, name="fastad camera", daemon=True).start()

    def __iter__(self) -> Iterator[np.ndarray]:
        while True:
            with self._news:
                while self._frame is None and not self._has_ended:
                    self._news.wait(0.2)  # in pieces, so that a signal is answered
                frame, self._frame = self._frame, None
            if frame is None:
                if self._error is not None:
                    raise self._error
                return
            yield frame

    def _read(self) -> None:
        try:
            for frame in self._source:
                with self._news:
                    self._frame = frame
                    self._news.notify()
        except BaseException as error:
            self._error = error
        with self._news:
            self._has_ended = True
            self._news.notify()


def opened(source: str, every: float) -> Source:
    """A source as it stands on the command line: `Video`'s forms, or ``MODULE:CLASS``.

    Raises:
        ImportError, AttributeError: there is no such module, or no such class in it.
        TypeError: the class makes no `Source`.
    """
    module, colon, name = source.partition(":")
    if not (colon and name.isidentifier() and module.replace(".", "").isidentifier()):
        return Video(source, every)
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # as for a script
    made: Any = getattr(importlib.import_module(module), name)()
    if not isinstance(made, Source):
        raise TypeError(f"--source {source} needs name, is_live, __iter__ and close")
    return made


def _device(number: int) -> tuple[str, dict[str, Any]]:
    if sys.platform == "darwin":
        return str(number), {"format": "avfoundation"}
    if sys.platform == "win32":
        raise ValueError("--source with a number is for Linux and macOS: write a Source instead")
    return f"/dev/video{number}", {"format": "v4l2"}
