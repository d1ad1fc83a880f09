"""Which good images look least good: a defect among the training images is learned as normal.

No image is judged by what was learned from itself. The images are dealt into parts. Each part is
compared with the others by the residual of their patch features (`fastad.models.residual`), the
features being those of the detector's own teacher. Moments are added up once and a part's own are
taken out again, so all parts together take two passes over the images.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from fastad.data.depth import FULL
from fastad.data.folder import Images
from fastad.data.training_set import read_training_set
from fastad.inference.calibration import stacked
from fastad.inference.known_images import listed
from fastad.inference.predictor import Predictor
from fastad.models import AnomalyModel
from fastad.models.base import FrozenTeacher
from fastad.models.residual import Moments, SubspaceResidual, patch_features

PARTS = 10  # that take turns
FEWEST = 10  # images: of fewer none is unusual
LEVELS = 2  # of the teacher, the last ones: earlier ones show texture, not the product
FALSE_SHARE = 0.1  # of those that stand out may be good, on average
SHOWN = 10
EFFICIENCY = 0.37  # of the median absolute deviation of normal values (Rousseeuw and Croux, 1993)


@dataclass
class Suspects:
    """How unusual each of n good images is among the others.

    Attributes:
        score: (n,) float64, higher is less like the others.
        p_value: (n,) float64, the share of good images that would look at least as unusual, as far
            as their scores are log-normal. See `tail_shares`. It can be far below 1 / n.
        standing_out: how many stand out, by the rule of Benjamini and Hochberg (1995). As far as
            good scores are log-normal, a share of `FALSE_SHARE` of them are good on average.
        anomaly_map: (n, h, w) float32, where. On the grid of the teacher's features.
        paths: the files of the n images. None unless all were given as paths.
    """

    score: np.ndarray
    p_value: np.ndarray
    standing_out: int
    anomaly_map: np.ndarray
    paths: list[Path] | None = None

    def __len__(self) -> int:
        return len(self.score)

    @property
    def order(self) -> np.ndarray:
        """(n,) indices of the images, the most unusual first."""
        return np.argsort(-self.score, kind="stable")

    def first(self, count: int = SHOWN) -> np.ndarray:
        """The images to look at, the most unusual first: all that stand out, at least ``count``."""
        return self.order[: max(count, self.standing_out)]


def detector_suspects(
    predictor: Predictor, images: Any, *, skip_bad: bool = False, **options: Any
) -> Suspects:
    """`suspects` by a detector's teacher.

    Args:
        predictor: the detector's.
        images: a folder of good images, or images in any form of `fastad.data.inputs`.
        skip_bad: leave unreadable files out and report them, instead of stopping at the first.
        **options: ``seed`` and ``progress`` of `suspects`.

    Raises:
        ValueError, FileNotFoundError, ImageError: as `read_training_set` and `suspects`.
    """
    depth = (predictor.pixel_range or FULL).option
    source = read_training_set(listed(images), predictor.image_size, skip_bad, depth)
    result = suspects(predictor.model, source.dataset, batch_size=predictor.batch_size, **options)
    paths = getattr(source.dataset, "paths", None)
    return dataclasses.replace(result, paths=None if paths is None else list(paths))


@torch.inference_mode()
def suspects(
    model: AnomalyModel,
    dataset: Images,
    *,
    batch_size: int = 32,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Suspects:
    """How unusual each image of a data set is, by a model's teacher.

    Args:
        model: its first frozen teacher is taken. It may be trained or not. Outside its region of
            interest nothing counts.
        dataset: n images (3, H, W) at the model's size, uint8, or dicts with one as "image".
        batch_size: images at once.
        seed: of the parts.
        progress: called with the images done in both passes and their number.

    Raises:
        ValueError: there are fewer than `FEWEST` images, or the model has no teacher.
    """
    n = len(dataset)
    if n < FEWEST:
        raise ValueError(f"images: {n} images are too few to say which is unusual; give {FEWEST}")
    teachers = [m for m in model.modules() if isinstance(m, FrozenTeacher)]
    if not teachers:
        raise ValueError(f"{model.name} has no frozen teacher to compare images by")
    part_of = np.random.default_rng(seed).permutation(n) % PARTS
    passes = _Passes(model, teachers[0], dataset, batch_size, progress)
    moments: dict[int, Moments] = {}
    for indices, features in passes.features():
        for part in np.unique(part_of[indices]).tolist():
            empty = Moments.empty(features.shape[1], features.device)
            moments.setdefault(part, empty).add(model.places(features[part_of[indices] == part]))
    everything = functools.reduce(Moments.__add__, moments.values())
    residuals = {part: _residual(everything - own) for part, own in moments.items()}
    maps = np.empty((n, 0, 0), np.float32)
    for indices, features in passes.features():
        for part in np.unique(part_of[indices]).tolist():
            own = part_of[indices] == part
            smooth = _smoothed(residuals[part](features[own]))
            if model.roi is not None:
                smooth = smooth * model.roi.holds((smooth.shape[1], smooth.shape[2]))
            distances = smooth.cpu().numpy()
            if maps.size == 0:
                maps = np.empty((n, *distances.shape[1:]), np.float32)
            maps[indices[own]] = distances
    score = scores_of(maps)
    p_value = tail_shares(score)
    return Suspects(score, p_value, standing_out(p_value), maps)


def _residual(moments: Moments) -> SubspaceResidual:
    residual = SubspaceResidual(len(moments.total)).to(moments.total.device)
    residual.fit_moments(moments)
    return residual


class _Passes:
    """Passes over the images by the teacher, and how far they are."""

    def __init__(
        self,
        model: AnomalyModel,
        teacher: FrozenTeacher,
        dataset: Images,
        batch_size: int,
        progress: Callable[[int, int], None],
    ) -> None:
        self._model, self._teacher, self._dataset = model, teacher, dataset
        self._batch_size, self._progress = batch_size, progress
        self._done = 0

    def features(self) -> Iterator[tuple[np.ndarray, Tensor]]:
        """Indices (N,), and patch features (N, D, h, w) of the images, batch by batch."""
        n = len(self._dataset)
        for start in range(0, n, self._batch_size):
            indices = np.arange(start, min(start + self._batch_size, n))
            images = stacked(self._dataset, indices.tolist()).to(self._model.mean.device)
            images = images.float() / 255 if images.dtype == torch.uint8 else images.float()
            levels = self._teacher(self._model.normalize(images))
            if self._model.overview:
                levels = levels[: len(levels) // 2]  # those of the image
            yield indices, patch_features([level.float() for level in levels[-LEVELS:]])
            self._done += len(indices)
            self._progress(self._done, 2 * n)


def _smoothed(maps: Tensor) -> Tensor:
    """Means of 3x3 places: a single one says little."""
    return functional.avg_pool2d(maps[:, None], 3, 1, 1, count_include_pad=False)[:, 0]


def scores_of(maps: np.ndarray) -> np.ndarray:
    """Highest value of each map (n, h, w) by the mean of the others at its place: (n,) float64."""
    wide = maps.astype(np.float64)
    n = len(wide)
    others = (wide.sum(axis=0) - wide) / (n - 1)
    return (wide / np.maximum(others, wide.mean())).max(axis=(1, 2))


def tail_shares(scores: np.ndarray) -> np.ndarray:
    """How much of a log-normal distribution is above each of the scores (n,): (n,).

    Its centre is the median of their logarithms, its deviation comes from the median absolute
    deviation, which a few defects do not change. That is estimated as well as a standard deviation
    of `EFFICIENCY` times as many images, so the tails are those of Student's t.
    """
    from scipy.special import stdtr  # takes longer to import than a detector to load

    logs = np.log(np.maximum(scores, 1e-30))
    centre = np.median(logs)
    deviation = max(1.4826 * float(np.median(np.abs(logs - centre))), 1e-6)
    return stdtr(max(EFFICIENCY * (len(scores) - 1), 1.0), (centre - logs) / deviation)


def standing_out(p_values: np.ndarray, false_share: float = FALSE_SHARE) -> int:
    """How many of the smallest p-values (n,) stand out (Benjamini and Hochberg)."""
    n = len(p_values)
    enough = np.sort(p_values) <= false_share * np.arange(1, n + 1) / n
    return int(np.flatnonzero(enough).max(initial=-1)) + 1
