"""The page of a report: HTML with its style inside, readable without a script."""

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import fastad
from fastad.evaluation.report import curves
from fastad.evaluation.report.figures import Figure, gallery, group_id, plain
from fastad.evaluation.report.gallery import Group
from fastad.evaluation.report.numbers import defect_table, number, threshold_table, verdict
from fastad.evaluation.report.pictures import colour_bar
from fastad.evaluation.report.plots import Line, curve_plot, score_plot
from fastad.evaluation.report.style import SCRIPT, STYLE

PRO_LIMIT = 0.3  # false positive rate up to which AUPRO integrates


@dataclass(frozen=True)
class Findings:
    """What a page tells: the metrics of `fastad.evaluation.evaluate`, and what stands behind them.

    Attributes:
        labels, scores, types: (N,) of the test images.
        pixels: normal pixels, defect pixels and overlap by map value; see `PixelHistogram.totals`.
        scale: map value of the brightest colour.
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
    galleries: list[tuple[Group, list[Figure]]]
    facts: Mapping[str, str]
    notes: Sequence[str]


def page(findings: Findings) -> str:
    """The whole page; files are named relative to it."""
    f = findings
    title = plain(f.title)
    notes = "".join(f'<p class="note">{plain(note)}</p>' for note in f.notes)
    scores = score_plot(*_by_class(f), f.calibration, f.threshold)
    last = sum(len(figures) for _, figures in f.galleries)
    shown = "".join(
        gallery(group, figures, f.threshold, f.scale, last) for group, figures in f.galleries
    )
    facts = "".join(
        f"<tr><th scope='row'>{plain(name)}</th><td>{plain(value)}</td></tr>"
        for name, value in f.facts.items()
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}: evaluation report</title>
<link rel="icon" href="data:,">
<style>{STYLE}</style>
</head>
<body>
<header>
<p class="eyebrow">Evaluation report</p>
<h1>{title}</h1>
{verdict(f.metrics, f.labels, f.scores, f.calibration, f.threshold)}
{notes}
<nav>{_links(f)}</nav>
</header>
<main>
<section id="scores">
<h2>Scores and threshold</h2>
<div class="beside">
<div class="scroll">{_picture(scores, "histograms of image scores")}</div>
<div>{threshold_table(f.labels, f.scores, f.calibration, f.threshold, f.false_positive_rate)}</div>
</div>
</section>
<section id="curves">
<h2>Curves</h2>
{_curves(f)}
</section>
<section id="types">
<h2>Defect types</h2>
<div class="scroll types">{defect_table(f.metrics, f.labels, f.scores, f.types, f.threshold)}</div>
<p class="foot">The scores of a row are those of its images against all good ones. F1 max is an
oracle: it picks its threshold on the labels of these test images, and bounds from above what a
threshold chosen without them can reach.{_exactness(f.metrics)}</p>
</section>
<section id="images">
<h2>Images</h2>
{_legend(f)}
{shown}
</section>
<section id="origin">
<h2>How it was made</h2>
<table class="facts"><tbody>{facts}</tbody></table>
<p class="foot">The test images chose nothing: weights, epoch and thresholds come from good images
that are not among them, unless a note above says otherwise. Only F1 max looks at their labels, and
is an oracle. Scores of every image: <a href="scores.csv">scores.csv</a>.
Written by fastad {plain(fastad.__version__)}.</p>
</section>
</main>
<script>{SCRIPT}</script>
</body>
</html>
"""


def _links(f: Findings) -> str:
    links = [("scores", "Scores"), ("curves", "Curves"), ("types", "Defect types")]
    for group, _ in f.galleries:
        name = {"missed": "Missed", "false alarm": "False alarms"}.get(group.kind, group.name)
        links.append((group_id(group), f"{name} ({group.total})"))
    links.append(("origin", "How it was made"))
    return "".join(f'<a href="#{target}">{plain(name)}</a>' for target, name in links)


def _by_class(f: Findings) -> tuple[np.ndarray, np.ndarray]:
    return f.scores[f.labels == 0], f.scores[f.labels == 1]


