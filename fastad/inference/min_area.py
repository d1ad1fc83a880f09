"""The smallest region that counts, and scores that go by it.

With a smallest area, an image's score is the highest level at which its anomaly map has a region of
this area: the maximum of the map's area opening (Vincent, 1992). The image is anomalous exactly
where a region that counts lies above the threshold. The threshold comes from the same scores of the
held-out good images, so it keeps its rate as any other (`fastad.inference.threshold`).

A detector keeps those scores for a ladder of areas. Between two of them the smaller one gives the
threshold. A good image's score is at least as high there, so the rate is kept.
"""

import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastad._extension import _C
from fastad._values import is_number, plain
from fastad.evaluation.regions import checked_scale, without_small
from fastad.inference.threshold import raised

STEPS = 4  # areas of the ladder to each doubling
LARGEST = 0.25  # of the image: a larger area is no smallest one
FORMS = '25 (pixels of the original image), "25px", "0.1%" of the image, or "1.5mm2"'


@dataclass
class RegionLevels:
    """Scores of held-out good images for each of several smallest areas.

    Attributes:
        areas: (L,) int64, ascending, in pixels of the anomaly map.
        levels: (n, L) float64, raised as other calibration scores.
        image_shape: (height, width) of the original images. None where they differ.
    """

    areas: np.ndarray
    levels: np.ndarray
    image_shape: tuple[int, int] | None = None

    def at(self, least: int) -> np.ndarray:
        """(n,) scores for the largest area of the ladder that is at most ``least`` pixels."""
        return self.levels[:, np.searchsorted(self.areas, least, side="right") - 1]


class LevelRecorder:
    """Collects `RegionLevels` from the maps of a calibration.

    Args:
        size: (height, width) of the maps.
    """

    def __init__(self, size: tuple[int, int]) -> None:
        self._areas = ladder(size[0] * size[1])
        self._found: list[np.ndarray] = []

    def add(self, maps: np.ndarray) -> None:
        """Maps (N, H, W) float32 of held-out good images, in their order."""
        self._found.append(_C.region_levels(np.ascontiguousarray(maps), self._areas))

    def result(self, image_shape: tuple[int, int] | None) -> RegionLevels:
        """Of all maps. ``image_shape`` as of `RegionLevels`."""
        found = np.concatenate([np.empty((0, len(self._areas))), *self._found], dtype=np.float64)
        return RegionLevels(self._areas, raised(found), image_shape)


def ladder(pixels: int) -> np.ndarray:
    """Areas for a map of so many pixels: `STEPS` to each doubling, up to `LARGEST` of the map."""
    largest = max(int(LARGEST * pixels), 1)
    steps = np.arange(int(STEPS * math.log2(largest)) + 1)
    return np.unique(np.rint(2 ** (steps / STEPS)).astype(np.int64))


def region_scores(maps: np.ndarray, least: int) -> np.ndarray:
    """Highest level of each map (N, H, W) float32 with a region of ``least`` pixels: (N,) float32.

    Examples:
        >>> import numpy as np
        >>> from fastad.inference.min_area import region_scores
        >>> maps = np.zeros((1, 32, 32), np.float32)
        >>> maps[0, 3, 3] = 0.75  # a speck
        >>> maps[0, 8:12, 8:12] = 0.5
        >>> float(region_scores(maps, 1)[0]), float(region_scores(maps, 10)[0])
        (0.75, 0.5)
    """
    areas = np.array([least], dtype=np.int64)
    return _C.region_levels(np.ascontiguousarray(maps, dtype=np.float32), areas)[:, 0]


def keep_large(masks: np.ndarray, has_large: np.ndarray, least: int) -> None:
    """Clear regions of fewer than ``least`` pixels from masks (N, H, W) bool, in place.

    ``has_large`` (N,) bool says which masks have another region. They are few among good images.
    """
    masks[~has_large] = False
    for i in np.flatnonzero(has_large):
        masks[i] = without_small(masks[i], least)


def share_of(
    area: Any,
    image_shape: tuple[int, int] | None,
    mm_per_pixel: float | None = None,
    counts: float = 1.0,
    name: str = "min_area",
) -> float | None:
    """The share of an image, 0 to 1, that an area given as `FORMS` is. None of None and of 0.

    Args:
        area: a number of pixels of the original image, or text with a unit: px, % or mm2.
        image_shape: (height, width) of the original images. None where they differ.
        mm_per_pixel: of the original images, for mm2.
        counts: the share of an image that lies in the region of interest.
        name: of the argument, for messages.

    Raises:
        ValueError: it is none of the forms, too large, or what it asks for is not known.
    """
    mm_per_pixel = checked_scale(mm_per_pixel)
    area = plain(area)
    if area is None:
        return None
    said = re.fullmatch(r"\s*([0-9.eE+-]+)\s*(px|%|mm2|mm²)?\s*", str(area))
    try:
        value = float(said[1]) if said else math.nan
    except ValueError:
        value = math.nan
    if said is None or isinstance(area, bool) or not is_number(value) or value < 0:
        raise ValueError(f"{name} must be {FORMS}; got {area!r:.80}")
    unit = said[2] or "px"
    if value == 0:
        return None
    if unit == "%":
        share = value / 100
    else:
        if unit != "px":
            if mm_per_pixel is None:
                raise ValueError(f"{name} {area} needs mm_per_pixel, the scale of the images")
            value /= mm_per_pixel**2
        if image_shape is None:
            raise ValueError(
                f"{name} {area}: the size of the training images is not known, or they differ in "
                'size: give a share of the image, such as "0.1%"'
            )
        share = value / (image_shape[0] * image_shape[1])
    if share > LARGEST:
        raise ValueError(f"{name} {area} is {share:.0%} of the image; at most {LARGEST:.0%} works")
    if share >= counts:
        raise ValueError(
            f"{name} {area} is {share:.2%} of the image, and the region of interest is "
            f"{counts:.2%} of it: nothing would be found"
        )
    return share
