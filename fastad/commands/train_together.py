"""``fastad train --together``: one student for all products below a folder, a detector of each."""

import json
import logging
from contextlib import suppress
from pathlib import Path
from typing import Any

import fastad
from fastad import inference
from fastad.commands import StoppedError, UsageError
from fastad.commands.each import Each, Row, digest_of
from fastad.commands.output import log, note, one_voice, write_json
from fastad.commands.train import check_options, train
from fastad.commands.train_each import OF_ONE, copied, numbers, refuse_options_of_one
from fastad.data import Product, TrainingImages, training_images
from fastad.distributed import meet, part, this_rank
from fastad.inference.advice import with_path
from fastad.inference.per_product import fit_product, held_out_of, require_shareable
from fastad.inference.starting import Start
from fastad.training import ConsoleProgress, TrainingConfig

WRITER, MANIFEST = "fastad train --together", "fastad-together.json"
# Of the student, in the folder of the detectors. Hidden, so that no product has its name.
FOLDER, STUDENT, ASKED = ".together", "student.fastad", "student.json"
NO_USE = ("report", "tile")  # pages and tiles are of a training of one product


def train_together(root: str, *, output: str, **options: Any) -> None:
    """Train one student on the good images of every product below ``root``, and calibrate it for
    each.

    ``output`` is a folder as of `train_each`: NAME.fastad for each product, with the same networks.
    The student lies in a hidden folder there. It is trained by all processes together, and kept
    where images, options and version are the same. Each process then calibrates some products.

    Raises:
        UsageError: an option of one product alone, a wrong one, or a model that cannot; before any
            image is read.
        ValueError: a product has too few images.
        RuntimeError: a product failed; once all others are done.
    """
    refuse_options_of_one("--together", output, options)
    for name in NO_USE:
        if options[name] is not None:
            raise UsageError(f"--together has no --{name}: take --each")
    detector, training = check_options(options)
    try:
        require_shareable(detector.model)
    except ValueError as error:
        raise UsageError(f"--together: {error}") from error
    each = Each(root, output, WRITER, MANIFEST, (".fastad",))
    config = TrainingConfig.for_model(fastad.models.model_class(detector.model), **training)
    found = {
        product.name: _split(product, config.validation_fraction, detector.seed, options)
        for product in each.products
    }
    of_all = TrainingImages(
        [path for own in found.values() for path in own.paths],
        [path for own in found.values() for path in own.held_out],
        f"{len(found)} products together",
        Path(root).resolve().name,
    )
    student = _student(root, Path(output, FOLDER), of_all, options)
    digest, start = digest_of([student]), Start.read(student)

    def file_of(product: Product) -> Path:
        return Path(output, f"{product.name}.fastad")

    def asked(product: Product) -> dict[str, Any]:
        own = found[product.name]
        images = digest_of([*own.paths, *own.held_out])
        return {"version": fastad.__version__, "student": digest, "images": images}

    def work(product: Product, goes_on: bool) -> Row:
        with ConsoleProgress() as listener:
            artifact, _ = fit_product(
                start,
                found[product.name],
                device=str(detector.device),
                precision=detector.precision,
                skip_bad=options["skip_bad"],
                rate=start.artifact.false_positive_rate,
                batch_size=detector.batch_size,
                progress=listener if log.isEnabledFor(logging.INFO) else None,
            )
        step = with_path(artifact.training["next_step"], str(product.folder))
        artifact.training["next_step"] = step
        inference.save(file_of(product), artifact)
        return numbers(fastad.load(file_of(product)))

    rows = each.run(asked, work, file_of)
    each.finish(
        rows,
        f"Detectors of {Path(root).resolve().name}, with one student",
        judged_by="synthesised defects on good images that were held out",
    )


def _split(product: Product, share: float, seed: int, options: dict[str, Any]) -> TrainingImages:
    """The good images of a product, with those to hold out."""
    found = training_images(product.folder, good=options["good"], masks=options["masks"])
    if found.held_out:
        return found
    try:
        held_out = held_out_of(len(found.paths), share, seed)
    except ValueError as error:
        raise ValueError(f"{product.folder}: {error}") from None
    apart = [path for i, path in enumerate(found.paths) if i in held_out]
    rest = [path for i, path in enumerate(found.paths) if i not in held_out]
    return TrainingImages(rest, apart, found.layout, found.name)


def _student(root: str, folder: Path, images: TrainingImages, options: dict[str, Any]) -> Path:
    """The file of the student, trained now, to its end, or before."""
    folder.mkdir(exist_ok=True)
    file, record = folder / STUDENT, folder / ASKED
    checkpoint = Path(f"{file}.checkpoint")
    roi = options["roi"]
    asked = {
        "version": fastad.__version__,
        "images": digest_of(images.paths),
        "held_out": digest_of(images.held_out),
        "roi": None if roi is None else digest_of([Path(roi)]),
        "options": {k: v for k, v in options.items() if k not in (*OF_ONE, "named")},
    }
    asked = json.loads(json.dumps(asked))
    before: dict[str, Any] = {}
    with suppress(FileNotFoundError, ValueError):
        before = json.loads(record.read_text(encoding="utf-8"))
    goes_on = before.get("asked") == asked
    is_shared = this_rank().count > 1
    if goes_on and file.is_file() and before.get("digest") == digest_of([file]):
        note("the student: kept")
        return file
    if is_shared:
        meet()  # all have seen the same
    if not goes_on:
        checkpoint.unlink(missing_ok=True)  # of other images or options
    if this_rank().is_first:
        write_json(str(record), {"asked": asked, "digest": None})
    own = copied(options) | {"resume": goes_on and checkpoint.is_file(), "force": True}
    try:
        with one_voice():
            train(root, output=str(file), found=images, **own)
    except StoppedError as error:
        raise StoppedError("stopped by the user: the same command goes on") from error
    if this_rank().is_first:
        write_json(str(record), {"asked": asked, "digest": digest_of([file])})
    if is_shared:
        meet()
        part()  # from here on each process works alone
    return file
