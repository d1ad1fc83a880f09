"""Tables of what teachers are worth, and how far towards ImageNet's weights a teacher comes."""

from collections.abc import Sequence
from statistics import fmean
from typing import Any

SCORES = ("image_auroc", "pixel_auroc", "aupro")
HARD = ("tile", "kolektor")  # on bottle and the rendered products there is little left to gain
RANDOM = "random"  # the mean over its seeds

Cells = Sequence[dict[str, Any]]


def scores(cells: Cells, detector: str, name: str, teacher: str) -> dict[str, float] | None:
    """Of a detector on a set with a teacher, the mean over the untrained; None without a cell."""
    found = [
        cell
        for cell in cells
        if (cell["detector"], cell["set"]) == (detector, name)
        and teacher in (cell["teacher"], cell["teacher"].partition(" ")[0])
    ]
    return {score: fmean(cell[score] for cell in found) for score in SCORES} if found else None


def halfway(cells: Cells, detectors: Sequence[str]) -> float | None:
    """(embedded - random) / (ImageNet - random), of the mean image AUROC over `HARD` and detectors.

    0 is an untrained teacher, 1 ImageNet's; None where a cell is missing.
    """
    means = []
    for teacher in ("embedded", RANDOM, "imagenet"):
        found = [scores(cells, d, name, teacher) for d in detectors for name in HARD]
        if None in found:
            return None
        means.append(fmean(row["image_auroc"] for row in found))
    embedded, random, imagenet = means
    return (embedded - random) / (imagenet - random)


def summary(cells: Cells) -> dict[str, Any]:
    """`halfway` of each detector and of both together."""
    of = {"nn": ["nn"], "stpm": ["stpm"], "both": ["nn", "stpm"]}
    return {
        "halfway": {name: halfway(cells, detectors) for name, detectors in of.items()},
        "of": f"image AUROC over {' and '.join(HARD)}: (embedded - random) / (imagenet - random)",
    }


def tables(cells: Cells) -> str:
    """Markdown: of each detector a table with a row a teacher and a column a set, and `summary`."""
    lines = []
    for detector in dict.fromkeys(cell["detector"] for cell in cells):
        own = [cell for cell in cells if cell["detector"] == detector]
        sets = list(dict.fromkeys(cell["set"] for cell in own))
        lines += [f"{detector}: image AUROC / pixel AUROC / AUPRO", ""]
        lines += [f"| teacher | {' | '.join(sets)} |", "|---" * (1 + len(sets)) + "|"]
        for teacher, name in _rows(own):
            rows = [scores(own, detector, s, teacher) for s in sets]
            lines.append(f"| {name} | {' | '.join(map(_text, rows))} |")
        lines.append("")
    for name, value in summary(cells)["halfway"].items():
        text = "not measured yet" if value is None else f"{value:.2f}"
        lines.append(f"- from random to ImageNet on {' and '.join(HARD)}, {name}: {text}")
    return "\n".join(lines)


def _rows(cells: Cells) -> list[tuple[str, str]]:
    """Teachers, and what their rows are called; the untrained are one."""
    found: dict[str, set[str]] = {}
    for cell in cells:
        found.setdefault(cell["teacher"].partition(" ")[0], set()).add(cell["teacher"])
    seeds = len(found.get(RANDOM, ()))
    mean = f"{RANDOM}, mean of {seeds} seeds" if seeds > 1 else RANDOM
    return [(teacher, mean if teacher == RANDOM else teacher) for teacher in found]


def _text(row: dict[str, float] | None) -> str:
    return " / ".join(f"{row[score]:.3f}" for score in SCORES) if row else ""
