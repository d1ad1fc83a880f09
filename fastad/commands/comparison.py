"""What ``fastad compare`` found of each candidate, which is best, and the table that shows it."""

import math
from collections.abc import Sequence
from typing import Any

from fastad.inference import candidates
from fastad.inference.candidates import MARGIN


def quality(row: dict[str, Any]) -> float:
    """Mean of the image AUROC and the AUPRO on synthesised defects."""
    return candidates.quality(row["synthesised"])


def best(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The fastest of those whose quality is within `MARGIN` of the highest.

    Real defects have no say: what chooses by them is no longer measured by them.
    """
    highest = max(map(quality, rows))
    return min(
        (row for row in rows if quality(row) >= highest - MARGIN),
        key=lambda row: row["milliseconds_per_image"],
    )


def reason(rows: Sequence[dict[str, Any]]) -> str:
    """Why the best one is the best."""
    chosen, highest = best(rows), max(rows, key=quality)
    what = f"{chosen['model']}: mean of image AUROC and AUPRO {quality(chosen):.3f}"
    if chosen is highest:
        return f"{what}, the best by synthesised defects"
    return (
        f"{what}, within {MARGIN} of {highest['model']}'s {quality(highest):.3f} by synthesised "
        "defects, and faster"
    )


def show(rows: Sequence[dict[str, Any]], judged: int, trained: int) -> None:
    """Print a row for each candidate, the best one with a star.

    judged, trained: number of the good images of each kind.
    """
    from rich.console import Console
    from rich.table import Table

    chosen, real = best(rows), any(row["real"] for row in rows)
    table = Table(box=None)
    table.add_column("model")
    columns = ["image AUROC", "AUPRO", "found", "false alarms", "promised"]
    columns += ["epochs", "training", "per image", "file"]
    columns += [*["real: image AUROC", "AUPRO", "found", "false alarms"] * real]
    for column in columns:
        table.add_column(column, justify="right")
    for row in rows:
        mark = " *" if row is chosen else ""
        table.add_row(row["model"] + mark, *_cells(row), *(_real(row) if real else ()))
    # A log has no width of its own, and must not cut the numbers off at 80 columns.
    console = Console(highlight=False, markup=False, soft_wrap=True)
    console.width = max(console.width, 160)
    console.print(table)
    count = chosen["synthesised"]["found"]["total"]
    console.print(
        f"judged by {count} synthesised defects on {judged} good images that no model was trained "
        f"on; all were trained on {trained} others"
    )
    console.print("synthesised defects are no real ones")
    if real:
        console.print("the real test images chose nothing")
    console.print(f"* {reason(rows)}")


def _cells(row: dict[str, Any]) -> list[str]:
    tried, epochs, asked = row["synthesised"], row["epochs"], row["asked"]["epochs"]
    alarms, found, seconds = tried["false_alarms"]["new"], tried["found"], row["training_seconds"]
    return [
        _number(tried["image_auroc"]),
        _number(tried["aupro"]),
        f"{found['hits']}/{found['total']}",
        f"{alarms['hits']}/{alarms['total']}",
        f"{tried['promised_false_positive_rate']:.1%}",
        "-" if epochs is None else f"{epochs}" if epochs == asked else f"{epochs} of {asked}",
        f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min",
        f"{row['milliseconds_per_image']:.1f} ms",
        f"{row['file_bytes'] / 1e6:.1f} MB",
    ]


def _real(row: dict[str, Any]) -> list[str]:
    real = row["real"]
    shares = [real["at_threshold"][f"{kind}_positive_rate"] for kind in ("true", "false")]
    return [
        _number(real["image_auroc"]),
        _number(real["aupro"]),
        *("-" if math.isnan(share) else f"{share:.0%}" for share in shares),
    ]


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"
