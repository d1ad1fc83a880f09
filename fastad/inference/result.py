"""What a detector says about images."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import chain
from pathlib import Path
from typing import Any, overload

import numpy as np

from fastad.evaluation.regions import Region, regions_of
from fastad.evaluation.score_table import COLUMNS, score_row


@dataclass(frozen=True)
class ImageResult:
    """What a detector says about one image: an item of a `PredictionResult`.

    Attributes:
        score: higher is more anomalous.
        anomaly_map: (H, W) float32 at the detector's image size.
        is_anomalous: whether the score is above the threshold. None without a threshold.
        p_value: the share of normal images that look at least as anomalous. None without
            calibration scores.
        mask: (H, W) bool, pixels above the pixel threshold. None without a pixel threshold.
        path: its file. None unless all images were given as paths.
        input: whether the image is like the held-out good ones, as of `PredictionResult`.
        size: (height, width) of the original image. None where it is not known.
    """

    score: float
    anomaly_map: np.ndarray
    is_anomalous: bool | None = None
    p_value: float | None = None
    mask: np.ndarray | None = None
    path: Path | None = None
    input: str | None = None
    size: tuple[int, int] | None = None

    def regions(self, *, mm_per_pixel: float | None = None) -> list[Region]:
        """The image's defects one by one. See `PredictionResult.regions`."""
        if self.mask is None:
            raise ValueError("there are no regions without a pixel threshold: use set_threshold")
        return regions_of(self.mask, self.anomaly_map, self.size, mm_per_pixel)

    def __repr__(self) -> str:
        name = "" if self.path is None else f"{self.path}, "
        return f"ImageResult({name}score {self.score:.4g}{_verdict(self.is_anomalous)})"


