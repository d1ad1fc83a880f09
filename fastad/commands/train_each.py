"""``fastad train --each``: a detector for every product below a folder, and one page on all."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import fastad
from fastad.commands import UsageError
from fastad.commands.each import Each, Row, digest_of
from fastad.commands.each_page import relative
from fastad.commands.train import check_options, train
from fastad.commands.training_summary import epochs_kept
from fastad.data import Product, training_images
from fastad.detector import Detector

WRITER, MANIFEST = "fastad train --each", "fastad-each.json"
OF_ONE = ("exclude", "start_from", "resume", "force")  # options that mean one product's files


def train_each(root: str, *, output: str, report: str | None, **options: Any) -> None:
    """Train a detector for every product below ``root``, as `train` does for one.

    ``output`` is a folder: for each product NAME it has the detector NAME.fastad and the numbers
    NAME.json, and for all of them products.csv and index.html. ``report`` is a folder for the page
    of each training. A product that is done with the same images, options and version is kept.

    Raises:
        UsageError: an option of one product alone, or a wrong one; before any image is read.
        RuntimeError: a product failed; once all others are trained.
    """
    refuse_options_of_one("--each", output, options)
    check_options(options)
    each = Each(root, output, WRITER, MANIFEST, (".fastad", ".fastad.checkpoint"))

    def detector_file(product: Product) -> Path:
        return Path(output, f"{product.name}.fastad")

    def asked(product: Product) -> dict[str, Any]:
        found = training_images(product.folder, good=options["good"], masks=options["masks"])
        roi = options["roi"]
        return {
            "version": fastad.__version__,
            "images": digest_of([*found.paths, *found.held_out]),
            "roi": None if roi is None else digest_of([Path(roi)]),
            "report": report,
            "options": {k: v for k, v in options.items() if k not in (*OF_ONE, "named")},
        }

    def work(product: Product, goes_on: bool) -> Row:
        file = detector_file(product)
        checkpoint = Path(f"{file}.checkpoint")
        if not goes_on:
            checkpoint.unlink(missing_ok=True)  # of other images or options
        own = copied(options) | {"resume": checkpoint.is_file(), "force": True}
        own["is_one_of_many"] = True
        page = None if report is None else str(Path(report, product.name))
        return numbers(train(str(product.folder), output=str(file), report=page, **own))

    rows = each.run(asked, work, detector_file)
    each.finish(
        rows,
        f"Detectors of {Path(root).resolve().name}",
        judged_by="synthesised defects on good images that were held out",
        pages=relative(report, Path(output)),
    )


def refuse_options_of_one(of_many: str, output: str, options: Mapping[str, Any]) -> None:
    """Raise UsageError for options that mean the files of one product; ``of_many`` is the option
    that asks for all."""
    if Path(output).suffix == ".fastad" and not Path(output).is_dir():
        raise UsageError(f"{of_many} fills a folder with detectors: --output {output} names one")
    given = [name.replace("_", "-") for name in OF_ONE if options[name]]
    given += ["defects"] if options["training_options"].get("defects") is not None else []
    if given:
        raise UsageError(f"{of_many} trains many products: --{given[0]} is for one")


def numbers(detector: Detector) -> Row:
    """What the row of a product says of its detector."""
    training, check = detector.training_record_, detector.training_record_["self_check"]
    held_out = [] if detector.threshold_ is None else detector.calibration_scores_.tolist()
    row = {
        "model": detector.model_.name,
        "trained_on": training["n_train"],
        "held_out": training["n_validation"],
        "epochs": epochs_kept(training),
        "threshold": detector.threshold_,
        "promised": detector.false_positive_rate_,
        "scores": {"held_out": held_out},
    }
    if check is None:
        return row
    return row | {
        "image_auroc": check["image_auroc"],
        "pixel_auroc": check["pixel_auroc"],
        "aupro": check["aupro"],
        "defects_found": check["found"]["hits"],
        "defects": check["found"]["total"],
    }


def copied(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options with dicts and lists of their own: a training changes them."""
    return {k: v.copy() if isinstance(v, (dict, list)) else v for k, v in options.items()}
