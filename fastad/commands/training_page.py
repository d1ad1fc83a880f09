"""The page of ``fastad train --report``: `training_page.html` filled, with its pictures inside."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import fastad
from fastad._files import check_folder, claim_folder
from fastad._html import embedded, template
from fastad.commands.check_page import Examples, side_by_side, tried_values
from fastad.commands.output import check_writable, progress, write_text
from fastad.commands.threshold import false_alarms
from fastad.data import ImageDataset, TrainingImages, read_image
from fastad.data.sizes import resize_in_words
from fastad.data.training_set import file_digests
from fastad.detector import Detector
from fastad.evaluation import CheckResult, Tried
from fastad.evaluation.report.plots import epochs_plot, score_plot
from fastad.inference import colour_scale, overlay
from fastad.inference.artifact import INPUT_COLUMNS, Artifact
from fastad.inference.candidates import in_words
from fastad.inference.fitting import tried
from fastad.training.progress import spoken

WRITER, MANIFEST, PAGE = "fastad train --report", "fastad-training.json", "index.html"
HIGHEST = 8  # good images that are shown
# Statistics of `fastad.data.appearance`: how they are written, whether they are logarithms, and
# what they are.
INPUTS = {
    "brightness": ("%.3f", False, "mean grey level, 1 is white"),
    "contrast": ("%.3f", False, "deviation of the grey levels, as a share of white"),
    "sharpness": ("%.3f", True, "mean step between neighbouring pixels, over the contrast"),
    "colour": ("%.3f", False, "mean difference between the channels, as a share of white"),
    "range": ("%.3f", False, "span of the grey levels but the darkest and brightest 2 %"),
    "log_aspect": ("%.2f", True, "width by height, as read"),
}


def prepare_report(folder: str, output: str) -> None:
    """Find out before a long training whether its page can be written; the folder is made.

    Raises ValueError where the folder has no name or the detector is to be in its place,
    FileExistsError where files of others are in the way, OSError where it cannot be written.
    """
    if not folder:
        raise ValueError("--report must name a folder; it is empty")
    own = [Path(folder), *(Path(folder, name) for name in (MANIFEST, PAGE))]
    if Path(output).resolve() in [path.resolve() for path in own]:
        raise ValueError(f"--output {output} and --report {folder} are in each other's place")
    if os.path.lexists(folder) and not os.path.isdir(folder):
        raise NotADirectoryError(f"--report {folder} is no folder")
    check_folder(folder, WRITER, [MANIFEST, PAGE])
    Path(folder).mkdir(parents=True, exist_ok=True)
    check_writable(str(Path(folder, PAGE)))


def write_report(folder: str, detector: Detector, found: TrainingImages, title: str) -> Path:
    """Write the page of a training, and return its path.

    The synthesised defects are tried once more, to show them: with the same numbers.

    Args:
        folder: as of `prepare_report`.
        detector: that was trained.
        found: what it was trained on. Files that could not be read may be among it.
        title: of the page.
    """
    training, artifact = detector.training_record_, detector._artifact
    paths = _held_out(training, [*found.paths, *found.held_out])
    scale = colour_scale(detector.pixel_threshold_ or 0.0)
    result: CheckResult | None = None
    of_defects, values = np.empty(0), dict[str, Any]()
    if training["self_check"] is not None:
        result, of_defects, values = _tried(detector, paths)
    has_scores = detector.threshold_ is not None
    histogram = (
        score_plot(
            np.empty(0),
            of_defects,
            artifact.calibration,
            detector.threshold_,
            defects="held-out images with synthesised defects",
        )
        if has_scores
        else None
    )
    height, width = detector.image_size_
    resize = resize_in_words([*found.paths, *found.held_out], detector.image_size_)
    rows = training.get("candidates", ())
    text = template("fastad.commands", "training_page.html").render(
        {"result": result} | values,
        title=title,
        next_step=training["next_step"],
        notes=training["notes"],
        model=detector.model_.name,
        n_train=training["n_train"],
        n_held_out=len(paths),
        seconds=spoken(training["seconds"]),
        stages=[_stage(stage) for stage in training["stages"]],
        has_qualities=any(stage["qualities"] for stage in training["stages"]),
        candidates=[{**row, "time": spoken(row["seconds"])} for row in rows],
        compared=_sentence(in_words(rows)) if rows else "",
        score_plot=None if histogram is None else embedded("svg+xml", histogram),
        threshold=detector.threshold_,
        promise=false_alarms(artifact) if has_scores else "",
        highest=_highest(detector, paths, scale) if has_scores else [],
        sizes=resize or f"images are {height}x{width} (height x width), and are not resized",
        inputs=_inputs(artifact),
        version=fastad.__version__,
        seed=training["seed"],
    )
    page = Path(folder, PAGE)
    claim_folder(folder, WRITER, [MANIFEST, PAGE], PAGE)
    write_text(str(page), text)
    return page


def _held_out(training: Mapping[str, Any], paths: Sequence[Path]) -> list[Path]:
    """The files of the held-out images, in the order of their scores; known by their content."""
    by_digest = dict(zip(file_digests(paths), paths, strict=True))
    digests = training["image_digests"]
    return [by_digest[digests[index]] for index in training["held_out"]]


def _tried(
    detector: Detector, paths: Sequence[Path]
) -> tuple[CheckResult, np.ndarray, dict[str, Any]]:
    """The self-check again: its result, the scores of the defects, and what the page shows."""
    examples, scores = Examples(), []

    def observe(one: Tried) -> None:
        scores.append(one.score)
        examples.observe(one)

    images = ImageDataset(
        list(paths), detector.image_size_, in_memory=False, pixel_range=detector.pixel_range_
    )
    with progress("report") as show:
        result = tried(
            detector._predictor, detector._artifact, images, range(len(paths)), show, observe
        )
    return result, np.array(scores), tried_values(result, examples, detector.pixel_threshold_)


def _highest(detector: Detector, paths: Sequence[Path], scale: float) -> list[dict[str, Any]]:
    """The held-out images with the highest scores, the highest first."""
    order = np.argsort(-detector.calibration_scores_, kind="stable")[:HIGHEST]
    shown = []
    chosen = [paths[i] for i in order]
    for path, found in zip(chosen, detector.predict(chosen), strict=True):
        image = read_image(path, detector.pixel_range_).permute(1, 2, 0).numpy()
        shown.append(
            {
                "name": path.name,
                "score": found.score,
                "p_value": found.p_value,
                "picture": side_by_side(image, overlay(image, found.anomaly_map, scale)),
            }
        )
    return shown


def _stage(stage: Mapping[str, Any]) -> dict[str, Any]:
    """A stage of the training, with its time in words and its plot, where it has several epochs."""
    plot = None
    if stage["epochs"] > 1:
        curves = stage["losses"], stage["validation_scores"], stage["qualities"]
        plot = embedded("svg+xml", epochs_plot(*curves, stage["best_epoch"]))
    return {**stage, "time": spoken(stage["seconds"]), "plot": plot}


def _inputs(artifact: Artifact) -> list[dict[str, Any]]:
    """Lowest, median and highest of each statistic of the held-out images; none is unknown."""
    rows = []
    for column, name in zip(artifact.inputs.T, INPUT_COLUMNS, strict=True):
        if len(column) == 0 or np.isnan(column).any():
            continue
        form, is_log, meaning = INPUTS[name]
        values = [float(function(column)) for function in (np.min, np.median, np.max)]
        rows.append(
            {
                "name": name.removeprefix("log_"),
                "form": form,
                "values": np.exp(values).tolist() if is_log else values,
                "meaning": meaning,
            }
        )
    return rows


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]
