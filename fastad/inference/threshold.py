"""Thresholds and p-values from held-out normal images alone (split conformal prediction).

For n calibration scores and a new normal score that are exchangeable, the new one exceeds the
k-th smallest, k = ceil((n + 1)(1 - a)), with probability at most a (Vovk et al., Algorithmic
Learning in a Random World, 2005; Bates et al., Annals of Statistics 51, 2023, for p-values).

The guarantee holds for images like the held-out ones, on average over the draw of the calibration
set. Training keeps the epoch whose mean score on the same held-out images is the lowest, which
makes these scores a little smaller than those of images that nothing was chosen on: the true
false-alarm rate can lie slightly above the one asked for.
"""

import math
import warnings

import numpy as np


def conformal_threshold(
    calibration: np.ndarray, false_positive_rate: float, *, warn: bool = True
) -> float:
    """Threshold that a normal image exceeds with probability at most ``false_positive_rate``.

    calibration: (n,) scores of held-out normal images. An image is anomalous when its score is
    *above* the threshold, which is the case exactly when its p-value is at most the rate.

    The rate can be kept only with n >= 1 / rate - 1 scores; with fewer, the theory's threshold is
    infinite and would find nothing. The largest score is returned then, which keeps the rate
    1 / (n + 1), and a warning, unless ``warn`` is false, says how many images would do.

    Raises ValueError for an empty or non-finite calibration or a rate outside (0, 1).
    """
    calibration = _checked(calibration)
    if not 0 < false_positive_rate < 1:
        raise ValueError(f"false_positive_rate must be between 0 and 1, got {false_positive_rate}")
    n = calibration.size
    # The tolerance keeps 0.01 * 100 at one although binary fractions miss it by rounding.
    above = math.floor(false_positive_rate * (n + 1) + 1e-9)
    if above == 0:
        if warn:
            needed = math.ceil(1 / false_positive_rate - 1e-9) - 1
            warnings.warn(
                f"a false-positive rate of {false_positive_rate:g} needs at least {needed} "
                f"held-out normal images, there are {n}: the threshold is the largest of their "
                f"scores, which keeps a rate of {1 / (n + 1):.2g}",
                stacklevel=3,
            )
        above = 1
    return float(np.sort(calibration)[n - above])


def p_values(scores: np.ndarray, calibration: np.ndarray) -> np.ndarray:
    """Share of normal images that look at least as anomalous: (1 + #{c >= s}) / (n + 1).

    scores: (N,); calibration: (n,) scores of held-out normal images. Returns (N,) float64, at
    least 1 / (n + 1). Raises ValueError for non-finite scores or an empty calibration.
    """
    calibration = np.sort(_checked(calibration))
    scores = np.asarray(scores)
    if not np.isfinite(scores).all():
        raise ValueError("scores must be finite")
    n = calibration.size
    at_least = n - np.searchsorted(calibration, scores, side="left")
    return (1 + at_least) / (n + 1)


def _checked(calibration: np.ndarray) -> np.ndarray:
    calibration = np.asarray(calibration)
    if calibration.ndim != 1 or calibration.size == 0:
        raise ValueError(f"calibration must be (n,) with n >= 1, got shape {calibration.shape}")
    if not np.isfinite(calibration).all():
        raise ValueError("calibration scores must be finite")
    return calibration
