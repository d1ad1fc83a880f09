"""``fastad evaluate``: a detector on a labelled test set."""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

import fastad
from fastad.commands import UsageError
from fastad.commands.evaluate_shared import OthersError, SharedAnswers
from fastad.commands.output import (
    log,
    note,
    one_voice,
    progress,
    reason,
    refuse_overwriting,
    waiting,
    write_json,
)
from fastad.commands.parquet import check_targets, write_scores
from fastad.commands.training_summary import epochs_kept, kept_by, stage_lines
from fastad.data import Sample, describe
from fastad.data.layouts import samples_of
from fastad.detector import Detector, load
from fastad.distributed import request, this_rank
from fastad.evaluation.score_table import (
    COLUMNS,
    LABELS,
    labelled_rows,
    labels_of,
    unreadable_row,
)
from fastad.inference import p_values
from fastad.training.map_choice import choice_lines

if TYPE_CHECKING:
    from fastad.evaluation.report.report import Report


@dataclass(frozen=True)
class Measured:
    """What an evaluation came to.

    Attributes:
        metrics: those of `Detector.evaluate`.
        scored: the test images with their scores.
        detector: that gave them.
        unreadable: how many images were left out, because they or their masks cannot be read.
    """

    metrics: dict[str, Any]
    scored: list[tuple[Sample, float]]
    detector: Detector
    unreadable: int


METRICS = ("image_auroc", "image_ap", "image_f1_max", "pixel_auroc", "pixel_ap", "pixel_f1_max")


def evaluate(
    detector: str,
    data: str,
    *,
    good: list[str],
    defects: list[str],
    masks: list[str],
    json: str | None,
    csv: str | None,
    parquet: str | None = None,
    report: str | None,
    false_positive_rate: float | None,
    skip_bad: bool,
    device: str,
    precision: str,
    batch_size: int,
    tile: str | None = None,
    is_one_of_many: bool = False,
) -> Measured:
    """Measure, write what is asked for, and print a table where nothing else goes to stdout.

    Images that cannot be read are left out with ``skip_bad`` alone. They have a row in the table
    of scores that says so. Several processes share the images. One of many evaluations prints no
    table, and this process does it alone.

    Raises ValueError for a report among the test images, FileExistsError for one among files of
    others; both before any work is done.
    """
    asked_for = dict(locals())
    named = {"good": good, "defects": defects, "masks": masks}
    found = describe(data, **named)
    samples = samples_of(found)  # a folder that is none is found before the model is read
    targets = [Path(target) for target in (json, csv, parquet) if target not in (None, "-")]
    read = [Path(detector), *(path for s in samples for path in (s.path, *s.mask_paths))]
    refuse_overwriting(targets, read)
    check_targets(json=json, csv=csv, parquet=parquet)
    if unlabelled := len(found.unlabelled):
        note(f"{unlabelled} test images have no published labels and are not measured")
    if report is not None:
        from fastad.evaluation.report.report import check_report_folder

        _refuse_places(report, data, {"--json": json, "--csv": csv, "--parquet": parquet})
        check_report_folder(report)
    with one_voice(not is_one_of_many), waiting(f"loading {detector}"):
        options: dict[str, Any] = {"device": device, "precision": precision, "tile": tile}
        loaded = load(detector, batch_size=batch_size, **options)
        if false_positive_rate is not None:
            loaded.set_threshold(false_positive_rate=false_positive_rate)
    of_scores = _p_values(loaded)
    watcher = None if report is None else _watcher(loaded, of_scores)
    scored: list[tuple[Sample, float]] = []
    unreadable: dict[Path, dict[str, Any]] = {}

    def leave_out(sample: Sample, error: Exception) -> None:
        unreadable[sample.path] = unreadable_row(sample.path, reason(error)) | labels_of(sample)
        log.warning(f"not measured: {reason(error)}")

    def observe(sample: Sample, score: float, *pictures: Any) -> None:
        scored.append((sample, score))
        if watcher is not None:
            watcher.observe(sample, score, *pictures)

    shared = None if is_one_of_many else _shared(targets, report, asked_for, read)
    answers: dict[str, Any] = {} if shared is None else {"answers": shared}
    with progress("evaluating") as show, _noted() as notes:
        try:
            metrics = loaded.evaluate(
                data,
                **named,
                progress=show,
                skip=leave_out if skip_bad else None,
                observe=observe,
                **answers,
            )
        except OthersError:
            return Measured({}, [], loaded, 0)
    if not is_one_of_many and "-" not in (json, csv):
        _print(metrics, notes)
    if json is not None:
        write_json(json, metrics)
    if csv is not None or parquet is not None:
        measured, scores = [sample for sample, _ in scored], [score for _, score in scored]
        rows = labelled_rows(measured, scores, loaded.threshold_, of_scores)
        by_path = unreadable | {s.path: row for s, row in zip(measured, rows, strict=True)}
        in_order = [by_path[s.path] for s in samples if s.path in by_path]
        write_scores(csv, parquet, (*COLUMNS, *LABELS), in_order)
    if report is not None and watcher is not None:
        facts = _facts(loaded, detector, data, metrics)
        others = [text for text in notes if text not in metrics["conclusions"]]
        page = watcher.write(
            report, metrics, title=Path(data).resolve().name, facts=facts, notes=others
        )
        note(f"report: {page}")
    if unreadable:
        log.warning(
            f"{len(unreadable)} of {len(scored) + len(unreadable)} images, or their masks, cannot "
            "be read: they were not measured"
        )
    if shared is not None:
        shared.remove(targets)
    return Measured(metrics, scored, loaded, len(unreadable))