def _curves(f: Findings) -> str:
    of_images = curves.image_counts(f.labels, f.scores)
    normal, defect, overlap = f.pixels
    rates = _rates(f)
    roc = [
        _line(f, "image AUROC", "image_auroc", curves.roc(*of_images), rates),
        _line(f, "pixel AUROC", "pixel_auroc", curves.roc(normal, defect)),
    ]
    point = None
    if rates is not None:
        called = f.scores > f.threshold
        if called.any():
            point = rates[1], float(f.labels[called].mean())
    recall = [
        _line(f, "image AP", "image_ap", curves.precision_recall(*of_images), point),
        _line(f, "pixel AP", "pixel_ap", curves.precision_recall(normal, defect)),
    ]
    pro = [_line(f, "AUPRO", "aupro", curves.roc(normal, overlap))]
    fpr = "false positive rate"
    plots = [
        ("ROC", fpr, "true positive rate", roc, {}),
        ("Precision and recall", "recall", "precision", recall, {"steps": True}),
        ("Region overlap (PRO)", f"{fpr} of pixels", "mean overlap", pro, {"x_limit": PRO_LIMIT}),
    ]
    pictures = []
    for name, x, y, lines, options in plots:
        if drawn := [line for line in lines if line is not None]:
            if name.startswith("Prec"):
                options = options | {"legend": "lower left"}
            pictures.append(_picture(curve_plot(name, x, y, drawn, **options), f"{name} curve"))
    if not pictures:
        return '<p class="remark">There are none without both good and defective test images.</p>'
    return f'<div class="plots">{"".join(pictures)}</div>'


def _rates(f: Findings) -> tuple[float, float] | None:
    """False and true positive rate at the threshold; None without one, or without a class."""
    normal, defective = _by_class(f)
    if f.threshold is None or not len(normal) or not len(defective):
        return None
    return float((normal > f.threshold).mean()), float((defective > f.threshold).mean())


def _line(
    f: Findings,
    name: str,
    key: str,
    curve: curves.Curve | None,
    point: tuple[float, float] | None = None,
) -> Line | None:
    if curve is None:
        return None
    return Line(f"{name} {number(f.metrics[key])}", curve, not name.startswith("image"), point)


def _legend(f: Findings) -> str:
    bar = base64.b64encode(colour_bar()).decode()
    ticks = f"<span>0</span><span>{f.scale / 2:.3g}</span><span>≥ {f.scale:.3g}</span>"
    if f.pixel_threshold is None or f.scale != 2.0 * f.pixel_threshold:
        begins = "The top of the scale is the highest value of all test images."
    else:
        begins = "The middle of the scale is the pixel threshold, where the predicted mask begins."
    lines = "".join(
        f'<svg viewBox="0 0 32 9" aria-hidden="true"><path d="M1 4.5H31" class="seam"/>'
        f'<path d="M1 4.5H31" class="{kind}"/></svg><span>{text}</span>'
        for kind, text in (("truth", "ground truth"), ("predicted", "predicted mask"))
    )
    return f"""<p class="remark">Each shows the image, its anomaly map, and the image with both
outlines. A click enlarges; the arrow keys lead on, Escape leads back.</p>
<div class="legend"><div class="bar"><img src="data:image/png;base64,{bar}" alt="colour scale">
<span>{ticks}</span></div><div class="lines">{lines}</div></div>
<p class="remark">One colour scale for all maps of this report. {begins}</p>"""


def _exactness(metrics: Mapping[str, Any]) -> str:
    if metrics["pixel_metrics"]["exact"]:
        return " All scores are exact: every distinct value is a threshold."
    bounds = metrics["pixel_metrics"]["error_bound"].values()
    worst = max((bound for bound in bounds if not math.isnan(bound)), default=0.0)
    return f" The pixel scores come from histograms, and are within {worst:.1g} of the exact ones."


def _picture(svg: bytes, alternative: str) -> str:
    # As a picture of its own, its names cannot clash with the page's.
    data = base64.b64encode(svg).decode()
    return f'<img src="data:image/svg+xml;base64,{data}" alt="{alternative}">'
