"""Which of several trained models is kept, by what they find of the same synthesised defects."""

from collections.abc import Mapping, Sequence
from typing import Any

ALIKE = 0.01  # image AUROC; candidates that are closer to the best are told apart by AUPRO
USUAL = "rstpm"  # of the candidates, where nothing can tell


def better(rows: Sequence[Mapping[str, Any]]) -> str:
    """The "model" with the highest "image_auroc"; of those within `ALIKE` the highest "aupro".

    Of equal ones the first is taken. Where any has no numbers it is `USUAL`, or else the last.

    Examples:
        >>> from fastad.inference.candidates import better
        >>> better(
        ...     [
        ...         {"model": "patchcore", "image_auroc": 0.812, "aupro": 0.70},
        ...         {"model": "rstpm", "image_auroc": 0.807, "aupro": 0.75},
        ...     ]
        ... )
        'rstpm'
    """
    names = [row["model"] for row in rows]
    if any(row["image_auroc"] is None for row in rows):
        return USUAL if USUAL in names else names[-1]
    best = max(row["image_auroc"] for row in rows)
    alike = [row for row in rows if row["image_auroc"] >= best - ALIKE]
    return max(alike, key=lambda row: row["aupro"])["model"]


def in_words(rows: Sequence[Mapping[str, Any]]) -> str:
    """What the candidates came to, in a line."""
    if any(row["image_auroc"] is None for row in rows):
        return "nothing compares the candidates: not all have a self-check"
    each = [f"{r['model']} {r['image_auroc']:.3f} and {r['aupro']:.3f}" for r in rows]
    return (
        f"image AUROC and AUPRO on {rows[0]['defects']} synthesised defects and "
        f"{rows[0]['images']} held-out good images: {', '.join(each)}"
    )
