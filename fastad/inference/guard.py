"""Whether an image is like the good ones at all, whatever its score: by simple statistics.

A detector gives any image a score. A black frame, or another product, may have a low one. The
guard compares the image's statistics (`fastad.data.appearance`), its aspect ratio and how low its
score is with those of the held-out good images.

The strangeness of an image is its largest distance from the mean, in deviations, over all
statistics. Mean and deviation are those of the held-out images and the image together, so that all
of them are treated alike. A good image is then among the k strangest of n + 1 with a probability of
at most k / (n + 1) (full conformal prediction, Vovk et al., 2005). An image is only said to be
strange where a statistic also lies clearly outside of what the held-out images span: there are
fewer false alarms than promised.
"""

from collections.abc import Sequence

import numpy as np

from fastad.data.appearance import STATISTICS

OK, UNKNOWN = "ok", "unknown"
INPUTS = (OK, "dark", "bright", "blurred", "shape", "unlike", UNKNOWN)
COLUMNS = (*STATISTICS, "aspect", "score")
# Smallest deviation that is taken for one: of grey levels a hundredth of white, of logarithms 5 %.
FLOORS = np.array([0.01, 0.01, 0.05, 0.01, 0.01, 0.05, 0.05])
MARGIN = 0.25  # of the held-out images' span, on either side of it
MOST = 512  # held-out images: with more the comparison takes longer and says no more


class InputGuard:
    """Tells images that are unlike the held-out good ones.

    Args:
        appearance: (n, 5) statistics of held-out images, see `fastad.data.appearance`.
        log_aspects: (n,) logarithms of their widths by heights; NaN where it is unknown.
        scores: (n,) their scores.
        rate: largest share of good images that may be said to be strange.
    """

    def __init__(
        self, appearance: np.ndarray, log_aspects: np.ndarray, scores: np.ndarray, rate: float
    ) -> None:
        n = len(scores)
        kept = np.unique(np.linspace(0, n - 1, min(n, MOST)).round().astype(int))
        self._log = bool(n) and float(np.min(scores)) > 0
        columns = [appearance, log_aspects[:, None], self._of_scores(scores)[:, None]]
        known = np.concatenate(columns, axis=1, dtype=np.float64)[kept]
        if np.isnan(known[:, -2]).any():
            known[:, -2] = 0.0  # and so is each image's: the aspect ratio is not compared
        self._knows_aspect = not np.isnan(log_aspects).any()
        self._known, self._rate = known, rate
        if n:
            low, high = known.min(axis=0), known.max(axis=0)
            margin = np.maximum(MARGIN * (high - low), FLOORS)
            self._low, self._high = low - margin, high + margin
            self._high[-1] = np.inf  # a high score is for the threshold to judge

    def judge(
        self, appearance: np.ndarray, log_aspects: np.ndarray, scores: np.ndarray
    ) -> np.ndarray:
        """One of `INPUTS` for each of N images, given as the held-out ones: (N,) of text."""
        found = np.full(len(scores), UNKNOWN, dtype="<U7")
        if len(self._known) == 0:
            return found
        values = self._values(appearance, log_aspects, scores)
        outside = (values < self._low) | (values > self._high)
        allowed = max(self._rate, 1 / (len(self._known) + 1)) + 1e-9
        found[:] = OK
        for i in np.flatnonzero(outside.any(axis=1)):  # most are inside, which takes no time
            if self.p_values(values[i : i + 1])[0] <= allowed:
                found[i] = _name(values[i], self._low, self._high)
        return found

    def p_values(self, values: np.ndarray) -> np.ndarray:
        """Of (N, `COLUMNS`) values: shares of good images that are at least as strange, (N,)."""
        known, n = self._known, len(self._known)
        centre = known.mean(axis=0)  # around it, so that squares lose no digits
        near, new = known - centre, values - centre
        mean = new / (n + 1)
        variance = (near.var(axis=0) * n + new**2) / (n + 1) - mean**2
        deviation = np.sqrt(np.maximum(variance, 0) + FLOORS**2)
        of_known = _strangeness(near[None] - mean[:, None], deviation[:, None])
        of_new = _strangeness(new - mean, deviation)
        return (1 + (of_known >= of_new[:, None]).sum(axis=1)) / (n + 1)

    def _values(
        self, appearance: np.ndarray, log_aspects: np.ndarray, scores: np.ndarray
    ) -> np.ndarray:
        # An image of the detector's own size has been resized by its user, from what is unknown.
        usual = self._known[:, -2].mean()
        aspects = np.where(np.isnan(log_aspects), usual, log_aspects)
        aspects = aspects if self._knows_aspect else np.zeros(len(scores))
        columns = [appearance, aspects[:, None], self._of_scores(scores)[:, None]]
        return np.concatenate(columns, axis=1, dtype=np.float64)

    def _of_scores(self, scores: np.ndarray) -> np.ndarray:
        scores = np.asarray(scores, dtype=np.float64)
        return np.log(np.maximum(scores, 1e-30)) if self._log else scores


def log_aspects_of(sizes: Sequence[tuple[int, int]], own: tuple[int, int]) -> np.ndarray:
    """Logarithms of width by height of N images as they were read, by (height, width): (N,).

    NaN for images of the detector's ``own`` size: their users have resized them.
    """
    given = np.array(sizes, dtype=np.float64).reshape(-1, 2)
    is_own = (given == own).all(axis=1)
    return np.where(is_own, np.nan, np.log(given[:, 1] / given[:, 0]))


def _strangeness(distance: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """Largest of the distances (..., `COLUMNS`) in deviations; a score is strange by being low."""
    ratio = distance / deviation
    return np.maximum(np.abs(ratio[..., :-1]).max(axis=-1), -ratio[..., -1])


def _name(values: np.ndarray, low: np.ndarray, high: np.ndarray) -> str:
    below = dict(zip(COLUMNS, values < low, strict=True))
    above = dict(zip(COLUMNS, values > high, strict=True))
    if below["aspect"] or above["aspect"]:
        return "shape"
    if below["brightness"]:
        return "dark"
    if above["brightness"]:
        return "bright"
    return "blurred" if below["sharpness"] else "unlike"
