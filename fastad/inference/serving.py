"""Whether a detector may predict in half precision and with fused convolutions.

Half precision is several times as fast where the processor has units for it, and nearly always
decides alike; nearly is measured here: on images of the training folder, and on another kind of
machine on the first images that come.
"""

import logging
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastad import _extension
from fastad.data.folder import Images
from fastad.engine.folding import has_foldable_parts
from fastad.engine.precision import fallbacks
from fastad.engine.runtimes import EngineError
from fastad.inference.calibration import stacked
from fastad.inference.predictor import Predictor, Scored
from fastad.inference.threshold import conformal_threshold
from fastad.tiles import Tiling
from fastad.training.precision import cpu_multiplies_in

IMAGES = 32  # to compare on: enough that one pair in another order still passes
LEAST_CORRELATION = 0.999
FIRST = 8  # images on another kind of machine
MOST_NOISE = 0.0447  # of the deviation: scores so noisy have a correlation of 0.999 with the others

Way = tuple[str, torch.dtype]  # engine, and what it computes in

log = logging.getLogger("fastad")


@dataclass
class Examination:
    """How a detector predicts, and what that was compared with.

    Attributes:
        precision: that its convolutions run in.
        fused: whether they run folded and fused (`fastad.engine.folding`).
        images: how many the comparison was made on.
        rank_correlation: of their scores with those of the model as it was trained, in float32.
        refused: faster ways that changed ranks or decisions: precisions, or "fused".
        machine: the kind of device that it was made on, see `machine`.
    """

    precision: str
    fused: bool
    images: int
    rank_correlation: float
    refused: list[str]
    machine: str

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
    dataset: Images,
    held_out: Sequence[int],
    false_positive_rate: float,
) -> Examination:
    """Let a predictor take the fastest way that ranks and decides like plain float32.

    It is set to its own precision fused, to the next of `fastad.engine.precision.fallbacks`, up to
    float32 fused, or to plain float32: the first of them
    whose scores of up to `IMAGES` images have a Spearman rank correlation of `LEAST_CORRELATION`
    with those of plain float32, and with which the same of them are above the threshold that the
    scores would give for this rate. The images are the ``held_out`` ones of the data set and, where
    those are few, others.
    """
    others = sorted(set(range(len(dataset))) - set(held_out))
    images = stacked(dataset, [*held_out, *others][:IMAGES])
    dtypes = _dtypes_to_try(predictor)
    expected = _scores(predictor, torch.float32, False, images)
    refused: list[str] = []
    for dtype, fused in [*((dtype, True) for dtype in dtypes), (torch.float32, False)]:
        scores = _scores(predictor, dtype, fused, images)
        correlation = rank_correlation(expected, scores)
        alike = _decisions(expected, false_positive_rate) == _decisions(scores, false_positive_rate)
        if (correlation >= LEAST_CORRELATION and alike.all()) or not fused:
            break
        refused.append("fused" if dtype == torch.float32 else _name(dtype))
    predictor.dtype, predictor.fused = dtype, fused
    kind = machine(predictor.device)
    return Examination(_name(dtype), fused, len(images), correlation, refused, kind)


