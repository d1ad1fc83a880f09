"""The numbers of a report as HTML: the verdict, the threshold's promise, the table of types."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fastad.evaluation.report.figures import plain

# Scores of images, then of pixels; F1 max is an oracle.
COLUMNS = {
    "image_auroc": "image AUROC",
    "image_ap": "image AP",
    "pixel_auroc": "pixel AUROC",
    "pixel_ap": "pixel AP",
    "aupro": "AUPRO",
    "image_f1_max": "image F1 max (oracle)",
    "pixel_f1_max": "pixel F1 max (oracle)",
}


def number(value: float | None) -> str:
    """Three digits; what is not quite perfect never looks perfect."""
    if value is None or math.isnan(value):
        return "-"
    return ">0.999" if 0.9995 <= value < 1 - 1e-9 else f"{value:.3f}"


def percent(rate: float) -> str:
    """A share in per cent, with a digit after the point where it is small."""
    return f"{rate:.1%}" if 0 < rate < 0.0995 else f"{rate:.0%}"


def wilson(hits: int, total: int) -> tuple[float, float]:
    """95% interval of a share (Wilson, JASA 22, 1927): it holds for few images too, and for none
    or all of them."""
    z2 = 1.959964**2
    centre = (hits + z2 / 2) / (total + z2)
    half = math.sqrt(z2 * (hits * (total - hits) / total + z2 / 4)) / (total + z2)
    return max(0.0, centre - half), min(1.0, centre + half)


def promised(calibration: np.ndarray, threshold: float) -> float:
    """Share of good images that exceed a threshold at most, on average over calibration sets.

    A new score exceeds it only where it is among the (1 + #{c > threshold}) largest of n + 1
    exchangeable ones.
    """
    return (1 + int((calibration > threshold).sum())) / (len(calibration) + 1)


def verdict(
    metrics: Mapping[str, Any],
    labels: np.ndarray,
    scores: np.ndarray,
    calibration: np.ndarray,
    threshold: float | None,
) -> str:
    """One sentence, and the numbers that matter most."""
    tiles = [
        ("Image AUROC", number(metrics["image_auroc"]), _interval(metrics)),
        ("Pixel AUROC", number(metrics["pixel_auroc"]), "of all pixels"),
        ("AUPRO", number(metrics["aupro"]), "region overlap, up to 30% false positives"),
    ]
    if threshold is None:
        sentence = "The detector has no threshold: no image was held out to choose one by."
    else:
        (found, defects), (alarms, good) = (_called(labels, scores, threshold, c) for c in (1, 0))
        sentence = _sentence(found, defects, alarms, good)
        tiles.append(("Defects found", _share(found, defects), _range(found, defects)))
        promise = ""
        if len(calibration):
            promise = f"; promised: at most {percent(promised(calibration, threshold))}"
        tiles.append(("False alarms", _share(alarms, good), _range(alarms, good) + promise))
    items = "".join(
        f'<div><dt>{name}</dt><dd class="value">{value}</dd><dd class="detail">{detail}</dd></div>'
        for name, value, detail in tiles
    )
    return f'<p class="lead">{sentence}</p>\n<dl class="verdict">{items}</dl>'


def threshold_table(
    labels: np.ndarray,
    scores: np.ndarray,
    calibration: np.ndarray,
    threshold: float | None,
    asked: float | None,
) -> str:
    """What the threshold promises, by how many images, and what it did on the test images."""
    if threshold is None:
        return '<p class="remark">There is no threshold, and nothing to promise.</p>'
    alarms, good = _called(labels, scores, threshold, 0)
    rows = [("threshold", f"{threshold:.4g}")]
    remark = "There are no held-out images: the threshold promises nothing."
    if len(calibration):
        kept = promised(calibration, threshold)
        rows += [
            ("false alarms asked for", "-" if asked is None else percent(asked)),
            ("held-out good images", str(len(calibration))),
            ("false alarms promised", f"at most {percent(kept)}"),
        ]
        remark = "The promise holds on average, for good images like the held-out ones."
        if asked is not None and kept > asked + 1e-9:
            needed = math.ceil(1 / asked - 1e-9) - 1
            remark = (
                f"{len(calibration)} held-out images cannot keep {percent(asked)}"
                + (f": that takes {needed}" if needed > len(calibration) else "")
                + f". {remark}"
            )
    if good:
        rows.append(
            ("false alarms on the test images", f"{percent(alarms / good)}, {alarms} of {good}")
        )
        low, high = wilson(alarms, good)
        rows.append(("95% interval of that", f"{percent(low)} to {percent(high)}"))
    body = "".join(f"<tr><th scope='row'>{name}</th><td>{value}</td></tr>" for name, value in rows)
    return f'<table><tbody>{body}</tbody></table><p class="foot">{remark}</p>'


def defect_table(
    metrics: Mapping[str, Any],
    labels: np.ndarray,
    scores: np.ndarray,
    types: Sequence[str],
    threshold: float | None,
) -> str:
    """A row for every defect type, with the median score of its images."""
    names = np.array(types, dtype=object)
    head = ["", "images", "found", "median score", *COLUMNS.values()]
    rows = [("all defects", metrics, labels == 1)]
    rows += [
        (name, row, (labels == 1) & (names == name)) for name, row in metrics["per_defect"].items()
    ]
    body = []
    for name, row, chosen in rows:
        found = "-" if threshold is None else str(int((scores[chosen] > threshold).sum()))
        median = f"{np.median(scores[chosen]):.3g}" if chosen.any() else "-"
        cells = [str(int(chosen.sum())), found, median]
        values = "".join(f"<td>{cell}</td>" for cell in cells)
        for key in COLUMNS:
            oracle = ' class="oracle"' if "f1" in key else ""
            values += f"<td{oracle}>{number(row[key])}</td>"
        total = ' class="total"' if row is metrics else ""
        body.append(f"<tr{total}><th scope='row'>{plain(name)}</th>{values}</tr>")
    header = "".join(f"<th scope='col'>{cell}</th>" for cell in head)
    return f"<table><thead><tr>{header}</tr></thead><tbody>{''.join(body)}</tbody></table>"


def _called(
    labels: np.ndarray, scores: np.ndarray, threshold: float, label: int
) -> tuple[int, int]:
    """Images of a class above the threshold, and all of the class."""
    chosen = scores[labels == label]
    return int((chosen > threshold).sum()), len(chosen)


def _sentence(found: int, defects: int, alarms: int, good: int) -> str:
    said = []
    if defects:
        said.append(f"finds {found} of {defects} defective images")
    if good:
        said.append(f"calls {alarms} of {good} good ones defective")
    return f"At its threshold the detector {' and '.join(said)}."


def _share(hits: int, total: int) -> str:
    return f"{hits} <small>of {total}</small>" if total else "-"


def _range(hits: int, total: int) -> str:
    if not total:
        return "no such test image"
    low, high = wilson(hits, total)
    return f"{percent(hits / total)}, 95% interval {percent(low)} to {percent(high)}"


def _interval(metrics: Mapping[str, Any]) -> str:
    interval = metrics.get("image_auroc_interval")
    if interval is None or any(value is None or math.isnan(value) for value in interval):
        return "of whole images"
    return f"95% interval {number(interval[0])} to {number(interval[1])}"
