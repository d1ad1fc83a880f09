"""``fastad evaluate --each``: the detector of every product on its test images, and one page."""

from pathlib import Path
from typing import Any

import numpy as np

import fastad
from fastad.commands import UsageError
from fastad.commands.each import Each, Row, digest_of
from fastad.commands.evaluate import Measured, evaluate
from fastad.commands.output import write_json
from fastad.commands.training_summary import epochs_kept
from fastad.data import Product, describe
from fastad.data.layouts import samples_of
from fastad.distributed import this_rank

WRITER, MANIFEST = "fastad evaluate --each", "fastad-each.json"
PAGES = "pages"  # folder of the products' own reports


def evaluate_each(
    detectors: str,
    root: str,
    *,
    report: str | None,
    json: str | None,
    csv: str | None,
    parquet: str | None,
    **options: Any,
) -> int:
    """Measure DETECTORS/NAME.fastad on every product NAME below ``root``, as `evaluate` does.

    ``report`` is a folder: for each product NAME it has the page pages/NAME/index.html and the
    numbers NAME.json, and for all of them products.csv and index.html. A product that is done with
    the same detector, images and options is kept. ``json`` gets all numbers in one file.

    Returns how many images were left out, because they or their masks cannot be read.

    Raises:
        UsageError: no ``report``, or an option of one product alone.
        NotADirectoryError: ``detectors`` is no folder.
        RuntimeError: a product failed, or has no detector; once all others are measured.
    """
    if report is None:
        raise UsageError("--each needs --report DIR: its results are kept there")
    for option, file in (("--csv", csv), ("--parquet", parquet)):
        if file is not None:
            raise UsageError(f"--each writes {Path(report, 'products.csv')}: leave out {option}")
    if not Path(detectors).is_dir():
        raise NotADirectoryError(
            f"{detectors} is no folder: give that of the detectors of `fastad train --each`"
        )
    each = Each(root, report, WRITER, MANIFEST)
    named = {name: options[name] for name in ("good", "defects", "masks")}

    def detector_file(product: Product) -> Path:
        return Path(detectors, f"{product.name}.fastad")

    def asked(product: Product) -> dict[str, Any]:
        samples = samples_of(describe(product.folder, **named))
        files = [path for s in samples for path in (s.path, *s.mask_paths)]
        return {
            "version": fastad.__version__,
            "detector": digest_of([detector_file(product)]),
            "images": digest_of(files),
            "options": options,
        }

    def work(product: Product, goes_on: bool) -> Row:
        measured = evaluate(
            str(detector_file(product)),
            str(product.folder),
            report=str(Path(report, PAGES, product.name)),
            json=None,
            csv=None,
            is_one_of_many=True,
            **options,
        )
        return _numbers(measured)

    rows = each.run(asked, work, detector_file)
    if json is not None and this_rank().is_first:
        write_json(json, {row["product"]: row.get("metrics") for row in rows})
    each.finish(
        rows,
        f"Detectors on the test images of {Path(root).resolve().name}",
        judged_by="labelled test images, which chose nothing",
        pages=PAGES,
    )
    return sum(row.get("unreadable") or 0 for row in rows)


def _numbers(measured: Measured) -> Row:
    """What the row of a product says of its evaluation."""
    metrics, detector = measured.metrics, measured.detector
    training, counts = detector.training_record_, metrics["counts"]
    scores: dict[str, list[float]] = {"normal": [], "defective": []}
    for sample, score in measured.scored:
        scores["defective" if sample.label else "normal"].append(score)
    held_out, threshold = detector.calibration_scores_.tolist(), detector.threshold_
    row = {name: metrics[name] for name in ("image_auroc", "image_ap", "pixel_auroc", "aupro")}
    if threshold is not None:
        above = {kind: int((np.array(own) > threshold).sum()) for kind, own in scores.items()}
        row |= {"defects_found": above["defective"], "false_alarms": above["normal"]}
    return row | {
        "defects": counts["defect"],
        "good": counts["normal"],
        "threshold": threshold,
        "promised": detector.false_positive_rate_,
        "model": detector.model_.name,
        "trained_on": training.get("n_train"),
        "held_out": training.get("n_validation"),
        "epochs": epochs_kept(training),
        "unreadable": measured.unreadable,
        "metrics": metrics,
        "scores": scores | {"held_out": held_out},
    }
