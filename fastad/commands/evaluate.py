"""``fastad evaluate``: a detector on a labelled test set."""

import math
from typing import Any

import numpy as np
from torch import Tensor

from fastad.commands.output import check_writable, progress, write_json
from fastad.data import test_samples
from fastad.evaluation import evaluate as measure
from fastad.inference import load

COLUMNS = ("image_auroc", "image_ap", "image_f1_max", "pixel_auroc", "pixel_ap", "pixel_f1_max")


def evaluate(
    detector: str, data: str, *, json: str | None, device: str, precision: str, batch_size: int
) -> None:
    """Measure, write JSON where asked, and print a table unless the JSON went to stdout."""
    if json is not None:
        check_writable(json)
    samples = test_samples(data)
    artifact = load(detector)
    predictor = artifact.predictor(device=device, precision=precision, batch_size=batch_size)

    def predict(images: Tensor) -> tuple[np.ndarray, np.ndarray]:
        result = predictor.predict_batch(images)
        return result.score, result.anomaly_map

    with progress("evaluating") as report:
        metrics = measure(
            predict,
            samples,
            artifact.image_size,
            threshold=artifact.threshold,
            batch_size=batch_size,
            progress=report,
        )
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
    console.print(f"{counts['normal']} normal images, {counts['defect']} with defects")
    if chosen := metrics.get("at_threshold"):
        console.print(
            f"at the threshold {chosen['threshold']:.4g}: "
            f"{chosen['true_positive_rate']:.1%} of the defects found, "
            f"{chosen['false_positive_rate']:.1%} false alarms"
        )
    console.print("F1 max picks its threshold on the test labels: an upper bound")
