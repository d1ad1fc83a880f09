"""Which test images a report shows, kept in bounded memory while they stream by."""

import heapq
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from fastad.data import Sample, resize_masks
from fastad.data.images import resize
from fastad.evaluation.report.details import Detail, details_of

WORST = 60  # wrong decisions shown, of each kind
PER_TYPE = 12  # right decisions shown, of each type
MAP_SIDE = 512  # pixels; larger maps are shown smaller


@dataclass(frozen=True)
class Shown:
    """An image to show; its arrays have the size of its anomaly map, or `MAP_SIDE` at most.

    Attributes:
        sample: the test image.
        score: of the image.
        anomaly_map: (h, w) float16 in [-1, 1], in units of ``peak``: half the memory, and no value
            that is worth showing is lost.
        peak: the largest absolute value of the map.
        truth: (h, w) bool; None for a defect without ground truth.
        map_size: (height, width) of its anomaly map.
        details: places of a map larger than `MAP_SIDE`, in its full size.
    """

    sample: Sample
    score: float
    anomaly_map: np.ndarray
    peak: float
    truth: np.ndarray | None
    map_size: tuple[int, int]
    details: tuple[Detail, ...] = ()


@dataclass
class Group:
    """Images of one kind, the worst kept.

    Attributes:
        kind: "missed", "false alarm", "defect" or "good".
        name: defect type or name of the normal folder; empty for wrong decisions.
        total: images seen, shown or not.
    """

    kind: str
    name: str
    total: int = 0
    _heap: list[tuple[float, int, Shown]] = field(default_factory=list)

    @property
    def anchor(self) -> str:
        """Its name in links; types are named by people, and may hold anything."""
        kind, name = self.kind.replace(" ", "-"), self.name.encode("utf-8", "surrogatepass").hex()
        return f"{kind}-{name}" if name else kind

    @property
    def shown(self) -> list[Shown]:
        """The worst images, the worst first: low scores of defects, high ones of good images."""
        return [shown for _, _, shown in sorted(self._heap, key=lambda entry: entry[:2])[::-1]]

    def add(self, sample: Sample, score: float, anomaly_map: np.ndarray, mask: Any) -> None:
        """Keep an image if it is among the worst so far."""
        badness = -score if sample.label else score
        room = WORST if self.kind in ("missed", "false alarm") else PER_TYPE
        order = (badness, -self.total)  # of equals the first to come stays
        self.total += 1
        if len(self._heap) == room:
            if order < self._heap[0][:2]:
                return
            heapq.heappop(self._heap)
        heapq.heappush(self._heap, (*order, _shown(sample, score, anomaly_map, mask)))


class Gallery:
    """Sorts images into groups by what was decided: wrong decisions, then every type.

    threshold: above it an image is called defective; None for no decision, where all images are
    grouped by type.
    """

    def __init__(self, threshold: float | None) -> None:
        self._threshold = threshold
        self._groups: dict[tuple[str, str], Group] = {}

    def add(
        self, sample: Sample, score: float, anomaly_map: np.ndarray, mask: np.ndarray | None
    ) -> None:
        """Arguments as of ``observe`` in `fastad.evaluation.evaluate`; arrays are copied."""
        key = ("defect", sample.defect_type) if sample.label else ("good", sample.defect_type)
        if self._threshold is not None and (score > self._threshold) != bool(sample.label):
            key = ("missed" if sample.label else "false alarm", "")
        self._groups.setdefault(key, Group(*key)).add(sample, score, anomaly_map, mask)

    def groups(self) -> list[Group]:
        """Missed defects, false alarms, the defect types, the good images; none of them empty."""
        order = ("missed", "false alarm", "defect", "good")
        return sorted(self._groups.values(), key=lambda group: order.index(group.kind))


def _shown(sample: Sample, score: float, anomaly_map: np.ndarray, mask: np.ndarray | None) -> Shown:
    small = np.asarray(anomaly_map, dtype=np.float32)
    map_size = small.shape[0], small.shape[1]
    details: tuple[Detail, ...] = ()
    factor = MAP_SIDE / max(small.shape)
    if factor < 1:
        details = details_of(small, mask)
        size = tuple(max(1, round(side * factor)) for side in small.shape)
        small = resize(torch.from_numpy(np.ascontiguousarray(small))[None], size)[0].numpy()
        mask = None if mask is None else resize_masks(torch.from_numpy(mask), size).numpy()
    peak = float(np.abs(small).max()) or 1.0
    truth = None if mask is None else np.array(mask)
    values = (small / peak).astype(np.float16)
    return Shown(sample, score, values, peak, truth, map_size, details)
