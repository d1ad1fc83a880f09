"""The page that ``fastad demo`` writes: HTML with pictures beside it, no scripts, no network."""

import math
from dataclasses import dataclass
from html import escape
from typing import Any
from urllib.parse import quote

import fastad
from fastad.commands.training_summary import epochs_kept

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1b1f24; background: #fff;
       max-width: 76rem; margin: 2rem auto; padding: 0 1rem; }
h1, h2, h3 { line-height: 1.25; } h2 { margin-top: 3rem; border-bottom: 1px solid #c9ced6; }
h3 { font-size: 1.05rem; margin: 1.8rem 0 .4rem; }
.warning { border: 2px solid #9a6700; background: #fff8e6; padding: .6rem 1rem; font-weight: 600; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; text-align: right; border-bottom: 1px solid #dfe3e8; }
th:first-child, td:first-child { text-align: left; }
thead th { vertical-align: bottom; border-bottom: 2px solid #1b1f24; font-weight: 600; }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(20rem, 1fr));
            gap: .9rem 1.2rem; }
figure { margin: 0; break-inside: avoid; } img { width: 100%; display: block; }
figcaption { font-size: .85rem; } .wrong { font-weight: 700; color: #b3261e; }
code { background: #f1f3f5; padding: .1em .3em; }
@media print { body { font-size: 10pt; margin: 0; max-width: none; } h3 { break-after: avoid; }
  .pictures { grid-template-columns: repeat(2, 1fr); } .wide { overflow: visible; } }
"""


@dataclass(frozen=True)
class Shown:
    """A picture of a test image, and what the detector said of the image."""

    file: str
    kind: str
    score: float
    p_value: float
    is_anomalous: bool


@dataclass(frozen=True)
class Outcome:
    """What the page tells of a product.

    ``metrics`` are those of `fastad.evaluation.evaluate`, ``training`` is the training record.
    """

    product: str
    metrics: dict[str, Any]
    training: dict[str, Any]
    threshold: float
    false_positive_rate: float
    shown: list[Shown]


def page(outcomes: list[Outcome], model: str, size: tuple[int, int], seed: int) -> str:
    """The whole page; ``model`` is in words, files are named relative to the page."""
    products = [o.product for o in outcomes]
    named = f"{', '.join(products[:-1])} and {products[-1]}"
    title = "fastad demo: defects found after seeing good images only"
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{STYLE}</style>
</head>
<body>
<h1>{title}</h1>
<p class="warning">The images are synthetic renderings: numbers on them say nothing about real
ones.</p>
<p>For each of {escape(named)} a detector ({escape(model)}, images of {size[0]} by {size[1]} pixels,
seed {seed}) learnt from good images alone: first how they look; then, with defects of its own
making drawn into them, which differences matter. Some good images were held out from the first
stage; half of them joined the second, and the others chose its epoch and the threshold. No defect
of the product took part. All that follows was measured on other images, which training never
saw.</p>
<p>{_teachers(outcomes)}</p>
<div class="wide">{_summary(outcomes)}</div>
<p>AUROC and AP: 1 is perfect; for an AUROC, 0.5 is chance. An image is called anomalous when its
score is above the threshold, which good images like the held-out ones exceed at no more than the
promised rate on average; the false alarms counted are those among the few good test images.</p>
<p>Each picture shows an image, its anomaly map over it (the brighter, the more anomalous; the
middle of the scale is the threshold), and the outline of the ground truth in green. A
<span class="wrong">red</span> caption is a wrong decision.</p>
{"".join(map(_section, outcomes))}
<h2>Try the detectors</h2>
<p>In this folder: <code>fastad predict {products[0]}.fastad data/{products[0]}/test --heatmaps
--output out</code>, and <code>fastad info {products[0]}.fastad</code>. For images of your own:
<code>fastad train FOLDER_OF_GOOD_IMAGES</code>.</p>
<p>Made by <code>fastad demo</code>, fastad {escape(fastad.__version__)}.</p>
</body>
</html>
"""


def _teachers(outcomes: list[Outcome]) -> str:
    """Where the teachers' weights came from: not every result can be had with all of them."""
    origins = dict.fromkeys(v for o in outcomes for v in o.training["teachers"].values())
    words = {None: "random", "embedded": "those in the package, trained on generated images only"}
    named = [words.get(origin) or f"<code>{escape(origin)}</code>" for origin in origins]
    return f"The teachers' weights: {', '.join(named)}."


def _summary(outcomes: list[Outcome]) -> str:
    rows = []
    for outcome in outcomes:
        metrics, training = outcome.metrics, outcome.training
        counts, decided = metrics["counts"], metrics["at_threshold"]
        link = quote(f"{outcome.product}.fastad")
        rows.append(
            [
                f'<a href="{link}">{escape(outcome.product)}</a>',
                training["n_train"],
                training["n_validation"],
                f"{epochs_kept(training)}; {training['seconds']:.0f} s",
                f"{counts['normal']} + {counts['defect']}",
                *(_number(metrics[k]) for k in ("image_auroc", "image_ap")),
                *(_number(metrics[k]) for k in ("pixel_auroc", "aupro")),
                f"{outcome.threshold:.3g}",
                f"{outcome.false_positive_rate:.0%}",
                _share(decided["false_positive_rate"], counts["normal"]),
                _share(decided["true_positive_rate"], counts["defect"]),
            ]
        )
    return _table(
        [
            "product",
            "learnt from",
            "held out",
            "epoch kept",
            "tested on good + defective",
            "image AUROC",
            "image AP",
            "pixel AUROC",
            "AUPRO",
            "threshold",
            "promised false alarms",
            "false alarms",
            "defects found",
        ],
        rows,
    )


def _section(outcome: Outcome) -> str:
    parts = [f"<h2>{escape(outcome.product)}</h2>"]
    kinds = dict.fromkeys(s.kind for s in outcome.shown)
    for kind in sorted(kinds, key=lambda kind: kind == "good"):  # the defects first
        pictures = [s for s in outcome.shown if s.kind == kind]
        called = sum(s.is_anomalous for s in pictures)
        text = f"{escape(kind)}: {called} of {len(pictures)} called anomalous"
        if kind in outcome.metrics["per_defect"]:
            metrics = outcome.metrics["per_defect"][kind]
            text += f", image AUROC {_number(metrics['image_auroc'])}"
            text += f", pixel AUROC {_number(metrics['pixel_auroc'])}"
        figures = "".join(_figure(s, outcome.product) for s in pictures)
        parts.append(f'<h3>{text}</h3>\n<div class="pictures">{figures}</div>')
    return "\n".join(parts) + "\n"


def _figure(shown: Shown, product: str) -> str:
    verdict = "anomalous" if shown.is_anomalous else "normal"
    wrong = shown.is_anomalous == (shown.kind == "good")
    what = f"synthetic {product}, {shown.kind}: image, anomaly map, ground truth"
    return f"""
<figure><img src="{quote(shown.file)}" alt="{escape(what)}" loading="lazy">
<figcaption{' class="wrong"' if wrong else ""}>score {shown.score:.3g}, p {shown.p_value:.2g}:
{verdict}</figcaption></figure>"""


def _table(header: list[str], rows: list[list[Any]]) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "\n".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>"


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"


def _share(rate: float, number: int) -> str:
    return f"{round(rate * number)} of {number}"
