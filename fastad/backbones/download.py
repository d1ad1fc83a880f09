"""The download of pretrained weights: within a time limit, checked, and tried once a process."""

import hashlib
import queue
import sys
import threading
import time
import urllib.request
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlsplit

from fastad._files import atomic_path

# torchvision's ImageNet weights ("V1"); a name ends in the first 8 digits of the file's SHA-256.
URLS = {
    "resnet18": "https://download.pytorch.org/models/resnet18-f37072fd.pth",
    "resnet34": "https://download.pytorch.org/models/resnet34-b627a593.pth",
    "resnet50": "https://download.pytorch.org/models/resnet50-0676ba61.pth",
    "wide_resnet50_2": "https://download.pytorch.org/models/wide_resnet50_2-95faca4d.pth",
}
TIMEOUT = 10.0  # seconds without an answer after which a download is given up

# Why a download failed, by its URL; by the host where that would fail for its other files as well.
_failed: dict[str, str] = {}


class DownloadError(OSError):
    """A file could not be downloaded; the message says why."""


def fetch(url: str, target: Path) -> None:
    """Download ``url`` to ``target``, unless that failed before in this process.

    Without a connection every attempt may wait for the time limit: one of them is enough.

    Raises:
        DownloadError: it failed, now or before.
    """
    if reason := failure(url):
        raise DownloadError(reason)
    try:
        _download(url, target)
    except (OSError, HTTPException, ValueError) as error:
        reason = str(error).strip("<>") or type(error).__name__
        of_this_file = isinstance(error, (HTTPError, ValueError))
        _failed[url if of_this_file else urlsplit(url).netloc] = reason
        raise DownloadError(reason) from error


def failure(url: str) -> str | None:
    """Why the download of ``url`` failed in this process, or would; None for all that is known."""
    return _failed.get(url) or _failed.get(urlsplit(url).netloc)


def _download(url: str, target: Path) -> None:
    """Fetch ``url`` to ``target``, check it against the digest in its name; progress on stderr."""
    response = _open(url)
    target.parent.mkdir(parents=True, exist_ok=True)
    total = int(response.headers.get("Content-Length") or 0)
    digest, size, shown = hashlib.sha256(), 0, time.monotonic()
    print(f"downloading {url} ({total / 1e6:.1f} MB) to {target}", file=sys.stderr)
    with response, atomic_path(target) as temporary, open(temporary, "wb") as file:
        while chunk := response.read(1 << 20):
            file.write(chunk)
            digest.update(chunk)
            size += len(chunk)
            if time.monotonic() - shown > 2:
                shown = time.monotonic()
                print(f"  {size / 1e6:.1f} of {total / 1e6:.1f} MB", file=sys.stderr)
        expected = target.stem.rpartition("-")[2]
        received = digest.hexdigest()[: len(expected)]
        if received != expected:
            raise ValueError(f"the {size} bytes received have SHA-256 {received}, not {expected}")


def _open(url: str) -> HTTPResponse:
    # urlopen's timeout holds for each address of the host and not for the name look-up: behind a
    # firewall that swallows packets it adds up to minutes. A thread bounds the whole of it.
    answer: queue.SimpleQueue[HTTPResponse | Exception] = queue.SimpleQueue()

    def connect() -> None:
        try:
            answer.put(urllib.request.urlopen(url, timeout=TIMEOUT))
        except Exception as error:
            answer.put(error)

    threading.Thread(target=connect, daemon=True).start()
    try:
        response = answer.get(timeout=TIMEOUT)
    except queue.Empty:
        raise TimeoutError(f"no answer within {TIMEOUT:g} s") from None
    if isinstance(response, Exception):
        raise response
    return response
