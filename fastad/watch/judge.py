"""A detector's word on images, as the rows that a watcher writes."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from fastad.inference import PredictionResult


class Streams(Protocol):
    """What a watcher needs of a `Detector`."""

    threshold_: float | None

    def stream(self, images: Any, **options: Any) -> Iterable[PredictionResult]: ...


class Judge:
    """Judges images by a detector.

    Args:
        strict: as of `Predictor.predict`.
        mm_per_pixel: of the images, for the sizes of their regions. None where it is not known.
    """

    def __init__(
        self, detector: Streams, strict: bool = False, mm_per_pixel: float | None = None
    ) -> None:
        self._detector, self._strict, self._mm_per_pixel = detector, strict, mm_per_pixel

    def files(self, paths: list[Path]) -> dict[Path, dict[str, Any] | Exception]:
        """Of each file its row, or why it could not be read."""
        found: dict[Path, dict[str, Any] | Exception] = {}

        def leave_out(path: Path | int, error: Exception) -> None:
            found[Path(str(path))] = error

        try:
            for result in self._detector.stream(paths, skip=leave_out, strict=self._strict):
                assert result.paths is not None  # they were given as paths
                for path, row in zip(result.paths, self._rows(result), strict=True):
                    is_number = math.isfinite(row["score"])
                    found[path] = row if is_number else ValueError("its score is not a number")
        except ValueError:
            if len(found) < len(paths):  # otherwise no image could be read, which is known
                raise
        return found

    def frame(self, image: np.ndarray) -> dict[str, Any]:
        """The row of an image (H, W, 3), uint8, RGB."""
        [result] = self._detector.stream([image], strict=self._strict)
        [row] = self._rows(result)
        return row

    def _rows(self, result: PredictionResult) -> list[dict[str, Any]]:
        rows = result.rows()
        for row, image in zip(rows, result, strict=True):
            row["threshold"] = self._detector.threshold_
            row["regions"] = None
            if image.mask is not None:
                regions = image.regions(mm_per_pixel=self._mm_per_pixel)
                row["regions"] = [region.to_dict() for region in regions]
        return rows
