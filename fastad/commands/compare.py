"""``fastad compare``: which model suits a product, judged by synthesised defects."""

import hashlib
import json as json_format
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

import fastad
from fastad import models
from fastad._files import check_folder
from fastad.backbones import WeightsNotFoundError
from fastad.commands import UsageError
from fastad.commands.comparison import show
from fastad.commands.output import check_result_target, log, note, progress, write_json
from fastad.commands.time_budget import default_epochs, fit_within
from fastad.commands.timing import interleaved
from fastad.data import DataDescription, Sample, TrainingImages, describe, read_image
from fastad.data.layouts import samples_of
from fastad.data.training_set import file_digests
from fastad.detector import Detector, load
from fastad.training import TrainingDivergedError, resolve_device
from fastad.training.batches import split_indices

# Those that learn from good images alone and are quick; the quickest first, as far as they are
# registered: with a time budget what they leave goes to the others.
USUAL = ("subspace", "patchcore", "stpm", "rstpm")
WRITER, MANIFEST = "fastad compare", "fastad-compare.json"
JUDGED = 0.2  # of the good images: kept from all trainings, to judge by
LEAST = 10  # good images
TIMED = 1.0  # seconds in which a model's time for an image is measured


@dataclass(frozen=True)
class Split:
    """What all candidates have in common.

    Attributes:
        training: what they are trained on; they hold out a part of it themselves.
        judged: good images that none of them sees before it is judged.
        real: labelled test images, but for those in ``training``; empty without real defects.
        digest: of the content of the good images.
    """

    training: TrainingImages
    judged: list[Path]
    real: list[Sample]
    digest: str


def compare(
    data: str,
    *,
    names: list[str],
    good: list[str],
    masks: list[str],
    output: str,
    json: str | None,
    minutes: float | None,
    epochs: int | None,
    count: int,
    teacher_weights: str,
    detector_options: dict[str, Any],
) -> None:
    """Train the candidates, judge them, print a table; detectors and numbers stay in ``output``.

    A detector that is there already, of the same options and images, is not trained again.

    Raises UsageError for an unknown model, ValueError for too few images, FileExistsError where
    files of others are in the way; all before any work is done. RuntimeError after Ctrl-C.
    """
    names = list(dict.fromkeys(names)) or [name for name in USUAL if name in models.MODELS]
    _check_names(names)
    resolve_device(detector_options["device"])
    split = split_images(describe(data, good=good, masks=masks), detector_options["seed"])
    if json not in (None, "-"):
        check_result_target(json)
    folder = Path(output)
    check_folder(folder, WRITER, [MANIFEST, *(f"{name}.fastad" for name in names)])
    folder.mkdir(parents=True, exist_ok=True)
    note(
        f"{len(split.training.paths)} good images to train on, {len(split.judged)} to judge by: "
        f"{', '.join(names)}"
    )
    rows = _known_rows(folder)
    _write(folder, rows, names)  # a detector that is saved and not yet judged is ours, too
    detectors: dict[str, Detector] = {}
    spent = 0.0
    for position, name in enumerate(names):
        asked = _asked(name, split, epochs, detector_options, teacher_weights)
        file = folder / f"{name}.fastad"
        detector = _kept(rows.get(name), asked, minutes, file, detector_options)
        if detector is None:
            seconds = None if minutes is None else (60 * minutes - spent) / (len(names) - position)
            note(f"{name}, {position + 1} of {len(names)}: training")
            start = time.monotonic()
            detector = _trained(name, asked, split, seconds, folder)
            took = time.monotonic() - start
            spent += took
            if detector is None:
                continue
            detector.save(file)
            rows[name] = _row(detector, name, asked, file, took, minutes)
        rows[name] |= _judged(detector, split, count, detector_options["seed"])
        _write(folder, rows, names)
        detectors[name] = detector
    if not detectors:
        raise RuntimeError("no model was trained: the warnings above say why")
    for name, milliseconds in _times(detectors, split).items():
        rows[name]["milliseconds_per_image"] = milliseconds
    _write(folder, rows, names)
    shown = [rows[name] for name in detectors]
    if json is not None:
        write_json(json, shown)
    if json != "-":
        show(shown, len(split.judged), len(split.training.paths))
    note(f"detectors and numbers: {folder}")


def split_images(found: DataDescription, seed: int) -> Split:
    """A fifth of the good images to judge by, by ``seed``; copies of others are no such images.

    Raises ValueError for too few images, and where it is unclear which are good.
    """
    if found.cannot_train is not None:
        raise found.cannot_train
    paths, apart = ([f.path for f in files] for files in (found.training, found.held_out))
    if len(paths) < LEAST:
        raise ValueError(
            f"{found.folder}: to compare takes at least {LEAST} good images, a fifth of which "
            f"judges; there are {len(paths)}"
        )
    rest, chosen = split_indices(len(paths), JUDGED, seed)
    digests, of_apart = file_digests(paths), file_digests(apart)
    seen = {digests[i] for i in rest.tolist()} | set(of_apart)
    judged = [paths[i] for i in chosen.tolist() if digests[i] not in seen]
    if not judged:
        raise ValueError(f"{found.folder}: the good images are copies of a few")
    training = [paths[i] for i in rest.tolist()]
    trained = {*training, *apart}
    samples = samples_of(found) if found.cannot_evaluate is None else []
    real = [sample for sample in samples if sample.label or sample.path not in trained]
    digest = hashlib.sha256(" ".join([*digests, "", *of_apart]).encode()).hexdigest()
    return Split(
        TrainingImages(training, apart, found.layout, found.folder.resolve().name),
        judged,
        real if any(sample.label for sample in real) else [],
        digest,
    )


