"""How far an exported detector is from the detector itself."""

import copy
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from fastad.data import PixelRange, read_image
from fastad.data.facts import ImageFacts
from fastad.export.formats import Runner
from fastad.inference.artifact import Artifact

BATCH = 4  # images of one size that are compared together


@dataclass(frozen=True)
class Verification:
    """The result of one comparison.

    An error is the largest difference of an image, relative to the image's own largest absolute
    value or, where that is larger, to the median of it over the images.

    Attributes:
        images: their number.
        score_error, map_error: relative errors of the scores and of the anomaly maps.
        rank_correlation: Spearman's, of the scores; None for one image or equal scores.
        changed_decisions: images on the other side of the threshold; None without a threshold.
    """

    images: int
    score_error: float
    map_error: float
    rank_correlation: float | None
    changed_decisions: int | None

    def __str__(self) -> str:
        text = (
            f"relative error {self.score_error:.1e} of the score and {self.map_error:.1e} of the "
            f"anomaly map over {self.images} images"
        )
        if self.rank_correlation is not None:
            text += f", rank correlation {self.rank_correlation:.6f}"
        if self.changed_decisions is not None:
            text += f", {self.changed_decisions} decisions changed"
        return text


def verify(
    artifact: Artifact,
    runner: Runner,
    batches: Iterable[np.ndarray],
    tile: tuple[int, int] | None = None,
) -> Verification:
    """Compare an exported file with its detector on batches of images, uint8 (N, H, W, 3).

    The detector runs on the CPU in float32, in tiles where ``tile`` is given. Of an image only a
    few numbers are kept. Raises ValueError where there are no images.
    """
    detector = copy.copy(artifact)
    detector.model = copy.deepcopy(artifact.model)  # a predictor changes its model's memory format
    detector.facts = ImageFacts()  # random images are like none of the training
    predictor = detector.predictor(device="cpu", precision="float32", tile=tile)
    rows = []
    for batch in batches:
        expected = predictor.predict(torch.from_numpy(batch).permute(0, 3, 1, 2))
        score, maps = runner(batch)
        difference = np.abs(maps - expected.anomaly_map).max(axis=(1, 2))
        size = np.abs(expected.anomaly_map).max(axis=(1, 2))
        rows.append(np.stack([expected.score, score, size, difference], axis=1, dtype=np.float64))
    if not rows:
        raise ValueError("there are no images to verify on")
    expected, score, size, difference = np.concatenate(rows).T
    threshold = artifact.threshold
    changed = None
    if threshold is not None:
        changed = int(((score > threshold) != (expected > threshold)).sum())
    return Verification(
        images=len(score),
        score_error=_relative(np.abs(score - expected), np.abs(expected)),
        map_error=_relative(difference, size),
        rank_correlation=_rank_correlation(expected, score),
        changed_decisions=changed,
    )


def image_batches(
    paths: Iterable[str | Path], pixel_range: PixelRange | None = None
) -> Iterator[np.ndarray]:
    """Image files at their own sizes, uint8 (N, H, W, 3): neighbours of one size together.

    Raises what `fastad.data.read_image` raises.
    """
    batch: list[np.ndarray] = []
    for path in paths:
        # AOTInductor reads its input as if it were contiguous.
        image = np.ascontiguousarray(read_image(path, pixel_range).permute(1, 2, 0).numpy())
        if batch and (len(batch) == BATCH or image.shape != batch[0].shape):
            yield np.stack(batch)
            batch = []
        batch.append(image)
    if batch:
        yield np.stack(batch)


def random_batches(image_size: tuple[int, int]) -> Iterator[np.ndarray]:
    """Noise, uint8 (N, H, W, 3), the same every time: the detector's own size, larger, smaller."""
    height, width = image_size
    generator = np.random.default_rng(0)
    for number, size in (
        (3, (height, width)),
        (1, (2 * height + 1, width + 3)),
        (2, (height + 5, 2 * width - 1)),
        (1, (height // 2 + 1, width // 3 + 1)),
    ):
        yield generator.integers(0, 256, (number, *size, 3), dtype=np.uint8)


def _relative(difference: np.ndarray, size: np.ndarray) -> float:
    """Largest of the differences (n,) relative to sizes (n,), of which none is below the median."""
    size = np.maximum(size, np.median(size))
    # Equal zeros do not differ; NaN is passed on.
    ratio = np.divide(difference, size, out=np.full_like(size, np.inf), where=size != 0)
    return float(np.where(difference == 0, 0.0, ratio).max())


def _rank_correlation(expected: np.ndarray, score: np.ndarray) -> float | None:
    if np.ptp(expected) == 0 or np.ptp(score) == 0:  # one image, too: there are no ranks
        return None
    from scipy.stats import spearmanr

    return float(spearmanr(expected, score).statistic)
