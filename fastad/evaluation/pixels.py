"""Pixel scores of a test set: exact at any size, in bounded memory, for any choice of defect types.

The pixels are sorted in runs, of normal and of defect pixels of each type, and the runs are joined
from the highest value on, range by range. Only counts are added, of normal pixels and of defect
pixels by the size of their region. So the rows of a curve, and the scores, are those of
`fastad.evaluation.metrics.pixel_curve` over all maps at once, to the last bit.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from fastad._extension import _C
from fastad.evaluation.curve import Rows, Scores
from fastad.evaluation.metrics import checked_pixels, scores_of
from fastad.evaluation.runs import Descending, Kept, Store

MEMORY_BYTES = 256 * 2**20  # 1,024 maps of 256x256, or 256 of 512x512
# Shares of it: new pixels before they are sorted, and what is read to join the sorted ones, in
# bytes for each normal pixel and each row of defect pixels.
NEW, JOINED_PIXEL, JOINED_ROW = 8, 64, 512
LEAST_BLOCK = 16  # pixels or rows of one run

Defects = tuple[np.ndarray, np.ndarray, np.ndarray]  # values, sizes of regions, pixels; ascending


@dataclass
class _Group:
    """What is known of one type of defects, or of the normal images."""

    normal: int = 0
    defect: int = 0
    regions: int = 0
    new: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = field(default_factory=list)
    runs: list[Kept] = field(default_factory=list)  # of normal pixels
    defect_runs: list[Kept] = field(default_factory=list)


class PixelScores:
    """Takes anomaly maps one at a time, and computes `pixel_metrics` of any choice of groups.

    Args:
        memory_bytes: sorted pixels are kept in memory up to this. Beyond it they go to a temporary
            file: 4 bytes a normal pixel of float32 maps, and 12 a defect pixel at most. A half
            comes on top, to sort new pixels and to join the sorted ones.
        inside: (H, W) bool, the pixels that count, of maps that all have this size. None for all.
    """

    def __init__(self, memory_bytes: int = MEMORY_BYTES, inside: np.ndarray | None = None) -> None:
        self._inside = inside
        self._store = Store(memory_bytes)
        self._memory = memory_bytes
        self._new_bytes = 0
        self._groups: dict[str | None, _Group] = {}

    def update(self, group: str | None, mask: np.ndarray, anomaly_map: np.ndarray) -> None:
        """Add one image of a group: its mask (H, W) bool and its map (H, W), finite floats.

        Raises ValueError as `pixel_metrics`, but for what is not finite, and OSError where the disk
        is full.
        """
        masks, maps = checked_pixels(np.asarray(mask)[None], np.asarray(anomaly_map)[None])
        mask, values = masks[0], maps[0]
        counted = np.True_ if self._inside is None else self._inside
        mask = mask & counted
        to = self._groups.setdefault(group, _Group())
        if mask.any():
            labels, regions = _C.label_regions(mask)
            sizes = np.bincount(labels.ravel())[labels[mask]]
            new = values[~mask & counted], values[mask], sizes
            to.regions += regions
        else:  # a copy, because the caller may use its buffer again
            normal = values.flatten() if self._inside is None else values[self._inside]
            new = normal, np.empty(0, values.dtype), np.empty(0, np.int64)
        to.new.append(new)
        to.normal += len(new[0])
        to.defect += len(new[1])
        self._new_bytes += sum(array.nbytes for array in new)
        if self._new_bytes > self._memory // NEW:
            self._sort()

    def compute(self, choices: Sequence[Collection[str | None]]) -> list[dict[str, float]]:
        """`pixel_metrics` over the images of each choice of groups; NaN where it is not defined.

        Raises OSError where the disk is full or cannot be read.
        """
        self._sort()
        known = [
            [name for name in dict.fromkeys(choice) if name in self._groups] for choice in choices
        ]
        all_scores = [self._empty_scores(choice) for choice in known]
        defined = [i for i, scores in enumerate(all_scores) if scores.defined]
        chosen = [known[i] for i in defined]
        for parts in self._joined(chosen):
            for i, part in zip(defined, parts, strict=True):
                all_scores[i].add(part)
        return [scores_of(scores) for scores in all_scores]

    def _empty_scores(self, names: Iterable[str | None]) -> Scores:
        groups = [self._groups[name] for name in names]
        numbers = ((group.normal, group.defect, group.regions) for group in groups)
        return Scores(*(sum(column) for column in zip((0, 0, 0), *numbers, strict=True)))

    def _sort(self) -> None:
        """Make runs of what is new."""
        for group in self._groups.values():
            if not group.new:
                continue
            normal, defect, sizes = map(np.concatenate, zip(*group.new, strict=True))
            group.new.clear()
            if len(normal):
                _C.sort_values(normal)
                group.runs.append(self._store.put(normal))
            if len(defect):
                ones = np.ones(len(defect), np.int64)
                columns = _C.fold_defects(defect.astype(np.float64), sizes, ones)
                kind = np.dtype(
                    [("value", defect.dtype), ("size", np.uint32), ("count", np.uint32)]
                )
                rows = np.empty(len(columns[0]), kind)
                for name, column in zip(kind.names or (), columns, strict=True):
                    rows[name] = column
                group.defect_runs.append(self._store.put(rows))
        self._new_bytes = 0

    def _joined(self, choices: list[list[str | None]]) -> Iterable[list[Rows]]:
        """The rows of each choice, range by range of values, the highest first."""
        groups = {name: self._groups[name] for choice in choices for name in choice}
        runs, defect_runs = (
            sum(len(getattr(group, name)) for group in groups.values())
            for name in ("runs", "defect_runs")
        )
        pixels = {
            name: self._read(group.runs, self._memory // JOINED_PIXEL // max(runs, 1))
            for name, group in groups.items()
        }
        defects = {
            name: self._read(group.defect_runs, self._memory // JOINED_ROW // max(defect_runs, 1))
            for name, group in groups.items()
        }
        above = [0] * len(choices)
        while (down_to := _next_end(defects.values())) is not None:
            rows = {name: self._folded(runs, down_to) for name, runs in defects.items()}
            values = np.unique(np.concatenate([row[0] for row in rows.values()]))
            slots = {}
            for name, own in pixels.items():
                slots[name] = np.zeros(2 * len(values) + 1, np.int64)
                for run in own:
                    for block in run.take(down_to):
                        _C.count_sorted(values, block, slots[name])
            parts = []
            for i, choice in enumerate(choices):
                counts = np.sum([slots[name] for name in choice], axis=0)
                parts.append(_rows(values, [rows[n] for n in choice], counts, above[i]))
                above[i] += int(counts.sum())
            yield parts

    def _read(self, runs: list[Kept], block: int) -> list[Descending]:
        return [Descending(self._store, run, max(block, LEAST_BLOCK)) for run in runs]

    def _folded(self, runs: list[Descending], down_to: float) -> Defects:
        """The rows of defect pixels at or above a value, of all runs."""
        found = [(np.empty(0), np.empty(0, np.int64), np.empty(0, np.int64))]
        number, limit = 0, 2 * self._memory // JOINED_ROW
        for block in (block for run in runs for block in run.take(down_to)):
            found.append((block["value"], block["size"], block["count"]))
            number += len(block)
            if number > limit:
                found = [_fold(found)]
                number = len(found[0][0])
                limit = max(limit, 2 * number)
        return _fold(found)


def _next_end(groups: Iterable[list[Descending]]) -> float | None:
    """The value down to which every run has its defect pixels in memory; None at the end."""
    lowest = [(low, run) for runs in groups for run in runs if (low := run.lowest()) is not None]
    partly = [low for low, run in lowest if not run.is_read]
    return max(partly) if partly else min((low for low, _ in lowest), default=None)


def _fold(rows: list[Defects]) -> Defects:
    values, *numbers = (np.concatenate(column) for column in zip(*rows, strict=True))
    return _C.fold_defects(values.astype(np.float64), *(n.astype(np.int64) for n in numbers))


def _rows(values: np.ndarray, rows: list[Defects], slots: np.ndarray, above: int) -> Rows:
    """The rows of a curve between two values.

    Args:
        values: (K,) ascending, among which all rows are.
        rows: defect pixels of each group.
        slots: (2 K + 1,) normal pixels, as of ``count_sorted``.
        above: normal pixels of higher values than all of these.
    """
    own, sizes, counts = _fold(rows)
    is_first = np.append(True, own[1:] != own[:-1])[: len(own)]
    row, starts = np.cumsum(is_first) - 1, np.flatnonzero(is_first)
    not_below = above + np.append(np.cumsum(slots[::-1])[::-1], 0)
    place = 2 * np.searchsorted(values, own[starts])
    columns = (
        own[starts],
        np.add.reduceat(counts, starts) if len(starts) else counts,
        np.bincount(row, counts / sizes),  # adds one after the other
        not_below[place + 2],
        slots[place + 1],
    )
    return Rows(*(column[::-1] for column in columns))
