"""Files of results that grow line by line, and survive a crash whole."""

import csv
import io
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from fastad.evaluation.score_table import COLUMNS
from fastad.watch.journal import UNDELIVERED, Journal, Pending

TABLE = ("number", "time", *COLUMNS, "moved_to")  # the columns of the CSV


class Lines(Protocol):
    """How results are written: what a file begins with, and a result's line."""

    @property
    def header(self) -> str: ...
    def line(self, pending: Pending) -> str: ...


class CsvLines:
    """A row of `TABLE` a result. Booleans are True and False, None is an empty cell."""

    @property
    def header(self) -> str:
        return _csv_row(dict(zip(TABLE, TABLE, strict=True)))

    def line(self, pending: Pending) -> str:
        return _csv_row({"number": pending.number} | pending.row)


class JsonLines:
    """A JSON object a result."""

    header = ""

    def line(self, pending: Pending) -> str:
        return payload(pending) + "\n"


class UndeliveredLines:
    """A JSON object a result that a receiver did not take: the "error", and the "result"."""

    header = ""

    def line(self, pending: Pending) -> str:
        return f'{{"error": {json.dumps(pending.error)}, "result": {payload(pending)}}}\n'


def payload(pending: Pending) -> str:
    """A result as one line of JSON."""
    return json.dumps({"number": pending.number} | pending.row)


class ResultFile:
    """Appends the results of a place to a file, each once.

    The journal holds how long the file was when the last lines were known to be whole. What stands
    behind is the beginning of the lines that come next: a crash or a full disk cut them off. They
    are continued there. So no line is torn or doubled, and none that was read is taken back.

    Args:
        path: of the file. "-" is stdout, which cannot be continued.
        place: the name of the place in the journal.
        lines: how results are written.

    Raises:
        ValueError: the file is there and begins with another header.
    """

    def __init__(self, path: str, place: str, lines: Lines, journal: Journal) -> None:
        self.path, self.place = path, place
        self._lines, self._journal = lines, journal
        self._name = path if path == "-" else os.path.realpath(path)
        self._header = lines.header  # still to go to stdout
        if path != "-":
            self._check()

    def write(self) -> None:
        """Append what is pending. OSError where that fails; a later call goes on."""
        while pending := self._journal.pending(self.place):
            text = "".join(map(self._lines.line, pending))
            if self.path == "-":
                text, self._header = self._header + text, ""
                encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
                sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
                sys.stdout.flush()
                position = None
            else:
                position = (self._name, self._append(text.encode("utf-8", "surrogateescape")))
            self._journal.done((one.id for one in pending), position)

    def _check(self) -> None:
        """A file that is continued must begin as this one would."""
        header = self._lines.header.encode()
        path = Path(self.path)
        begin = b""
        if path.exists():
            with open(path, "rb") as file:
                begin = file.read(len(header))
        if not header.startswith(begin):
            raise ValueError(f"{path} exists and has other columns: name another file")
        if self._journal.position(self._name) is None:
            self._journal.done([], (self._name, _end(path)))

    def _append(self, text: bytes) -> int:
        start = self._journal.position(self._name) or 0
        with open(self.path, "ab+", buffering=0) as file:
            size = file.seek(0, os.SEEK_END)
            if size < start:  # cut, or another file, as programs that rotate logs make it
                start = size
            whole = (self._lines.header.encode() if start == 0 else b"") + text
            written = b""
            if size > start:
                file.seek(start)
                written = file.read(min(size - start, len(whole) + 1))
            if not whole.startswith(written):  # others' lines
                start, written, whole = size, b"", text
                self._journal.done([], (self._name, start))
            rest = memoryview(whole)[len(written) :]
            while rest:
                rest = rest[file.write(rest) :]
            os.fsync(file.fileno())
        return start + len(whole)


def undelivered_file(path: str, journal: Journal) -> ResultFile:
    """The file of what no receiver took."""
    return ResultFile(path, UNDELIVERED, UndeliveredLines(), journal)


def _end(path: Path) -> int:
    """The length of a file, after its last line was ended."""
    if not path.exists() or path.stat().st_size == 0:
        return 0
    with open(path, "rb+") as file:
        file.seek(-1, os.SEEK_END)
        if file.read(1) != b"\n":
            file.write(b"\n")
        return file.seek(0, os.SEEK_END)


def _csv_row(row: Mapping[str, Any], columns: Sequence[str] = TABLE) -> str:
    text = io.StringIO()
    csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n").writerow(row)
    return text.getvalue()
