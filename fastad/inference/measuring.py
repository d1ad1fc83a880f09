"""What a calibration needs to know of many images, without their maps."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from fastad.data.appearance import STATISTICS, log_aspects
from fastad.data.in_memory import with_four_axes
from fastad.data.inputs import are_paths
from fastad.inference.guard import OK, UNKNOWN
from fastad.inference.predictor import Predictor

Skip = Callable[[Path | int, Exception], None]


@dataclass
class Measured:
    """Scores (n,), maxima of maps (n,), appearance (n, 5), whether they are like the good ones, as
    `PredictionResult.input` (n,); positions of unreadable images."""

    scores: np.ndarray
    maxima: np.ndarray
    appearance: np.ndarray
    input: np.ndarray
    failed: set[int]

    def inputs(self, items: Any) -> np.ndarray:
        """(n, 6) as `Artifact.inputs`."""
        aspects = log_aspects(items, len(self.scores))
        return np.concatenate([self.appearance, aspects[:, None]], axis=1)

    def unlike(self, items: Any) -> str | None:
        """A note on images that a prediction calls unlike the calibration's. None without such."""
        found = np.flatnonzero(~np.isin(self.input, (OK, UNKNOWN)))
        if len(found) == 0:
            return None
        kinds = ", ".join(f"{count} {kind}" for kind, count in Counter(self.input[found]).items())
        example = f", such as {items[found[0]]}" if are_paths(items) else ""
        return (
            f"{len(found)} image{' is' if len(found) == 1 else 's are'} unlike those of the "
            f"calibration before ({kinds}{example}). From now on such images count as usual: see "
            "that they show the right parts"
        )


def measured(
    predictor: Predictor,
    items: Any,
    skip: Skip | None = None,
    observe: Callable[[np.ndarray], object] = lambda maps: None,
) -> Measured:
    """Of readable images as `countable` gives them, batch by batch: no map is kept.

    ``skip`` as of `Predictor.predict`. ``observe`` is called with the anomaly maps (N, H, W) of
    each batch.
    """
    failed: set[int] = set()
    positions = {Path(item): i for i, item in enumerate(items)} if are_paths(items) else {}

    def note(item: Path | int, error: Exception) -> None:
        assert skip is not None  # nothing is reported otherwise
        failed.add(positions[item] if isinstance(item, Path) else item)
        skip(item, error)

    scores, maxima = [np.empty(0)], [np.empty(0)]
    seen = [np.empty((0, len(STATISTICS)))]
    inputs = [np.empty(0, dtype="<U7")]
    for result in predictor.stream(items, skip=None if skip is None else note):
        # A predictor measures both.
        assert result.appearance is not None
        assert result.input is not None
        inputs.append(result.input)
        scores.append(result.score.astype(np.float64))
        maxima.append(result.anomaly_map.max(axis=(1, 2)).astype(np.float64))
        seen.append(result.appearance)
        observe(result.anomaly_map)
    of_all, looks = np.concatenate(scores), np.concatenate(seen)
    return Measured(of_all, np.concatenate(maxima), looks, np.concatenate(inputs), failed)


def countable(images: Any) -> Any:
    """Arrays with four axes, or a list."""
    if isinstance(images, np.ndarray):
        return with_four_axes(images)
    if isinstance(images, Tensor):
        return images if images.ndim == 4 else images[None]
    return images if isinstance(images, list) else list(images)


def chosen(items: Any, indices: Sequence[int] | np.ndarray) -> Any:
    """Some of the images that `countable` gave."""
    return [items[i] for i in indices] if isinstance(items, list) else items[list(indices)]
