"""The defects of an image one by one: where they are, how large, how strong.

A region is a connected part of a mask: pixels that touch, at a corner too. Lengths are in pixels of
the original image. Its pixel (x, y) covers the square from (x, y) to (x + 1, y + 1).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fastad._extension import _C
from fastad._values import is_number, plain

# The cells of a table of regions, a row a region.
REGION_COLUMNS = (
    *("path", "region", "x", "y", "box_width", "box_height", "area", "share", "peak", "mean"),
    *("centroid_x", "centroid_y", "length", "width", "angle"),
    *("area_mm2", "length_mm", "width_mm"),
)


@dataclass(frozen=True)
class Region:
    """One region of an image, in pixels of the original image.

    Attributes:
        box: (x, y, width, height), upright, as COCO has it.
        area: pixels.
        share: of the image's area, 0 to 1.
        peak, mean: of the anomaly map in the region.
        centroid: (x, y).
        length, width: sides of the smallest box at any angle.
        angle: of the long side, in degrees from the x-axis towards the y-axis, which points down,
            in [0, 180).
        corners: (x, y) of that box's four corners in turn.
        mm_per_pixel: of the original image. None where it is not known.
    """

    box: tuple[float, float, float, float]
    area: float
    share: float
    peak: float
    mean: float
    centroid: tuple[float, float]
    length: float
    width: float
    angle: float
    corners: tuple[tuple[float, float], ...]
    mm_per_pixel: float | None = None
    _part: np.ndarray = field(
        default_factory=lambda: np.empty((0, 0), bool), repr=False, compare=False
    )
    _at: tuple[int, int] = field(default=(0, 0), repr=False)  # row and column of the part
    _map_size: tuple[int, int] = field(default=(1, 1), repr=False)
    _size: tuple[int, int] = field(default=(1, 1), repr=False)

    @property
    def area_mm2(self) -> float | None:
        """Square millimetres. None without ``mm_per_pixel``."""
        return None if self.mm_per_pixel is None else self.area * self.mm_per_pixel**2

    @property
    def length_mm(self) -> float | None:
        """Millimetres. None without ``mm_per_pixel``."""
        return None if self.mm_per_pixel is None else self.length * self.mm_per_pixel

    @property
    def width_mm(self) -> float | None:
        """Millimetres. None without ``mm_per_pixel``."""
        return None if self.mm_per_pixel is None else self.width * self.mm_per_pixel

    def mask(self) -> np.ndarray:
        """The region at the original image's size: (H, W) bool. A pixel is what covers its centre.

        A region that covers no centre, as a small one in a map larger than the image, is empty.
        """
        rows, columns = (
            (np.arange(of) + 0.5) * by // of
            for of, by in zip(self._size, self._map_size, strict=True)
        )
        whole = np.zeros(self._map_size, bool)
        (top, left), (height, width) = self._at, self._part.shape
        whole[top : top + height, left : left + width] = self._part
        return whole[rows.astype(int)[:, None], columns.astype(int)]

    def rle(self) -> dict[str, Any]:
        """`mask` as COCO's run lengths: "size" (H, W) and "counts" down the columns, from 0 on."""
        pixels = self.mask().ravel(order="F")
        changes = np.flatnonzero(pixels[1:] != pixels[:-1]) + 1
        counts = np.diff([0, *changes.tolist(), len(pixels)]).tolist()
        starts_marked = len(pixels) > 0 and bool(pixels[0])
        return {"size": list(self._size), "counts": [0, *counts] if starts_marked else counts}

    def to_dict(self, rle: bool = False) -> dict[str, Any]:
        """What JSON gets: "bbox" as COCO has it, the other attributes, "rle" where it is wanted."""
        found: dict[str, Any] = {
            "bbox": list(self.box),
            "area": self.area,
            "share": self.share,
            "peak": self.peak,
            "mean": self.mean,
            "centroid": list(self.centroid),
            "length": self.length,
            "width": self.width,
            "angle": self.angle,
            "corners": [list(corner) for corner in self.corners],
        }
        if self.mm_per_pixel is not None:
            found |= {name: getattr(self, name) for name in REGION_COLUMNS[-3:]}
        return found | ({"rle": self.rle()} if rle else {})

    def row(self, path: Any, number: int) -> dict[str, Any]:
        """The cells of `REGION_COLUMNS`; ``number`` counts an image's regions from 1."""
        same = ("area", "share", "peak", "mean", "length", "width", "angle", *REGION_COLUMNS[-3:])
        placed = dict(zip(("x", "y", "box_width", "box_height"), self.box, strict=True))
        placed |= {"centroid_x": self.centroid[0], "centroid_y": self.centroid[1]}
        return {
            "path": None if path is None else str(path),
            "region": number,
            **placed,
            **{name: getattr(self, name) for name in same},
        }