def _check_names(names: Sequence[str]) -> None:
    for name in names:
        try:
            models.model_class(name)
        except ValueError as error:
            raise UsageError(f"--models: {error}") from None


def _asked(
    name: str,
    split: Split,
    epochs: int | None,
    detector_options: dict[str, Any],
    teacher_weights: str,
) -> dict[str, Any]:
    """What decides a candidate's detector, for `Detector` and its `Detector.fit`, as in JSON."""
    known = {field.name for field in fields(models.model_class(name).Config)}
    own = {"teacher_weights": teacher_weights} if "teacher_weights" in known else {}
    usual = default_epochs(name, **own)
    return {
        "version": fastad.__version__,
        "images": split.digest,
        "options": detector_options | own,
        "epochs": usual if usual is None or epochs is None else epochs,
    }


def _trained(
    name: str, asked: dict[str, Any], split: Split, seconds: float | None, folder: Path
) -> Detector | None:
    """A trained candidate; None where it is left out, which a warning then says."""
    if seconds is not None and seconds <= 0:
        log.warning(f"{name} is left out: no time is left")
        return None
    try:
        detector = fit_within(
            lambda: Detector(name, **asked["options"]), split.training, asked["epochs"], seconds
        )
    except (TrainingDivergedError, WeightsNotFoundError) as error:
        log.warning(f"{name} is left out: {error}")
        return None
    except KeyboardInterrupt as error:
        raise _stopped(folder) from error
    if detector.training_record_["interrupted"]:
        raise _stopped(folder)
    return detector


def _stopped(folder: Path) -> RuntimeError:
    return RuntimeError(
        f"stopped by the user: the same command keeps what is done in {folder} and goes on"
    )


def _kept(
    row: dict[str, Any] | None,
    asked: dict[str, Any],
    minutes: float | None,
    file: Path,
    detector_options: dict[str, Any],
) -> Detector | None:
    """The detector of an earlier run, if it is what is asked for now."""
    if row is None or row["asked"] != asked or not file.is_file():
        return None
    is_short = row["epochs"] != asked["epochs"]
    if (is_short and row["minutes"] != minutes) or file_digests([file]) != [row["file_digest"]]:
        return None
    note(f"{row['model']}: {file} is kept")
    return load(file, device=detector_options["device"], precision=detector_options["precision"])


def _row(
    detector: Detector,
    name: str,
    asked: dict[str, Any],
    file: Path,
    seconds: float,
    minutes: float | None,
) -> dict[str, Any]:
    [digest] = file_digests([file])
    stages = detector.training_record_["stages"]
    has_epochs = asked["epochs"] is not None and stages
    return {
        "model": name,
        "file": file.name,
        "file_digest": digest,
        "file_bytes": file.stat().st_size,
        "asked": asked,
        "minutes": minutes,
        "epochs": stages[0]["config"]["epochs"] if has_epochs else None,
        "training_seconds": seconds,
    }


def _judged(detector: Detector, split: Split, count: int, seed: int) -> dict[str, Any]:
    """What is found of synthesised defects, and of real ones where there are any."""
    with progress(f"judging {detector.model}") as shown:
        tried = detector.check(split.judged, count=count, seed=seed, progress=shown)
    real = None
    if split.real:
        with progress(f"testing {detector.model}") as shown:
            real = detector._measured(split.real, progress=shown)
    return {"synthesised": tried.to_dict(), "real": real}


def _times(detectors: dict[str, Detector], split: Split) -> dict[str, float]:
    """Median milliseconds for one image of each detector, measured in turns."""
    first = next(iter(detectors.values()))
    image = np.asarray(read_image(split.judged[0], first.pixel_range_).permute(1, 2, 0))

    def run(detector: Detector) -> Any:
        return lambda: detector.predict(image)

    runs = {name: run(detector) for name, detector in detectors.items()}
    times = interleaved(runs, resolve_device(first.device), TIMED * len(runs))
    return {name: float(np.median(own)) for name, own in times.items()}


def _known_rows(folder: Path) -> dict[str, dict[str, Any]]:
    """What an earlier run left; empty where there is none."""
    with suppress(FileNotFoundError, ValueError, LookupError, TypeError):
        content = json_format.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return dict(content["candidates"])
    return {}


def _write(folder: Path, rows: dict[str, dict[str, Any]], names: Sequence[str]) -> None:
    files = [MANIFEST, *(f"{name}.fastad" for name in dict.fromkeys([*rows, *names]))]
    content = {"written_by": WRITER, "files": files, "candidates": rows}
    write_json(str(folder / MANIFEST), content)
