"""Which of several trained models is kept, by what they find of the same synthesised defects."""

from collections.abc import Mapping, Sequence
from typing import Any

MARGIN = 0.01  # of the quality: what differs by less is as good
USUAL = "rstpm"  # of the candidates, where nothing can tell


def quality(row: Mapping[str, Any]) -> float:
    """Mean of "image_auroc" and "aupro": what a detector says of images, and of their pixels."""
    return (row["image_auroc"] + row["aupro"]) / 2


def better(rows: Sequence[Mapping[str, Any]]) -> str:
    """The "model" of the first row whose `quality` is within `MARGIN` of the highest.

    The quickest candidates come first. Where any has no numbers it is `USUAL`, or else the last.

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
    enough = max(map(quality, rows)) - MARGIN
    return next(row["model"] for row in rows if quality(row) >= enough)


def in_words(rows: Sequence[Mapping[str, Any]]) -> str:
    """What the candidates came to, in a line."""
    if any(row["image_auroc"] is None for row in rows):
        return "nothing compares the candidates: not all have a self-check"
    each = [f"{r['model']} {r['image_auroc']:.3f} and {r['aupro']:.3f}" for r in rows]
    return (
        f"image AUROC and AUPRO on {rows[0]['defects']} synthesised defects and "
        f"{rows[0]['images']} held-out good images: {', '.join(each)}"
    )
