"""Results as a CSV table, labelled images as an archive in the layout of MVTec AD."""

import csv
import io
import tempfile
import zipfile
from collections.abc import Iterator

from sqlalchemy import select

from fastad.serve.pictures import SUFFIXES
from fastad.serve.schemas import result_out
from fastad.serve.store import DEFECT, GOOD, Store
from fastad.serve.tables import Result

COLUMNS = (
    *("id", "time", "detector", "version", "camera", "name"),
    *("score", "p_value", "threshold", "verdict", "label", "input"),
)
FORMULA = ("=", "+", "-", "@", "\t", "\r")
FOLDERS = {GOOD: "train/good", DEFECT: "test/defect"}
IN_MEMORY = 32 * 2**20
CHUNK = 2**20


def table(results: Iterator[Result]) -> Iterator[str]:
    """The lines of a CSV file: the columns' names, then one line for each result."""
    yield ",".join(COLUMNS) + "\r\n"
    for one in results:
        row = result_out(one)
        # A spreadsheet would compute a text that begins like a formula.
        cells = [
            f"'{v}" if isinstance(v, str) and v.startswith(FORMULA) else v
            for v in map(row.get, COLUMNS)
        ]
        buffer = io.StringIO()
        csv.writer(buffer).writerow(cells)
        yield buffer.getvalue()


def labelled_archive(store: Store, detector: str | None) -> Iterator[bytes]:
    """A ZIP with train/good and test/defect, each image once, below the detector's name.

    An image with both labels is left out.
    """
    asked = select(Result.detector, Result.image, Result.label).where(Result.label.is_not(None))
    if detector is not None:
        asked = asked.where(Result.detector == detector)
    labels: dict[tuple[str, str], set[str]] = {}
    with store.session() as session:
        for name, digest, label in session.execute(asked.order_by(Result.id)):
            labels.setdefault((name, digest), set()).add(label or "")
    with tempfile.SpooledTemporaryFile(IN_MEMORY) as file:
        with zipfile.ZipFile(file, "w") as archive:  # images are compressed already
            for (name, digest), own in labels.items():
                if len(own) > 1:
                    continue
                content, kind = store.content(digest)
                folder = FOLDERS[own.pop()]
                safe = "".join(c if c.isalnum() or c in "-_." else "_" for c in name).strip(".")
                suffix = SUFFIXES.get(kind, "")
                archive.writestr(f"{safe or 'detector'}/{folder}/{digest[:16]}{suffix}", content)
        file.seek(0)
        while chunk := file.read(CHUNK):
            yield chunk
