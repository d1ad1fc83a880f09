"""Pixel scores of a test set in bounded memory, for any choice of defect types."""

import dataclasses
from collections.abc import Collection

import numpy as np

from fastad.evaluation.histogram import PixelHistogram
from fastad.evaluation.metrics import checked_pixels, counted, curve_of_blocks, scores_of

EXACT_BYTES = 256 * 2**20  # 1,024 maps of 256x256, or 256 of 512x512


class PixelScores:
    """Takes anomaly maps one at a time: exact while they fit, then from histograms.

    Args:
        exact_bytes: the maps are kept as long as they take no more than this; their masks take a
            quarter on top, and computing needs 64 bytes a defect pixel for a while. Once they take
            more, all are turned into one `PixelHistogram` a group (24 MiB), and memory no longer
            grows with images.
        inside: (H, W) bool, the pixels that count, of maps that all have this size. None for all.

    Attributes:
        exact: whether the maps are still kept.
    """

    def __init__(self, exact_bytes: int = EXACT_BYTES, inside: np.ndarray | None = None) -> None:
        self.exact = True
        self._inside = inside
        self._room = exact_bytes
        self._kept: dict[str | None, list[tuple[np.ndarray, np.ndarray]]] = {}
        self._histograms: dict[str | None, PixelHistogram] = {}

    def update(self, group: str | None, mask: np.ndarray, anomaly_map: np.ndarray) -> None:
        """Add one image of a group: its mask (H, W) bool and its map (H, W), finite floats.

        Raises ValueError as `pixel_metrics`, but for what is not finite, which is found when the
        scores are computed.
        """
        mask, anomaly_map = checked_pixels(np.asarray(mask)[None], np.asarray(anomaly_map)[None])
        if self._inside is not None:
            mask, anomaly_map, _ = counted(mask, anomaly_map, self._inside)
        self._room -= anomaly_map.nbytes
        if self.exact and self._room < 0:
            self.exact = False
            for name in list(self._kept):
                for image in self._kept.pop(name):
                    self._count(name, *image)
        if self.exact:  # copies, because the caller may use its buffers again
            self._kept.setdefault(group, []).append((mask.copy(), anomaly_map.copy()))
        else:
            self._count(group, mask, anomaly_map)

    def compute(self, groups: Collection[str | None]) -> tuple[dict[str, float], dict[str, float]]:
        """`pixel_metrics` over the images of the groups, and a bound on the error of each score.

        The bounds are zero while the maps are kept; see `PixelHistogram.compute`. Scores that are
        not defined, and their bounds, are NaN.
        """
        total = PixelHistogram()
        if not self.exact:
            for group in groups:
                if group in self._histograms:
                    total.merge(self._histograms[group])
            return total.compute()
        images = [image for group in groups for image in self._kept.get(group, [])]
        if not images:
            return total.compute()
        masks, maps = zip(*images, strict=True)
        widest = np.result_type(*maps)
        maps = [values.astype(widest, copy=False) for values in maps]
        curve = curve_of_blocks(list(masks), maps)
        if self._inside is not None:
            outside = len(images) * int((~self._inside).sum())
            curve = dataclasses.replace(curve, normal=curve.normal - outside)
        scores = scores_of(curve)
        names = (name for name in scores if name != "pixel_f1_threshold")
        return scores, {name: 0.0 * scores[name] for name in names}

    def _count(self, group: str | None, mask: np.ndarray, anomaly_map: np.ndarray) -> None:
        histogram = self._histograms.setdefault(group, PixelHistogram(self._inside))
        histogram.update(mask, anomaly_map)
