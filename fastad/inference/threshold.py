"""Thresholds and p-values from held-out normal images alone (split conformal prediction).

For n calibration scores and a new normal score that are exchangeable, the new one exceeds the
k-th smallest, k = ceil((n + 1)(1 - a)), with probability at most a (Vovk et al., Algorithmic
Learning in a Random World, 2005; Bates et al., Annals of Statistics 51, 2023, for p-values).

The guarantee holds for images like the held-out ones, on average over the draw of the calibration
set. Training chooses the epoch by the same held-out images: by their mean
`AnomalyModel.validation_score`, and by synthesised defects on them (`fastad.training.choice`). They
choose how maps are scaled and pooled, too (`fastad.training.map_choice`). This makes their scores a
little smaller than those of images that nothing was chosen on. The true false-alarm rate can lie
slightly above the one asked for.
"""

import hashlib
import math
import warnings
from typing import Any

import numpy as np

from fastad._values import is_number, plain

# In another batch an image's score differs by rounding, of about 1e-6: without a margin a
# held-out image, or one like it, would be above the threshold that it set itself.
ROUNDING = 1e-5


def scores_digest(calibration: np.ndarray) -> str | None:
    """Which calibration it is, 16 hexadecimal digits of the scores (n,). None without any."""
    scores = np.ascontiguousarray(calibration, dtype=np.float64)
    return hashlib.blake2b(scores.data, digest_size=8).hexdigest() if scores.size else None


def conformal_threshold(
    calibration: np.ndarray, false_positive_rate: float, *, warn: bool = True
) -> float:
    """Threshold that a normal image exceeds with probability at most ``false_positive_rate``.

    An image is anomalous when its score is above the threshold. That is the case exactly when its
    p-value is at most the rate.

    The rate needs n >= 1 / rate - 1 scores. With fewer, the theory's threshold is infinite and
    would find nothing. The result is then the largest score, which keeps the rate 1 / (n + 1).

    Args:
        calibration: (n,) scores of held-out normal images.
        false_positive_rate: between 0 and 1.
        warn: warn when there are too few scores, and say how many would do.

    Raises:
        ValueError: the calibration is empty or not finite, or the rate is not between 0 and 1.

    Examples:
        >>> import numpy as np
        >>> from fastad.inference import conformal_threshold
        >>> calibration = np.arange(1, 100) / 100  # 0.01 to 0.99
        >>> conformal_threshold(calibration, false_positive_rate=0.05)
        0.95
    """
    calibration = _checked(calibration)
    false_positive_rate = plain(false_positive_rate)
    if not is_number(false_positive_rate) or not 0 < false_positive_rate < 1:
        raise ValueError(f"false_positive_rate must be between 0 and 1, got {false_positive_rate}")
    n = calibration.size
    # The tolerance keeps 0.01 * 100 at one although binary fractions miss it by rounding.
    above = math.floor(false_positive_rate * (n + 1) + 1e-9)
    if above == 0:
        if warn:
            needed = math.ceil(1 / false_positive_rate - 1e-9) - 1
            warnings.warn(
                f"a false-positive rate of {100 / (n + 1):.2g} % is promised, the lowest that {n} "
                f"held-out normal images allow; the {100 * false_positive_rate:.2g} % asked for "
                f"needs {needed}",
                stacklevel=3,
            )
        above = 1
    return float(np.sort(calibration)[n - above])


def p_values(scores: np.ndarray, calibration: np.ndarray) -> np.ndarray:
    """Share of normal images that look at least as anomalous: (1 + #{c >= s}) / (n + 1).

    Args:
        scores: (N,) scores of new images.
        calibration: (n,) scores of held-out normal images.

    Returns:
        (N,) float64, at least 1 / (n + 1).

    Raises:
        ValueError: a score is not finite, or the calibration is empty.

    Examples:
        >>> import numpy as np
        >>> from fastad.inference import p_values
        >>> calibration = np.arange(1, 100) / 100  # 0.01 to 0.99
        >>> p_values(np.array([0.5, 0.955, 2.0]), calibration)
        array([0.51, 0.05, 0.01])
    """
    calibration = np.sort(_checked(calibration))
    scores = np.asarray(scores)
    if not np.isfinite(scores).all():
        raise ValueError("scores must be finite")
    n = calibration.size
    at_least = n - np.searchsorted(calibration, scores, side="left")
    return (1 + at_least) / (n + 1)


def alarm_p_value(alarms: int, images: int, above: int, calibration: int) -> float:
    """Probability of so many alarms or more among new images like those of the calibration.

    The threshold is a score of the calibration, and ``above`` of its n scores are higher. The share
    of good images above it varies with the calibration set as Beta(1 + above, n - above). The
    number of alarms is then beta-binomial.
    """
    from scipy.stats import betabinom  # takes longer to import than a detector to load

    if above >= calibration:
        return 1.0  # whatever comes is above it
    return float(betabinom.sf(alarms - 1, images, 1 + above, calibration - above))


def raised(values: np.ndarray) -> np.ndarray:
    """Calibration scores with a margin for rounding, see `ROUNDING`."""
    return values + ROUNDING * np.abs(values)


def _checked(calibration: np.ndarray) -> np.ndarray:
    calibration = np.asarray(calibration)
    if calibration.ndim != 1 or calibration.size == 0:
        raise ValueError(f"calibration must be (n,) with n >= 1, got shape {calibration.shape}")
    if not np.isfinite(calibration).all():
        raise ValueError("calibration scores must be finite")
    return calibration


def checked_rate(rate: Any) -> float:
    """A rate of false alarms; ValueError where it is none."""
    rate = plain(rate)
    if not is_number(rate) or not 0 < rate < 1:
        raise ValueError(f"false_positive_rate must be between 0 and 1; got {rate!r:.200}")
    return rate
