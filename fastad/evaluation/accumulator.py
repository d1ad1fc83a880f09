"""Evaluation batch by batch: scores overall and for every defect type, with intervals."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from fastad.evaluation.bootstrap import image_auroc_interval
from fastad.evaluation.metrics import Values, checked_images, checked_pixels, image_metrics
from fastad.evaluation.pixels import MEMORY_BYTES, PixelScores


class Evaluation:
    """Takes labelled images batch by batch and computes all scores of them, in bounded memory.

    Args:
        memory_bytes: sorted pixels are kept in memory up to this. Beyond it they go to a temporary
            file, of 4 bytes a pixel of float32 maps and 12 a defect pixel. Half as much memory
            comes on top. The scores are exact and the same, to the last bit.
        inside: (H, W) bool, the pixels that count in the pixel scores, of maps that all have this
            size. None for all.
        seed: of the bootstrap intervals.

    Examples:
        >>> import numpy as np
        >>> from fastad.evaluation import Evaluation
        >>> masks = np.zeros((2, 8, 8), dtype=bool)
        >>> masks[1, 2:4, 2:4] = True
        >>> evaluation = Evaluation()
        >>> for noise in (0.1, 0.2):  # two batches of a normal image and a scratched one
        ...     maps = masks + noise
        ...     evaluation.update(masks, maps, [0, 1], maps.max(axis=(1, 2)), [None, "scratch"])
        >>> result = evaluation.compute()
        >>> result["image_auroc"], result["aupro"], result["counts"]["defect"]
        (1.0, 1.0, 2)
    """

    def __init__(
        self,
        *,
        memory_bytes: int = MEMORY_BYTES,
        inside: np.ndarray | None = None,
        seed: int = 0,
    ) -> None:
        self._pixels = PixelScores(memory_bytes, inside)
        self._inside = inside
        self._seed = seed
        self._labels: list[bool] = []
        self._scores: list[float] = []
        self._types: list[str | None] = []  # of defects; None for normal images
        self._without_mask = 0

    def update(
        self,
        masks: np.ndarray | None,
        maps: np.ndarray,
        labels: Values,
        scores: Values,
        defect_types: Sequence[str | None] | None = None,
    ) -> None:
        """Add images. Of the arrays only copies are kept.

        Args:
            masks: (N, H, W) bool. None where the defects have no ground truth: the pixel scores
                then leave them out, but not the normal images.
            maps: (N, H, W) finite floats. Batches may differ in size.
            labels: (N,), 0 normal, 1 defect.
            scores: (N,) finite floats, higher is more anomalous.
            defect_types: name of the type of each defect, None or empty for none. Those of normal
                images do not count.

        Raises:
            ValueError: shapes do not match, a value is not finite, or the mask of a normal image
                marks a defect. Nothing is added then.
            OSError: the disk of temporary files is full.
        """
        maps = np.asarray(maps)
        known = masks is not None
        masks, maps = checked_pixels(
            masks if masks is not None else np.zeros(maps.shape, bool), maps
        )
        labels, scores = checked_images(labels, scores)
        types = [None] * len(labels) if defect_types is None else list(defect_types)
        if not len(maps) == len(labels) == len(types):
            raise ValueError(
                "maps, labels and defect_types must be of as many images, "
                f"got {len(maps)}, {len(labels)} and {len(types)}"
            )
        bad = maps.size - int(np.isfinite(maps).sum())
        if bad:
            raise ValueError(f"maps must be finite, but {bad} of {maps.size} values are NaN or inf")
        marked = masks.any(axis=(1, 2))
        if self._inside is not None and maps.shape[1:] != self._inside.shape:
            raise ValueError(
                f"maps must be of the size of inside, {self._inside.shape}; got {maps.shape}"
            )
        if (marked & ~labels).any():
            first = int(np.flatnonzero(marked & ~labels)[0])
            raise ValueError(f"labels[{first}] is 0 (normal), but masks[{first}] marks a defect")

        for i, defect in enumerate(labels):
            group = (types[i] or "") if defect else None
            self._labels.append(bool(defect))
            self._scores.append(float(scores[i]))
            self._types.append(group)
            if defect and not known:
                self._without_mask += 1
            else:
                self._pixels.update(group, masks[i], maps[i])

    def compute(self) -> dict[str, Any]:
        """The keys of `image_metrics` and `pixel_metrics` and

        - ``image_auroc_interval``: 95 % bootstrap interval (`image_auroc_interval`)
        - ``per_defect``: {type: the same scores over the images of this type and all normal ones}
        - ``counts``: {"normal", "defect", "defect_without_mask"}

        Scores without both classes are NaN. Raises ValueError before any image was added, and
        OSError where temporary files cannot be written or read.
        """
        if not self._labels:
            raise ValueError("there is no image to evaluate: call update first")
        labels, scores = np.array(self._labels), np.array(self._scores)
        groups = list(dict.fromkeys(name for name in self._types if name is not None))
        named = [name for name in groups if name]
        pixels, *of_types = self._pixels.compute(
            [[None, *groups], *([None, name] for name in named)]
        )
        rows: dict[str, dict] = {}
        for name, own in zip(named, of_types, strict=True):
            chosen = ~labels | np.array([kind == name for kind in self._types])
            rows[name] = self._of_images(labels[chosen], scores[chosen]) | own
        return {
            **self._of_images(labels, scores),
            **pixels,
            "per_defect": rows,
            "counts": {
                "normal": int((~labels).sum()),
                "defect": int(labels.sum()),
                "defect_without_mask": self._without_mask,
            },
        }

    def _of_images(self, labels: np.ndarray, scores: np.ndarray) -> dict[str, Any]:
        interval = image_auroc_interval(labels, scores, seed=self._seed)
        return image_metrics(labels, scores) | {"image_auroc_interval": interval}
