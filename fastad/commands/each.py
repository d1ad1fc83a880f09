"""What ``--each`` of `fastad train` and `fastad evaluate` share: many products in turn.

Each product has a row, a file of its own beside the results: what was asked for, whether it is
done, and its numbers. A product that is done with the same request is kept. So the same command
goes on after a stop or a crash. Several processes may work in one folder: each product is claimed
by one (`fastad.distributed.claims`). Under ``torchrun`` these are its ranks.
"""

import json
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from fastad._files import check_folder
from fastad.commands import StoppedError
from fastad.commands.each_page import COLUMNS, in_order, page
from fastad.commands.output import log, note, reason, write_csv, write_json, write_text
from fastad.data import Product, find_products
from fastad.data.training_set import file_digests
from fastad.distributed import claim_each, peak_memory, this_rank

PAGE, TABLE, CLAIMS = "index.html", "products.csv", ".claims"
RUNNING, DONE, FAILED = "running", "done", "failed"

Row = dict[str, Any]


class Each:
    """The products below a folder, and what is known of each.

    Args:
        root: the folder of the products.
        folder: of the rows, the table and the page. It is made.
        writer: the command, such as "fastad train --each".
        manifest: name of the file that lists what the writer wrote.
        results: endings of the files that it writes for each product, beside the row's.

    Raises:
        FileNotFoundError, NotADirectoryError, ValueError: as `find_products`.
        FileExistsError: files of others are in the way.
    """

    def __init__(
        self, root: str, folder: str, writer: str, manifest: str, results: Sequence[str] = ()
    ):
        if not folder:
            raise ValueError("the folder of the results has no name")
        self.folder, self._writer = Path(folder), writer
        if self.folder.exists() and not self.folder.is_dir():
            raise NotADirectoryError(f"{folder} is no folder")
        self.products = find_products(root, passed_over=(self.folder,))
        names = [f"{p.name}{ending}" for p in self.products for ending in (".json", *results)]
        files = [manifest, PAGE, TABLE, *names]
        known = check_folder(self.folder, writer, files)
        self.folder.mkdir(parents=True, exist_ok=True)
        # What an earlier run left of products that are no longer there stays ours.
        every = [*files, *sorted(known - set(files))]
        write_json(str(self.folder / manifest), {"written_by": writer, "files": every})
        # Told apart from what other processes write while this one runs.
        self._before = {p.name: self._content(p) for p in self.products}

    def run(
        self,
        asked: Callable[[Product], dict[str, Any]],
        work: Callable[[Product, bool], Row],
        result: Callable[[Product], Path | None],
    ) -> list[Row]:
        """Do the work of every product that is not done, or wait for who does it.

        A product that fails has a row that says why, and the others go on.

        Args:
            asked: what decides the result of a product, as JSON. An error is the product's.
            work: gives the numbers of a product. True where an earlier run began the same work.
            result: the file whose content the row vouches for, if any.

        Returns:
            The rows, the worst first.

        Raises:
            StoppedError: the user stopped the work.
        """
        rows, count = dict[str, Row](), len(self.products)

        def lock(product: Product) -> Path:
            path = self.folder / CLAIMS / f"{product.name}.lock"
            path.parent.mkdir(parents=True, exist_ok=True)
            return path

        def one(product: Product) -> None:
            place = f"{product.name}, {len(rows) + 1} of {count}"
            rows[product.name] = self._row(product, place, asked, work, result)

        claim_each(self.products, lock, one)
        return in_order(rows.values())

    def finish(self, rows: Sequence[Row], title: str, **facts: Any) -> None:
        """Write the table and the page, from the first rank, and say where they are.

        Raises:
            RuntimeError: a product failed; once all is written.
        """
        if not this_rank().is_first:
            return
        write_csv(str(self.folder / TABLE), COLUMNS, ({c: r.get(c) for c in COLUMNS} for r in rows))
        write_text(str(self.folder / PAGE), page(rows, title, self._writer, **facts))
        failed = [row for row in rows if row["status"] == FAILED]
        note(f"{len(rows) - len(failed)} of {len(rows)} products: {self.folder / PAGE}")
        if failed:
            names = "; ".join(f"{row['product']}: {row['error']}" for row in failed)
            raise RuntimeError(f"{len(failed)} of {len(rows)} products failed: {names}")

    def _row(
        self,
        product: Product,
        place: str,
        asked: Callable[[Product], dict[str, Any]],
        work: Callable[[Product, bool], Row],
        result: Callable[[Product], Path | None],
    ) -> Row:
        """The row of a product that this process has claimed."""
        content = self._content(product)
        row: Row = _parsed(content)
        if content != self._before[product.name] and row.get("status") in (DONE, FAILED):
            return row  # another process did it just now
        file = result(product)
        fixed: Row = {"product": product.name, "status": RUNNING, "file": file and file.name}
        row = fixed | _kept(row)
        start = time.monotonic()
        try:
            now = json.loads(json.dumps(asked(product)))
            goes_on = row.get("asked") == now
            if goes_on and row["status"] == DONE and row["digest"] == _digest(file):
                note(f"{place}: kept")
                return row
            row |= {"asked": now, "status": RUNNING}
            self._write(product, row)
            note(place)
            with peak_memory() as peak:
                row |= work(product, goes_on)
            row |= {
                "status": DONE,
                "error": None,
                "digest": _digest(file),
                "seconds": time.monotonic() - start,
                "threads": torch.get_num_threads(),
                "peak_mib": peak(),
            }
        except (StoppedError, KeyboardInterrupt) as error:
            raise StoppedError(
                f"stopped by the user: the same command keeps what is done in {self.folder} and "
                "goes on"
            ) from error
        except Exception as error:  # one product must not end the night's work on all
            log.warning(f"{product.name} failed: {reason(error)}")
            log.debug("", exc_info=log.isEnabledFor(logging.DEBUG))
            row |= {"status": FAILED, "error": reason(error)}
            row["seconds"] = time.monotonic() - start
        self._write(product, row)
        return _parsed(self._content(product))  # as another run will find it

    def _path(self, product: Product) -> Path:
        return self.folder / f"{product.name}.json"

    def _content(self, product: Product) -> bytes:
        with suppress(FileNotFoundError):
            return self._path(product).read_bytes()
        return b""

    def _write(self, product: Product, row: Row) -> None:
        path = self._path(product)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(str(path), row)


def digest_of(paths: Iterable[Path]) -> str:
    """One digest of the content of files, whatever their names, in their order."""
    return " ".join(file_digests(paths))


def _kept(row: Row) -> Row:
    """Of an earlier row what still counts; nothing of a failure."""
    return row if row.get("status") in (RUNNING, DONE) else {}


def _parsed(content: bytes) -> Row:
    with suppress(ValueError):
        row = json.loads(content)
        return row if isinstance(row, dict) else {}
    return {}


def _digest(file: Path | None) -> str | None:
    return None if file is None or not file.is_file() else digest_of([file])
