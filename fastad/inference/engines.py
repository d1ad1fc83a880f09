"""Which engine serves a detector on this machine: asked for by name, or measured.

What was measured is kept in a file, so that it is measured once: ``engines.json`` in the folder
``fastad`` of ``XDG_CACHE_HOME``, by default ``~/.cache``. An entry is of one processor, number of
threads, kind of detector, and the versions of the engines. The file may be deleted at any time.
"""

import hashlib
import json
import logging
import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import fastad
from fastad._files import write_atomically
from fastad._threads import thread_count
from fastad._values import plain
from fastad.engine import runtimes
from fastad.inference.predictor import Predictor
from fastad.inference.serving import Way, machine

ROUNDS = 7  # of one image
FASTER = 0.95  # of the time of this package's own way, at most, for another engine to be taken

log = logging.getLogger("fastad")


def ways_of(engine: str, native: Predictor, precision: str = "auto") -> list[Way]:
    """Engines and what they compute in, in the order in which they are to be tried.

    Args:
        engine: "auto", "openvino" or "onnxruntime". "auto" takes the order of their times, and
            "native" first where no other engine is clearly faster.
        native: the detector in this package's own way, which comes after what is asked for.
        precision: that is asked for by name, or "auto".

    Raises:
        ValueError: there is no such engine, on this device, or in this precision.
        ImportError: a package is missing. The message names it.
    """
    own = [("native", native.dtype)] if native.fused else []
    if engine != "auto":
        runtimes.check_engine(engine, native.device)
        return [*((engine, dtype) for dtype in runtimes.dtypes(engine, precision)), *own]
    others = [
        (name, dtype)
        for name in runtimes.installed(native.device)
        for dtype in _dtypes(name, precision)
    ]
    if not others:
        return [("native", native.dtype)]
    milliseconds = _kept(_key(native, others), lambda: _measured(native, others))
    limit = FASTER * milliseconds[_label(("native", native.dtype))]
    faster = [way for way in others if milliseconds.get(_label(way), limit) < limit]
    faster.sort(key=lambda way: milliseconds[_label(way)])
    return [*faster, *own] if faster else [("native", native.dtype)]


def _dtypes(engine: str, precision: str) -> list[torch.dtype]:
    try:
        return runtimes.dtypes(engine, precision)
    except ValueError:  # not in this precision
        return []


def _measured(native: Predictor, others: list[Way]) -> dict[str, float]:
    """Median milliseconds of one image in each way, in turns; without those that fail."""
    images = torch.randint(0, 256, (1, 3, *native.image_size), dtype=torch.uint8)
    runs: dict[str, Callable[[], Any]] = {}
    own: Way = ("native", native.dtype)
    runs[_label(own)] = lambda: native.run(images, native.dtype, native.fused)
    for way in others:
        other = runtimes.Runtime(native.model, native.image_size, *way)

        try:
            other(images)
        except runtimes.EngineError as error:
            log.info(str(error))
            continue
        runs[_label(way)] = partial(other, images)
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(ROUNDS):
        for name, run in runs.items():
            run()  # the caches are its own then, and threads of others wait no more
            start = time.perf_counter()
            run()
            times[name].append(1e3 * (time.perf_counter() - start))
    found = {name: round(statistics.median(values), 2) for name, values in times.items()}
    said = ", ".join(f"{name} {value:g} ms" for name, value in found.items())
    log.info(f"one image in each engine: {said}")
    return found


def _label(way: Way) -> str:
    engine, dtype = way
    return f"{engine} {str(dtype).removeprefix('torch.')}"


def _key(native: Predictor, others: list[Way]) -> str:
    """What the times depend on, as 16 hexadecimal digits."""
    model = native.model
    content = {
        "processor": _processor(),
        "units": machine(native.device),
        "threads": thread_count(),
        "model": model.name,
        "config": str(vars(model.config)),
        "size": native.image_size,
        "ways": [_label(way) for way in [("native", native.dtype), *others]],
        "fused": native.fused,
        "versions": [fastad.__version__, torch.__version__, *map(_version, runtimes.PACKAGES)],
    }
    return hashlib.sha256(json.dumps(plain(content)).encode()).hexdigest()[:16]


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    """Its name, as far as the system says."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    return next((line for line in lines if line.startswith("model name")), "")


def cache_file() -> Path:
    """Where the times are kept."""
    folder = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(folder) / "fastad" / "engines.json"


def _kept(key: str, measure: Callable[[], dict[str, float]]) -> dict[str, float]:
    """The entry of the cache file, made where it is not there."""
    path = cache_file()
    entries = _entries(path)
    if key in entries:
        return entries[key]
    found = measure()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Read again: another process may have measured meanwhile.
        text = json.dumps({**_entries(path), key: found}, indent=1) + "\n"
        write_atomically(path, lambda place: place.write_text(text, encoding="utf-8"))
    except OSError as error:
        log.warning(f"the engines' times cannot be kept, and will be measured again: {error}")
    return found


def _entries(path: Path) -> dict[str, dict[str, float]]:
    """What the file holds; nothing where it is missing or no such file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {
            str(key): {str(name): float(value) for name, value in entry.items()}
            for key, entry in content.items()
        }
    except (OSError, ValueError, AttributeError, TypeError):
        return {}
