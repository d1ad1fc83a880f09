"""The page of a report: `page.html` filled with numbers, plots and pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import fastad
from fastad._html import embedded, template
from fastad.evaluation.report import curves, numbers
from fastad.evaluation.report.gallery import Group
from fastad.evaluation.report.pictures import colour_bar
from fastad.evaluation.report.plots import Line, curve_plot, score_plot

PRO_LIMIT = 0.3  # false positive rate up to which AUPRO integrates
NARROW = 4.4  # inches of the plot of scores on a telephone
TAIL = 14  # characters of a name that are never cut off


@dataclass(frozen=True)
class Zoom:
    """A part of an image of a gallery, in its full resolution.

    Attributes:
        image: the file, relative to the page.
        size: (height, width) of it.
        outlines, drawing: as of `Figure`.
        place: of it in the image, in words.
    """

    image: str
    size: tuple[int, int]
    outlines: Mapping[str, str]
    drawing: tuple[int, int]
    place: str


@dataclass(frozen=True)
class Figure:
    """One image of a gallery.

    Attributes:
        number: its place in the report, from 1.
        image, anomaly_map: the files, relative to the page.
        size: (height, width) of both.
        explanations: the files of what the model shows of the image, by name.
        outlines: of what is "outside" a region of interest, of what is "predicted" and of the
            "truth", as SVG path data; without empty ones.
        drawing: (height, width) of the outlines.
        has_truth: whether there is a ground truth at all.
        score: of the image.
        regions: what is above the pixel threshold, in words.
        name: of its file, below the folder of all test images.
        zooms: of a large image the places that are worth a look.
    """

    number: int
    image: str
    anomaly_map: str
    size: tuple[int, int]
    explanations: Mapping[str, str]
    outlines: Mapping[str, str]
    drawing: tuple[int, int]
    has_truth: bool
    score: float
    regions: str
    name: str
    zooms: Sequence[Zoom] = ()


@dataclass(frozen=True)
class Findings:
    """What a page tells: the metrics of `fastad.evaluation.evaluate`, and what stands behind them.

    Attributes:
        labels, scores, types: (N,) of the test images.
        pixels: normal pixels, defect pixels and overlap by map value; see `PixelHistogram.totals`.
        scale: map value of the brightest colour.
        roi_share: the share of an image that its region of interest takes; None without one.
        galleries: the groups of images, and their figures.
        The others are those of `Report` and `Report.write`.
    """

    title: str
    metrics: Mapping[str, Any]
    labels: np.ndarray
    scores: np.ndarray
    types: list[str]
    pixels: tuple[np.ndarray, np.ndarray, np.ndarray]
    threshold: float | None
    pixel_threshold: float | None
    calibration: np.ndarray
    false_positive_rate: float | None
    scale: float
    roi_share: float | None
    galleries: list[tuple[Group, list[Figure]]]
    facts: Mapping[str, str]
    notes: Sequence[str]


def page(findings: Findings) -> str:
    """The whole page; files are named relative to it."""
    f = findings
    by_class = f.scores[f.labels == 0], f.scores[f.labels == 1]
    decisions = numbers.decisions(
        f.labels, f.scores, f.calibration, f.threshold, f.false_positive_rate
    )
    return template("fastad.evaluation.report", "page.html").render(
        vars(f),
        decisions=decisions,
        rows=numbers.defect_rows(f.metrics, f.labels, f.scores, f.types, f.threshold),
        image_auroc_interval=numbers.image_auroc_interval(f.metrics),
        score_plot=embedded("svg+xml", score_plot(*by_class, f.calibration, f.threshold)),
        narrow_score_plot=embedded(
            "svg+xml", score_plot(*by_class, f.calibration, f.threshold, width=NARROW)
        ),
        curve_plots=_curves(f, decisions),
        colour_bar=embedded("png", colour_bar()),
        TAIL=TAIL,
        last=sum(len(figures) for _, figures in f.galleries),
        version=fastad.__version__,
        number=numbers.number,
        percent=numbers.percent,
    )


def _curves(f: Findings, decisions: numbers.Decisions | None) -> dict[str, str]:
    """The plots by their names. A curve is left out where one of its two classes is missing."""
    of_images = curves.image_counts(f.labels, f.scores)
    normal, defect, overlap = f.pixels
    rates = point = None  # where the threshold is on the curves of images
    if decisions is not None and decisions.found.total and decisions.alarms.total:
        found, alarms = decisions.found, decisions.alarms
        rates = alarms.rate, found.rate
        if found.hits + alarms.hits:
            point = found.rate, found.hits / (found.hits + alarms.hits)
    roc = [
        _line(f, "image AUROC", "image_auroc", curves.roc(*of_images), rates),
        _line(f, "pixel AUROC", "pixel_auroc", curves.roc(normal, defect)),
    ]
    recall = [
        _line(f, "image AP", "image_ap", curves.precision_recall(*of_images), point),
        _line(f, "pixel AP", "pixel_ap", curves.precision_recall(normal, defect)),
    ]
    pro = [_line(f, "AUPRO", "aupro", curves.roc(normal, overlap))]
    fpr, steps = "false positive rate", {"steps": True, "legend": "lower left"}
    plots: list[tuple[str, str, str, list[Line | None], dict[str, Any]]] = [
        ("ROC", fpr, "true positive rate", roc, {}),
        ("Precision and recall", "recall", "precision", recall, steps),
        ("Region overlap (PRO)", f"{fpr} of pixels", "mean overlap", pro, {"x_limit": PRO_LIMIT}),
    ]
    return {
        name: embedded("svg+xml", curve_plot(name, x, y, drawn, **options))
        for name, x, y, lines, options in plots
        if (drawn := [line for line in lines if line is not None])
    }


def _line(
    f: Findings,
    name: str,
    key: str,
    curve: curves.Curve | None,
    point: tuple[float, float] | None = None,
) -> Line | None:
    if curve is None:
        return None
    named = f"{name} {numbers.number(f.metrics[key])}"
    return Line(named, curve, not name.startswith("image"), point)
