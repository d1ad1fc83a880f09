"""The page that ``fastad check`` writes: `check_page.html` filled, with its pictures inside."""

import base64
import dataclasses
import io

import numpy as np
from PIL import Image
from scipy import ndimage

import fastad
from fastad._html import template
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
    threshold = result.threshold if pixel_threshold is None else pixel_threshold
    scale = colour_scale(threshold)
    pictures = {
        kind: [
            (name, [(tried, _embedded(_picture(tried, scale))) for tried in chosen])
            for name, is_found in (("missed", False), ("found", True))
            if (chosen := examples.of(kind, is_found))
        ]
        for kind in result.found
    }
    return template("fastad.commands", "check_page.html").render(
        result=result,
        title=title,
        pictures=pictures,
        limits={word: least for least, word in VERDICTS},
        chance=CHANCE,
        too_many=ALARMS,
        version=fastad.__version__,
    )


def _picture(tried: Tried, scale: float) -> Image.Image:
    """The image, the defect's outline, and the anomaly map over the image, side by side."""
    outlined = tried.image.copy()
    outlined[ndimage.binary_dilation(tried.mask, iterations=2) & ~tried.mask] = GREEN
    panels = (tried.image, outlined, overlay(tried.image, tried.anomaly_map, scale))
    gap = np.full((len(tried.image), 6, 3), 255, np.uint8)
    whole = Image.fromarray(np.hstack([panels[0], gap, panels[1], gap, panels[2]]))
    whole.thumbnail((3 * SIDE, SIDE))
    return whole


def _embedded(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=88, subsampling=0)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
