"""``fastad evaluate``: a detector on a labelled test set."""

import math
from typing import Any

from fastad.commands.output import check_writable, progress, skipped, write_json
from fastad.data import test_samples
from fastad.detector import load

COLUMNS = ("image_auroc", "image_ap", "image_f1_max", "pixel_auroc", "pixel_ap", "pixel_f1_max")


def evaluate(
    detector: str,
    data: str,
    *,
    json: str | None,
    false_positive_rate: float | None,
    skip_bad: bool,
    device: str,
    precision: str,
    batch_size: int,
) -> None:
    """Measure, write JSON where asked, and print a table unless the JSON went to stdout."""
    if json is not None:
        check_writable(json)
    test_samples(data)  # a folder that is none is found before the model is read
    loaded = load(detector, device=device, precision=precision, batch_size=batch_size)
    if false_positive_rate is not None:
        loaded.set_threshold(false_positive_rate)
    with skipped() as skip, progress("evaluating") as report:
        metrics = loaded.evaluate(data, progress=report, skip=skip if skip_bad else None)
    if json is not None:
        write_json(json, metrics)
    if json != "-":
        _print(metrics)


def _print(metrics: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    columns = [*COLUMNS, "aupro"]
    table = Table(box=None)
    table.add_column("")
    for column in columns:
        table.add_column(column.replace("_", " "), justify="right")
    for name, row in [("all", metrics), *metrics["per_defect"].items()]:
        values = (row[column] for column in columns)
        table.add_row(name, *("-" if math.isnan(v) else f"{v:.4f}" for v in values))
    # A log has no width of its own, and must not cut the numbers off at 80 columns.
    console = Console(highlight=False)
    console.width = max(console.width, 120)
    console.print(table)
    counts = metrics["counts"]
    skipped = f", {counts['skipped']} unreadable" if counts["skipped"] else ""
    console.print(f"{counts['normal']} normal images, {counts['defect']} with defects{skipped}")
    if chosen := metrics.get("at_threshold"):
        console.print(
            f"at the threshold {chosen['threshold']:.4g}: "
            f"{chosen['true_positive_rate']:.1%} of the defects found, "
            f"{chosen['false_positive_rate']:.1%} false alarms"
        )
    if not metrics["pixel_metrics"]["exact"]:
        bounds = metrics["pixel_metrics"]["error_bound"]
        worst = max((v for v in bounds.values() if not math.isnan(v)), default=0.0)
        console.print(f"pixel scores of so many maps come from histograms, within {worst:.1g}")
    console.print("F1 max picks its threshold on the test labels: an upper bound")
