"""The page that ``fastad check`` writes: `check_page.html` filled, with its pictures inside."""

import dataclasses
import io
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage

import fastad
from fastad._html import embedded, template
from fastad.data.synthesis.trial import SIZES
from fastad.evaluation import CheckResult, Tried
from fastad.evaluation.check import ALARMS, CHANCE, VERDICTS
from fastad.inference.heatmaps import colour_scale, overlay

GREEN = (0, 230, 90)
SIDE = 320  # pixels of a picture's longer side
PER_CELL = 1  # found, and missed, of each kind and size


class Examples:
    """The first defects found and missed of each kind and size: the ``observe`` of a check."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str, bool], list[Tried]] = {}

    def observe(self, tried: Tried) -> None:
        """Keep a defect where there is room for its like."""
        kept = self._kept.setdefault((tried.kind, tried.size, tried.found), [])
        if len(kept) < PER_CELL:
            own = {name: getattr(tried, name).copy() for name in ("image", "mask", "anomaly_map")}
            kept.append(dataclasses.replace(tried, **own))

    def of(self, kind: str, found: bool) -> list[Tried]:
        """Those of a kind, the small ones first."""
        return [tried for size in SIZES for tried in self._kept.get((kind, size, found), ())]


def page(
    result: CheckResult, examples: Examples, title: str, pixel_threshold: float | None = None
) -> str:
    """The whole page, in one file; the middle of the maps' colours is ``pixel_threshold``."""
    return template("fastad.commands", "check_page.html").render(
        tried_values(result, examples, pixel_threshold), title=title, version=fastad.__version__
    )


def tried_values(
    result: CheckResult, examples: Examples, pixel_threshold: float | None
) -> dict[str, Any]:
    """What `tried.html` shows: numbers, words, and pictures."""
    threshold = result.threshold if pixel_threshold is None else pixel_threshold
    scale = colour_scale(threshold)
    pictures = {
        kind: [
            (name, [(tried, _picture(tried, scale)) for tried in chosen])
            for name, is_found in (("missed", False), ("found", True))
            if (chosen := examples.of(kind, is_found))
        ]
        for kind in result.found
    }
    return {
        "result": result,
        "pictures": pictures,
        "limits": {word: least for least, word in VERDICTS},
        "chance": CHANCE,
        "too_many": ALARMS,
    }


def _picture(tried: Tried, scale: float) -> str:
    """The image, the defect's outline, and the anomaly map over the image, side by side."""
    outlined = tried.image.copy()
    outlined[ndimage.binary_dilation(tried.mask, iterations=2) & ~tried.mask] = GREEN
    return side_by_side(tried.image, outlined, overlay(tried.image, tried.anomaly_map, scale))


def side_by_side(*panels: np.ndarray) -> str:
    """Pictures (H, W, 3) uint8 of one height in a row, as an address."""
    gap = np.full((len(panels[0]), 6, 3), 255, np.uint8)
    row = [part for panel in panels for part in (gap, panel)][1:]
    whole = Image.fromarray(np.hstack(row))
    whole.thumbnail((len(panels) * SIDE, SIDE))
    buffer = io.BytesIO()
    whole.save(buffer, "JPEG", quality=88, subsampling=0)
    return embedded("jpeg", buffer.getvalue())
