"""Where results go: JSON and CSV to a file or stdout, progress to stderr."""

import csv
import io
import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fastad._files import write_atomically

LOG_SECONDS = 10.0  # between two plain lines of progress


def write_text(target: str, text: str) -> None:
    """Write to a file, atomically, or to stdout for "-"."""
    if target == "-":
        sys.stdout.write(text)
    else:
        write_atomically(target, lambda path: path.write_text(text, encoding="utf-8"))


def write_json(target: str, value: Any) -> None:
    """Write JSON; numbers that JSON cannot hold (NaN, infinities) become null."""
    write_text(target, json.dumps(_finite(value), indent=2) + "\n")


def write_csv(target: str, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Write comma-separated rows under a header; None is an empty cell."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([header, *rows])
    write_text(target, buffer.getvalue())


def check_writable(target: str) -> None:
    """Find out before long work whether a file can be written; OSError where it cannot."""
    if target == "-":
        return
    path = Path(target).resolve()
    probe = path.with_name(f"{path.name}.probe")
    # The same checks, and the same messages, as the write itself.
    if path.is_dir():
        write_atomically(path, lambda _: None)
    write_atomically(probe, lambda _: None)
    probe.unlink()


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """Give a function to call with the images done and their number.

    A bar on a terminal, a plain line every ten seconds elsewhere; both on stderr.
    """
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import Progress

        with Progress(console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(what, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)
        return
    shown = time.monotonic()

    def log(done: int, total: int) -> None:
        nonlocal shown
        if time.monotonic() - shown > LOG_SECONDS:
            shown = time.monotonic()
            note(f"{what}: {done} of {total} images")

    yield log


def note(text: str) -> None:
    """A line for the reader, on stderr."""
    print(text, file=sys.stderr, flush=True)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def refuse_overwriting(targets: Sequence[Path], inputs: Sequence[Path]) -> None:
    """ValueError where a result would replace a file that is read."""
    read = {path.resolve() for path in inputs}
    for target in targets:
        if target.resolve() in read:
            raise ValueError(f"{target} is one of the inputs and would be overwritten")
