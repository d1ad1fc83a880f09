"""Pixel scores of a test set in bounded memory, for any choice of defect types."""

from collections.abc import Collection

import numpy as np

from fastad.evaluation.histogram import PixelHistogram
from fastad.evaluation.metrics import pixel_metrics

EXACT_BYTES = 128 * 2**20  # 512 maps of 256x256; computing takes 16 times as much for a while


class PixelScores:
    """Takes anomaly maps one at a time: exact while they fit, then from histograms.

    Args:
        exact_bytes: the maps are kept as long as they take no more than this. Once they do, all
            are turned into one `PixelHistogram` a group, and memory no longer grows with images.

    Attributes:
        exact: whether the maps are still kept.
    """

    def __init__(self, exact_bytes: int = EXACT_BYTES) -> None:
        self.exact = True
        self._room = exact_bytes
        self._kept: dict[str | None, list[tuple[np.ndarray, np.ndarray]]] = {}
        self._histograms: dict[str | None, PixelHistogram] = {}

    def update(self, group: str | None, mask: np.ndarray, anomaly_map: np.ndarray) -> None:
        """Add one image of a group: its mask (H, W) bool and its map (H, W), finite floats."""
        self._room -= anomaly_map.nbytes
        if self.exact and self._room < 0:
            self.exact = False
            for name, images in self._kept.items():
                for image in images:
                    self._count(name, *image)
            self._kept.clear()
        if self.exact:  # a copy, because the caller may use its buffer again
            self._kept.setdefault(group, []).append((mask, np.array(anomaly_map)))
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
        scores = pixel_metrics(np.stack(masks), np.stack(maps))
        names = (name for name in scores if name != "pixel_f1_threshold")
        return scores, {name: 0.0 * scores[name] for name in names}

    def _count(self, group: str | None, mask: np.ndarray, anomaly_map: np.ndarray) -> None:
        histogram = self._histograms.setdefault(group, PixelHistogram())
        histogram.update(mask[None], anomaly_map[None])