def machine(device: torch.device) -> str:
    """The kind of a device, as far as it decides how convolutions round."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    units = [name for name in ("bfloat16", "float16") if cpu_multiplies_in(getattr(torch, name))]
    units += ["int16"] * _extension.cpu_int16
    return " ".join([platform.machine(), torch.backends.cpu.get_cpu_capability(), *units])


class SelfCheckingPredictor(Predictor):
    """A predictor in ways that its detector was not examined in: on another machine or engine.

    It predicts the first images in plain float32 and, beside that, in its own way. Where that way's
    scores are off by less than `MOST_NOISE` of the calibration scores' deviation, and decide alike,
    it is taken from then on; otherwise the next slower one is tried so. The logger "fastad" hears
    of it.

    Args:
        ways: engine and dtype of what is to be tried, the fastest first. None for the predictor's
            own dtype and those to fall back on.
        arguments, options: of `Predictor`.
    """

    def __init__(self, *arguments: Any, ways: list[Way] | None = None, **options: Any):
        super().__init__(*arguments, **options)
        self.ways = ways  # that are left
        self._pairs: list[tuple[np.ndarray, np.ndarray]] = []
        if ways:
            self.engine, self.dtype = ways[0]

    def _compute(self, images: Tensor, tiling: Tiling | None) -> Callable[[], Scored]:
        if self.ways is None:
            dtypes = _dtypes_to_try(self) if self.fused else []
            self.ways = [(self.engine, dtype) for dtype in dtypes]
        left, pairs = self.ways, self._pairs
        if not left:
            return super()._compute(images, tiling)
        score, anomaly_map = self.run(images, torch.float32, False, tiling)
        try:
            tried = self.scores(*self.run(images, left[0][1], True, tiling))
        except EngineError as error:
            log.warning(f"{error}: a slower way is taken")
            self._go_on(left)
            return lambda: (score, anomaly_map)
        pairs.append((self.scores(score, anomaly_map), tried))
        enough = sum(len(seen) for seen, _ in pairs) >= FIRST
        if enough and pairs is self._pairs:  # otherwise another thread has decided already
            self._decide(left, pairs)
        return lambda: (score, anomaly_map)

    def _decide(self, left: list[Way], pairs: list) -> None:
        both = (np.concatenate(part).astype(np.float64) for part in zip(*pairs, strict=True))
        expected, found = both
        limit = np.inf if self.threshold is None else self.threshold
        alike = ((found > limit) == (expected > limit)).all()
        # Rounding is in proportion to the scores: those of defects say nothing about the others.
        off = np.minimum(found, limit) - np.minimum(expected, limit)
        spread = self.calibration.std() if self.calibration.size > 1 else expected.mean() / 10
        noise = np.sqrt(np.mean(np.square(off))) / max(spread, 1e-12)
        engine, dtype = left[0]
        way = f"{_name(dtype)}, {'fused' if engine == 'native' else engine}"
        if noise <= MOST_NOISE and alike:
            self.dtype, self.fused, self.ways = dtype, True, []
            log.info(f"predicting in {way}: on {len(found)} images as in plain float32")
            return
        log.warning(
            f"{way}, would change scores (by {noise:.2g} of the normal images' deviation) or "
            f"decisions on this machine, on {len(found)} images: a slower way is taken"
        )
        self._go_on(left)

    def _go_on(self, left: list[Way]) -> None:
        """To the next way, and in the end to plain float32."""
        self.dtype, self.fused = torch.float32, False
        self.ways, self._pairs = left[1:], []
        self.engine = self.ways[0][0] if self.ways else "native"


def skip_refused(predictor: Predictor, refused: Sequence[str]) -> None:
    """Let a predictor take no way that is among the ``refused``, but the next."""
    if "fused" in refused:
        predictor.dtype, predictor.fused = torch.float32, False
        return
    left = _dtypes_to_try(predictor)
    predictor.dtype = next((dtype for dtype in left if _name(dtype) not in refused), left[-1])


def rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Spearman's rank correlation of two (n,) arrays; 1 where one of them does not vary."""
    from scipy.stats import rankdata  # takes longer to import than a detector to load

    ranks = np.stack([rankdata(first), rankdata(second)])
    if (np.ptp(ranks, axis=1) == 0).any():
        return 1.0
    return float(np.corrcoef(ranks)[0, 1])


def _dtypes_to_try(predictor: Predictor) -> list[torch.dtype]:
    # Only what is folded multiplies integers.
    return fallbacks(
        predictor.dtype, predictor.device, integers=has_foldable_parts(predictor.model)
    )


def _scores(predictor: Predictor, dtype: torch.dtype, fused: bool, images: Tensor) -> np.ndarray:
    parts = images.split(predictor.batch_size)
    return np.concatenate([predictor.run(part, dtype, fused)[0] for part in parts])


def _decisions(scores: np.ndarray, rate: float) -> np.ndarray:
    return scores > conformal_threshold(scores.astype(np.float64), rate, warn=False)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
