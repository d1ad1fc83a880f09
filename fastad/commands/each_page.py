"""The page of ``--each``: `each_page.html` filled, all products on it, the worst first."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import fastad
from fastad._html import embedded, template
from fastad.evaluation.report.strip import score_strip

# Of the table as CSV; None where a command does not give it.
COLUMNS = (
    "product",
    "status",
    "image_auroc",
    "image_ap",
    "pixel_auroc",
    "aupro",
    "defects_found",
    "defects",
    "false_alarms",
    "good",
    "promised",
    "threshold",
    "model",
    "trained_on",
    "held_out",
    "epochs",
    "seconds",
    "threads",
    "peak_mib",
    "file",
    "error",
)


def quality(row: Mapping[str, Any]) -> float | None:
    """Mean of image AUROC and AUPRO, or the one that is known."""
    of_both = (row.get(name) for name in ("image_auroc", "aupro"))
    known = [value for value in of_both if value is not None]
    return sum(known) / len(known) if known else None


def in_order(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows, the worst first: those that failed, those without a number, then by `quality`."""

    def place(row: Mapping[str, Any]) -> tuple[bool, float, str]:
        own = quality(row)
        return row["status"] == "done", -1.0 if own is None else own, row["product"]

    return sorted(rows, key=place)


def page(
    rows: Sequence[Mapping[str, Any]], title: str, command: str, *, judged_by: str, pages: str = ""
) -> str:
    """The whole page.

    Args:
        rows: of `fastad.commands.each`, in their order.
        title: of the page.
        command: that made it.
        judged_by: what the numbers are of, in words.
        pages: where the pages of single products are, relative to this page; "" where none are.
    """
    listed = [{**row, "link": _link(row, pages)} for row in rows]
    shown = [row for row in listed if row["status"] == "done"]
    of_test = [row["scores"].get(kind) for row in shown for kind in ("normal", "defective")]
    return template("fastad.commands", "each_page.html").render(
        title=title,
        command=command,
        judged_by=judged_by,
        rows=[{name: row.get(name) for name in (*COLUMNS, "link")} for row in listed],
        strips=[
            {"product": row["product"], "link": row["link"], "picture": _strip(row)}
            for row in shown
        ],
        failed=[row for row in rows if row["status"] != "done"],
        seconds=sum(row.get("seconds") or 0.0 for row in rows),
        has_test=any(of_test),
        version=fastad.__version__,
    )


def relative(folder: str | None, page_folder: Path) -> str:
    """A folder of pages as the summary's page names it."""
    return "" if folder is None else Path(os.path.relpath(folder, page_folder)).as_posix()


def _link(row: Mapping[str, Any], pages: str) -> str | None:
    return f"{pages}/{row['product']}/index.html" if pages and row["status"] == "done" else None


def _strip(row: Mapping[str, Any]) -> str:
    held_out, normal, defective = (
        np.array(row["scores"].get(kind, ()), float) for kind in ("held_out", "normal", "defective")
    )
    return embedded("svg+xml", score_strip(held_out, normal, defective, row["threshold"]))
