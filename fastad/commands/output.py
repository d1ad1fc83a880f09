"""Where results go: JSON and CSV to a file or stdout, progress to stderr."""

import json
import logging
import math
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fastad._files import atomic_path, write_atomically
from fastad.commands.messages import log, note, reason
from fastad.distributed import this_rank
from fastad.evaluation.score_table import csv_text
from fastad.training.heartbeat import Heartbeat

LOG_SECONDS = 10.0  # between two plain lines of progress


def write_text(target: str, text: str) -> None:
    """Write to a file, atomically, or to stdout for "-"."""
    if target == "-":
        # A file's name may hold anything: neither a terminal nor a file may refuse it at the end.
        encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
        sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
    else:
        content = text.encode("utf-8", "surrogateescape")
        write_atomically(target, lambda path: path.write_bytes(content))


def write_json(target: str, value: Any) -> None:
    """Write JSON; numbers that JSON cannot hold (NaN, infinities) become null."""
    write_text(target, json.dumps(_finite(value), indent=2) + "\n")


def write_csv(target: str, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a table as `fastad.evaluation.score_table.csv_text` makes it."""
    write_text(target, csv_text(columns, rows))


def check_writable(target: str) -> None:
    """Find out before long work whether a file can be written; OSError where it cannot."""
    if target == "-":
        return
    with suppress(_OnlyATryError), atomic_path(target):
        raise _OnlyATryError  # so that nothing is replaced


def check_detector_target(target: str) -> None:
    """As `check_writable`; FileExistsError, too, where the file is no detector, but another's."""
    from fastad.inference.artifact import FILE

    if Path(target).is_file() and not FILE.is_one(target):
        raise FileExistsError(f"{target} exists and is no detector: give the new one another name")
    check_writable(target)


def check_result_target(target: str) -> None:
    """As `check_writable`; FileExistsError, too, where a detector would be replaced by results."""
    from fastad.inference.artifact import FILE

    if target != "-" and Path(target).is_file() and FILE.is_one(target):
        raise FileExistsError(f"{target} is a detector: give the results another name")
    check_writable(target)


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """Give a function to call with the images done and their number.

    A bar on a terminal, a plain line every ten seconds elsewhere; both on stderr, and neither with
    --quiet.
    """
    if sys.stderr.isatty() and log.isEnabledFor(logging.INFO):
        from rich.console import Console
        from rich.progress import Progress

        with Progress(console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(what, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)
        return
    shown = time.monotonic()

    def line(done: int, total: int) -> None:
        nonlocal shown
        if time.monotonic() - shown > LOG_SECONDS:
            shown = time.monotonic()
            note(f"{what}: {done} of {total} images")

    yield line


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Show that work goes on of which no part can be counted: as `progress` does, in seconds."""
    if not log.isEnabledFor(logging.INFO):
        yield
        return
    if not sys.stderr.isatty():
        heartbeat = Heartbeat(lambda seconds: note(f"{what}: at work for {seconds:.0f} s"))
        try:
            yield
        finally:
            heartbeat.stop()
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        bar.add_task(what, total=None)
        yield


@contextmanager
def one_voice(is_wanted: bool = True) -> Iterator[None]:
    """Of several processes that do the same, let the first alone say what it is at and warn of."""
    if this_rank().is_first or not is_wanted:
        yield
        return
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda *_, **__: None
            yield
    finally:
        log.setLevel(level)


@contextmanager
def skipped() -> Iterator[Callable[[object, Exception], None]]:
    """Give a function to report unreadable images to; says at the end how many there were."""
    count = 0

    def skip(_: object, error: Exception) -> None:
        nonlocal count
        count += 1
        log.warning(f"skipped: {reason(error)}")

    yield skip
    if count:
        log.warning(f"{count} unreadable images were skipped")


class _OnlyATryError(Exception):
    pass


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def refuse_overwriting(targets: Sequence[Path], inputs: Sequence[Path]) -> None:
    """ValueError where a result would replace a file that is read, or another result."""
    read, seen = {path.resolve() for path in inputs}, set()
    for target in targets:
        if target.resolve() in seen:
            raise ValueError(f"{target} is named for two results: give each a file of its own")
        seen.add(target.resolve())
        if target.resolve() in read:
            raise ValueError(f"{target} is one of the inputs and would be overwritten")