def regions_of(
    mask: np.ndarray,
    anomaly_map: np.ndarray,
    size: Sequence[int] | None = None,
    mm_per_pixel: float | None = None,
) -> list[Region]:
    """The regions of a mask, the highest peak first.

    Args:
        mask: (h, w) bool.
        anomaly_map: (h, w) floats.
        size: (height, width) of the original image. None for that of the mask.
        mm_per_pixel: of the original image.

    Raises:
        ValueError: a wrong shape or size, or ``mm_per_pixel`` is not positive.

    Examples:
        >>> import numpy as np
        >>> from fastad.evaluation.regions import regions_of
        >>> anomaly_map = np.zeros((32, 32))
        >>> anomaly_map[4:6, 8:24] = 0.5
        >>> [region] = regions_of(anomaly_map > 0.25, anomaly_map, size=(64, 64), mm_per_pixel=0.1)
        >>> region.box, region.area, region.length, region.width
        ((16.0, 8.0, 32.0, 4.0), 128.0, 32.0, 4.0)
        >>> round(region.area_mm2, 6), region.centroid
        (1.28, (32.0, 10.0))
    """
    mm_per_pixel = checked_scale(mm_per_pixel)
    if mask.ndim != 2 or mask.shape != anomaly_map.shape:
        raise ValueError(
            f"mask and anomaly_map must be (h, w) and alike; got {mask.shape} and "
            f"{anomaly_map.shape}"
        )
    if not mask.any():
        return []
    height, width = map(int, mask.shape if size is None else size)
    if min(height, width) < 1:
        raise ValueError(f"size must be (height, width) of at least a pixel; got {size}")
    down, across = height / mask.shape[0], width / mask.shape[1]
    is_exact = anomaly_map.dtype in (np.float32, np.float64)
    labels, rows = _C.measure_regions(
        np.ascontiguousarray(mask, dtype=bool),
        np.ascontiguousarray(anomaly_map, dtype=None if is_exact else np.float64),
        across,
        down,
    )
    found = []
    for number, row in enumerate(rows, start=1):
        pixels, (top, left, bottom, right), peak, mean, (x, y), corners, long, short, along = row
        found.append(
            Region(
                box=(
                    left * across,
                    top * down,
                    (right - left) * across,
                    (bottom - top) * down,
                ),
                area=pixels * across * down,
                share=pixels / mask.size,
                peak=peak,
                mean=mean,
                centroid=((x + 0.5) * across, (y + 0.5) * down),
                length=long,
                width=short,
                # 180 and 0 are one direction
                angle=round(math.degrees(math.atan2(along[1], along[0])), 9) % 180.0,
                corners=corners,
                mm_per_pixel=mm_per_pixel,
                _part=labels[top:bottom, left:right] == number,
                _at=(top, left),
                _map_size=(mask.shape[0], mask.shape[1]),
                _size=(height, width),
            )
        )
    return sorted(found, key=lambda region: -region.peak)


def without_small(mask: np.ndarray, least: int) -> np.ndarray:
    """The mask (h, w) bool without regions of fewer than ``least`` pixels."""
    labels, count = _C.label_regions(np.ascontiguousarray(mask, dtype=bool))
    keep = np.bincount(labels.ravel(), minlength=count + 1) >= least
    keep[0] = False
    return keep[labels]


def pixels_of(share: float, size: Sequence[int]) -> int:
    """The fewest pixels of a map (height, width) that are at least this share of it, 0 to 1."""
    # The tolerance keeps a whole number of pixels although binary fractions miss it by rounding.
    return max(math.ceil(share * size[0] * size[1] - 1e-6), 1)


def in_words(regions: Sequence[Region]) -> str:
    """How many there are, and the largest; empty of none.

    Examples:
        >>> import numpy as np
        >>> from fastad.evaluation.regions import in_words, regions_of
        >>> in_words(regions_of(np.eye(32) > 0, np.eye(32)))
        '1 region, 3.1 % of the image, 45x1 pixels'
    """
    if not regions:
        return ""
    largest = max(regions, key=lambda region: region.area)
    several = len(regions) > 1
    count = f"{len(regions)} regions, the largest" if several else "1 region,"
    return (
        f"{count} {100 * largest.share:.2g} % of the image, {largest.length:.0f}x"
        f"{largest.width:.0f} pixels"
    )


def checked_scale(mm_per_pixel: Any) -> float | None:
    """A positive number or None; ValueError for anything else."""
    mm_per_pixel = plain(mm_per_pixel)
    if mm_per_pixel is None or (is_number(mm_per_pixel) and mm_per_pixel > 0):
        return mm_per_pixel
    raise ValueError(f"mm_per_pixel must be a number above 0; got {mm_per_pixel!r:.80}")
