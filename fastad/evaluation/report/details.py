"""Places of a large image that a report shows at full resolution: a scratch is lost in the whole.

The places are those where the anomaly map is highest, and a defect that none of them shows.
"""

from dataclasses import dataclass

import numpy as np
import torch

SIDE = 256  # pixels of the map
MOST = 3  # places of an image, and one of a defect that is missed
LOWEST = 0.5  # of the highest place's value: below it there is nothing to see
CELL = 32  # pixels: of every such square of the map the highest is looked at


@dataclass(frozen=True)
class Detail:
    """A part of a map.

    Attributes:
        top, left: of it in the map, in pixels.
        values: (h, w) float16 of the map, in units of ``peak``.
        peak: the largest absolute value of the part.
        truth: (h, w) bool; None for a defect without ground truth.
    """

    top: int
    left: int
    values: np.ndarray
    peak: float
    truth: np.ndarray | None

    def box(self, map_size: tuple[int, int], size: tuple[int, int]) -> tuple[int, int, int, int]:
        """Top, left, bottom and right of it in an image of another size."""
        (height, width), (h, w) = map_size, self.values.shape
        down, across = size[0] / height, size[1] / width
        edges = self.top * down, self.left * across, (self.top + h) * down, (self.left + w) * across
        top, left, bottom, right = map(round, edges)
        return top, left, max(bottom, top + 1), max(right, left + 1)


def details_of(anomaly_map: np.ndarray, mask: np.ndarray | None) -> tuple[Detail, ...]:
    """The places of a map (h, w) that are worth a look, the highest first; ``mask`` is the truth.

    Examples:
        >>> import numpy as np
        >>> from fastad.evaluation.report.details import details_of
        >>> found = np.zeros((2000, 3000), np.float32)
        >>> found[1500, 40], found[3, 2900] = 2.0, 1.5
        >>> [(detail.top, detail.left) for detail in details_of(found, None)]
        [(1372, 0), (0, 2744)]
    """
    cells = torch.from_numpy(np.ascontiguousarray(anomaly_map, dtype=np.float32))[None]
    highest, places = torch.nn.functional.max_pool2d(
        cells, CELL, ceil_mode=True, return_indices=True
    )
    values, index = highest[0].flatten().numpy().copy(), places[0].flatten().numpy()
    rows, columns = np.unravel_index(index, anomaly_map.shape)
    found: list[Detail] = []
    least = LOWEST * float(values.max())
    while len(found) < MOST and values.max() > 0 and values.max() >= least:
        place = int(values.argmax())
        detail = _around(int(rows[place]), int(columns[place]), anomaly_map, mask)
        found.append(detail)
        inside = (abs(rows - detail.top - detail.values.shape[0] // 2) <= SIDE // 2) & (
            abs(columns - detail.left - detail.values.shape[1] // 2) <= SIDE // 2
        )
        values[inside] = values[place] = -np.inf
    shown = any(detail.truth is not None and detail.truth.any() for detail in found)
    if mask is not None and mask.any() and not shown:
        place = int(np.where(mask, anomaly_map, -np.inf).argmax())
        row, column = divmod(place, anomaly_map.shape[1])
        found.append(_around(row, column, anomaly_map, mask))
    return tuple(found)


def _around(row: int, column: int, anomaly_map: np.ndarray, mask: np.ndarray | None) -> Detail:
    height, width = anomaly_map.shape
    top = max(min(row - SIDE // 2, height - SIDE), 0)
    left = max(min(column - SIDE // 2, width - SIDE), 0)
    part = slice(top, top + SIDE), slice(left, left + SIDE)
    values = anomaly_map[part].astype(np.float32)
    peak = float(np.abs(values).max()) or 1.0
    truth = None if mask is None else np.array(mask[part])
    return Detail(top, left, (values / peak).astype(np.float16), peak, truth)