@dataclass(repr=False)
class PredictionResult:
    """What a detector says about N images.

    ``len(result)`` is N. Iteration and ``result[3]`` give an `ImageResult` each. A slice, a boolean
    mask or an array of indices gives a result of those images: ``result[result.is_anomalous]``.

    Attributes:
        score: (N,) float32, higher is more anomalous.
        anomaly_map: (N, H, W) float32 at the detector's image size.
        is_anomalous: (N,) bool, whether the score is above the threshold. None without a threshold.
        p_value: (N,) float64, the share of normal images that look at least as anomalous. None
            without calibration scores.
        mask: (N, H, W) bool, pixels above the pixel threshold. None without a pixel threshold.
            Where the detector has a smallest area, without the regions that do not count.
        paths: the files of the N images. None unless all were given as paths.
        input: (N,) text, whether each image is like the held-out good ones by simple statistics:
            "ok", "dark", "bright", "blurred", "shape" (another aspect ratio) or "unlike".
            "unknown" where no image was held out, and of older files. See
            `fastad.inference.guard`.
        appearance: (N, 5) float32, brightness, contrast, sharpness, colour and range of each image,
            see `fastad.data.appearance`. `Detector.drift` reads them. None where nothing measured
            them.
        sizes: (N, 2) int64, height and width of the original images. None where they are not known.
        calibration: digest of the scores of good images that the detector judges by
            (`fastad.inference.threshold.scores_digest`). None where the detector has none.

    Examples:
        >>> import numpy as np
        >>> from fastad.inference import PredictionResult
        >>> maps = np.zeros((3, 64, 64), np.float32)
        >>> scores = np.array([0.1, 0.7, 0.9], np.float32)
        >>> result = PredictionResult(scores, maps, is_anomalous=scores > 0.5)
        >>> result
        PredictionResult(3 images, 2 anomalous, scores 0.1 to 0.9, maps 64x64)
        >>> len(result[1:]), [image.is_anomalous for image in result]
        (2, [False, True, True])
        >>> result[0]
        ImageResult(score 0.1, not anomalous)
    """

    score: np.ndarray
    anomaly_map: np.ndarray
    is_anomalous: np.ndarray | None = None
    p_value: np.ndarray | None = None
    mask: np.ndarray | None = None
    paths: list[Path] | None = None
    input: np.ndarray | None = None
    appearance: np.ndarray | None = None
    sizes: np.ndarray | None = None
    calibration: str | None = None

    def __len__(self) -> int:
        return len(self.score)

    def __iter__(self) -> Iterator[ImageResult]:
        return map(self._one, range(len(self)))

    @overload
    def __getitem__(self, index: int) -> ImageResult: ...
    @overload
    def __getitem__(self, index: slice | np.ndarray | list) -> "PredictionResult": ...
    def __getitem__(self, index: Any) -> "ImageResult | PredictionResult":
        chosen = np.arange(len(self))[index]  # IndexError where there is no such image
        if chosen.ndim == 0:
            return self._one(int(chosen))

        def take(values: Any) -> Any:
            if isinstance(values, np.ndarray):
                return values[index]
            return [values[i] for i in chosen] if isinstance(values, list) else values

        return PredictionResult(*(take(getattr(self, field.name)) for field in fields(self)))

    def _one(self, i: int) -> ImageResult:
        return ImageResult(
            score=float(self.score[i]),
            anomaly_map=self.anomaly_map[i],
            is_anomalous=None if self.is_anomalous is None else bool(self.is_anomalous[i]),
            p_value=None if self.p_value is None else float(self.p_value[i]),
            mask=None if self.mask is None else self.mask[i],
            path=None if self.paths is None else self.paths[i],
            input=None if self.input is None else str(self.input[i]),
            size=None if self.sizes is None else (int(self.sizes[i, 0]), int(self.sizes[i, 1])),
        )

    def regions(self, *, mm_per_pixel: float | None = None) -> list[list[Region]]:
        """Of each image its defects one by one, the highest peak first.

        A region is a connected part of the image's ``mask``. Its place and lengths are in pixels of
        the original image. See `fastad.evaluation.regions.Region`.

        Args:
            mm_per_pixel: of the original images. Regions then know millimetres, too.

        Raises:
            ValueError: there is no pixel threshold, or ``mm_per_pixel`` is not positive.

        Examples:
            >>> import numpy as np
            >>> from fastad.inference import PredictionResult
            >>> maps = np.zeros((2, 64, 64), np.float32)
            >>> maps[1, 10:14, 20:30] = 0.9
            >>> scores = maps.max(axis=(1, 2))
            >>> sizes = np.array([[128, 128], [128, 128]])
            >>> result = PredictionResult(scores, maps, mask=maps > 0.5, sizes=sizes)
            >>> none, [region] = result.regions(mm_per_pixel=0.5)
            >>> none, region.box, region.area, region.area_mm2
            ([], (40.0, 20.0, 20.0, 8.0), 160.0, 40.0)
        """
        return [image.regions(mm_per_pixel=mm_per_pixel) for image in self]

    def rows(self) -> list[dict[str, Any]]:
        """Of each image the cells of the CSV of ``fastad predict``, by name of the column.

        Returns:
            "path" (str, None without paths), "score", "p_value" (floats), "is_anomalous" (bool),
            "input", "status" (str) and "error" (None). None where the detector has no calibration
            scores or no threshold. The status is always "ok".
        """
        return [
            score_row(one.path, one.score, one.p_value, one.is_anomalous, one.input) for one in self
        ]

    def to_pandas(self) -> Any:  # a pandas.DataFrame
        """A `pandas.DataFrame` with the columns of the CSV of ``fastad predict``, a row an image.

        Raises:
            ImportError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise ImportError("to_pandas needs pandas: pip install pandas") from error
        return pandas.DataFrame(self.rows(), columns=list(COLUMNS))

    def __repr__(self) -> str:
        facts = [f"{len(self)} image{'s' * (len(self) != 1)}"]
        if self.is_anomalous is not None:
            facts.append(f"{int(self.is_anomalous.sum())} anomalous")
        if len(self):
            facts.append(f"scores {self.score.min():.4g} to {self.score.max():.4g}")
        facts.append("maps " + "x".join(map(str, self.anomaly_map.shape[1:])))
        return f"PredictionResult({', '.join(facts)})"


def _verdict(is_anomalous: bool | None) -> str:
    if is_anomalous is None:
        return ""
    return ", anomalous" if is_anomalous else ", not anomalous"


def joined(results: Sequence[PredictionResult]) -> PredictionResult:
    """One result of all images; what one of the results does not have is None."""

    def join(name: str) -> Any:
        values = [getattr(result, name) for result in results]
        if any(value is None for value in values):
            return None
        if name == "calibration":
            return values[0]
        return list(chain(*values)) if name == "paths" else np.concatenate(values)

    return PredictionResult(*(join(field.name) for field in fields(PredictionResult)))
