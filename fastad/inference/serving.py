"""Whether a detector may predict in half precision and with fused convolutions.

Half precision is several times as fast where the processor has units for it, and nearly always
decides alike; nearly is measured here, on images of the training folder.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor
from torch.utils.data import Dataset

from fastad.inference.calibration import stacked
from fastad.inference.predictor import Predictor
from fastad.inference.threshold import conformal_threshold

IMAGES = 32  # to compare on: enough that one pair in another order still passes
LEAST_CORRELATION = 0.999


@dataclass
class Examination:
    """How a detector predicts, and what that was compared with.

    Attributes:
        precision: that its convolutions run in.
        fused: whether they run folded and fused (`fastad.inference.folding`).
        images: how many the comparison was made on.
        rank_correlation: of their scores with those of the model as it was trained, in float32.
        refused: faster ways that changed ranks or decisions: precisions, or "fused".
    """

    precision: str
    fused: bool
    images: int
    rank_correlation: float
    refused: list[str]

    @property
    def notes(self) -> list[str]:
        """For the training record: what is not as fast as it could be, and why."""
        if not self.refused:
            return []
        plain = "" if self.fused else ", not fused"
        return [
            f"predicting in {self.precision}{plain}, because {' and '.join(self.refused)} changed "
            f"the order of scores or a decision on {self.images} good images"
        ]


def examine(
    predictor: Predictor,
    dataset: Dataset | Tensor,
    held_out: Sequence[int],
    false_positive_rate: float,
) -> Examination:
    """Let a predictor take the fastest way that ranks and decides like plain float32.

    It is set to its own precision fused, to float32 fused, or to plain float32: the first of them
    whose scores of up to `IMAGES` images have a Spearman rank correlation of `LEAST_CORRELATION`
    with those of plain float32, and with which the same of them are above the threshold that the
    scores would give for this rate. The images are the ``held_out`` ones of the data set and, where
    those are few, others.
    """
    others = sorted(set(range(len(dataset))) - set(held_out))
    images = stacked(dataset, [*held_out, *others][:IMAGES])
    ways = dict.fromkeys([(predictor.dtype, True), (torch.float32, True), (torch.float32, False)])
    expected = _scores(predictor, torch.float32, False, images)
    refused: list[str] = []
    for dtype, fused in ways:
        scores = _scores(predictor, dtype, fused, images)
        correlation = rank_correlation(expected, scores)
        alike = _decisions(expected, false_positive_rate) == _decisions(scores, false_positive_rate)
        if (correlation >= LEAST_CORRELATION and alike.all()) or not fused:
            break
        refused.append("fused" if dtype == torch.float32 else _name(dtype))
    return Examination(_name(dtype), fused, len(images), correlation, refused)


def avoid(predictor: Predictor, refused: Sequence[str]) -> None:
    """Set a predictor to plain float32, or float32, where its way is among the ``refused``."""
    if _name(predictor.dtype) in refused:
        predictor.dtype = torch.float32
    predictor.fused = predictor.fused and "fused" not in refused


def rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Spearman's rank correlation of two (n,) arrays; 1 where one of them does not vary."""
    ranks = np.stack([rankdata(first), rankdata(second)])
    if (np.ptp(ranks, axis=1) == 0).any():
        return 1.0
    return float(np.corrcoef(ranks)[0, 1])


def _scores(predictor: Predictor, dtype: torch.dtype, fused: bool, images: Tensor) -> np.ndarray:
    predictor.dtype, predictor.fused = dtype, fused
    parts = images.split(predictor.batch_size)
    return np.concatenate([predictor.predict_batch(part).score for part in parts])


def _decisions(scores: np.ndarray, rate: float) -> np.ndarray:
    return scores > conformal_threshold(scores.astype(np.float64), rate, warn=False)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