def _shared(
    targets: list[Path], report: str | None, options: dict[str, Any], read: list[Path]
) -> SharedAnswers | None:
    """What shares the images between processes; None for a process alone. Raises UsageError."""
    if this_rank().count == 1:
        return None
    files = targets if report is None else [Path(report)]
    if not files:
        named = "--report DIR, --json FILE, --csv FILE or --parquet FILE"
        raise UsageError(f"several processes need {named}")
    detector, *images = read
    return SharedAnswers(files[0], request(options, [detector], images))


def _p_values(detector: Detector) -> Callable[[np.ndarray], np.ndarray] | None:
    calibration = detector.calibration_scores_
    return functools.partial(p_values, calibration=calibration) if len(calibration) else None


def _watcher(detector: Detector, of_scores: Callable[[np.ndarray], np.ndarray] | None) -> Report:
    from fastad.evaluation.report.report import Report

    return Report(
        threshold=detector.threshold_,
        pixel_threshold=detector.pixel_threshold_,
        calibration=detector.calibration_scores_,
        false_positive_rate=detector._artifact.asked_rate,
        p_values=of_scores,
        explain=detector.explain,
        pixel_range=detector.pixel_range_,
        min_area=detector.min_area_,
        roi=detector.roi,
    )


def _refuse_places(report: str, data: str, files: dict[str, str | None]) -> None:
    if not report:
        raise ValueError("--report must name a folder; it is empty")
    target, images = Path(report).resolve(), Path(data).resolve()
    for option, file in files.items():
        if file not in (None, "-") and Path(file).resolve().is_relative_to(target):
            raise ValueError(
                f"{option} {file} is inside the report's folder {report}, which holds its files "
                "alone"
            )
    if target.is_relative_to(images):
        raise ValueError(
            f"--report {report} is inside {data}: its pictures would be taken for test images"
        )


@contextmanager
def _noted() -> Iterator[list[str]]:
    """Keep what is warned of, besides showing it."""
    notes: list[str] = []
    with warnings.catch_warnings():
        show = warnings.showwarning

        def keep(message: Warning | str, *where: Any, **more: Any) -> None:
            notes.append(str(message))
            show(message, *where, **more)

        warnings.showwarning = keep
        yield notes


def _facts(detector: Detector, file: str, data: str, metrics: dict[str, Any]) -> dict[str, str]:
    """What was trained on what and how, and what it was measured on."""
    training, counts = detector.training_record_, metrics["counts"]
    height, width = detector.image_size_
    skipped = f", {counts['skipped']} unreadable left out" if counts["skipped"] else ""
    known = counts["trained_on"]
    skipped += f", {known} left out that it was trained on" if known else ""
    trained_with = training.get("versions", {})
    predictor = detector._predictor
    return {
        "detector file": str(Path(file).resolve()),
        "model": f"{detector.model}: {_listed(vars(detector.model_.config))}",
        "image size": f"{height}x{width} (height x width)",
        "trained on": f"{training.get('data', 'images')}: {training.get('n_train')} good images",
        "supervision": metrics["supervision"],
        **_region(detector.roi),
        "held out": f"{training.get('n_validation')} good images, for epoch and thresholds",
        "epoch kept": epochs_kept(training),
        **dict(kept_by(training)),
        **dict(choice_lines(training.get("choice"))),
        **{f"stage {name}": line for name, line in stage_lines(training)},
        "training options": _listed(training.get("config", {})),
        "seed": str(training.get("seed")),
        "trained with": f"{_listed(trained_with, ' ')} on {training.get('device')} in "
        f"{training.get('precision')}, {training.get('seconds', 0.0):.0f} s",
        "notes of the training": "; ".join(training.get("notes", ())) or "none",
        "measured on": f"{Path(data).resolve()}: {counts['normal']} good images, "
        f"{counts['defect']} defective{skipped}",
        "measured with": f"fastad {fastad.__version__}, torch {torch.__version__} on "
        f"{predictor.device} in {str(predictor.dtype).removeprefix('torch.')}",
        "date": datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
    }


def _region(roi: np.ndarray | None) -> dict[str, str]:
    return {} if roi is None else {"region of interest": f"{roi.mean():.1%} of an image counts"}


def _listed(values: dict[str, Any], sign: str = "=") -> str:
    return ", ".join(f"{name}{sign}{value}" for name, value in values.items())


def _print(metrics: dict[str, Any], said: list[str]) -> None:
    """The table, after what must not be overlooked and was not ``said`` by a warning already."""
    for text in metrics["conclusions"]:
        if text not in said:
            print(f"conclusion: {text}")
    from rich.console import Console
    from rich.table import Table

    columns = [*METRICS, "aupro"]
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
    known = counts["trained_on"]
    left_out = f"; {known} defect images that it was trained on are left out" if known else ""
    console.print(f"training: {metrics['supervision']}{left_out}")
    if chosen := metrics.get("at_threshold"):
        console.print(
            f"at the threshold {chosen['threshold']:.4g}: "
            f"{_share(chosen['true_positive_rate'])} of the defects found, "
            f"{_share(chosen['false_positive_rate'])} false alarms"
        )
    console.print("F1 max picks its threshold on the test labels: an upper bound")


def _share(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.1%}"
