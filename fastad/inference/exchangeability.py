"""Whether values keep coming from where a first sample came from: a test after every value.

p-values by one fixed calibration sample depend on each other, as all are ranks in the same sample.
Here each value is ranked among the sample and all values before it. While all of them are
exchangeable, these p-values are independent and uniform, exactly (Vovk, Nouretdinov and Gammerman,
ICML 2003; ties are broken at random).

A gambler bets against that. Their capital is a martingale that starts at 1, a conformal test
martingale. By Ville's inequality it ever reaches c with a probability of at most 1 / c, however
often one looks. So 1 over the highest capital is a p-value at any time.

The capital is laid on four bets, on small p-values and on large ones, strongly and weakly. It is
unknown when a change comes: of each bet a part starts with every value, by weights that sum to 1.
What has not started is kept. So a late change is found nearly as fast as an early one.
"""

import math

import numpy as np
from numpy.typing import ArrayLike

MOST = 8192  # different values that are told apart
STRONG = 0.4  # exponent of the strong bets, k p^(k - 1) for k = 0.4
RESERVE = 0.25  # of the capital (1 + t)^-0.25 has not started after t values


class RanksSoFar:
    """p-values of values that come one by one, each ranked among all before it.

    Memory does not grow: where more than `MOST` different values came, all are cut to fewer binary
    digits, as few as leave at most `MOST`. What is equal then is a tie, and ties are broken at
    random. How many digits are left follows from the values alone and not from their order. So the
    p-values stay independent and uniform.

    Args:
        sample: (n,) the first values.
        rng: breaks ties, and spreads a p-value evenly over its rank.
    """

    def __init__(self, sample: np.ndarray, rng: np.random.Generator) -> None:
        every = np.asarray(sample, np.float64)
        self._total, self._rng, self._digits = len(every), rng, 53
        self._values, self._counts = np.empty(MOST + 1), np.empty(MOST + 1, np.int64)
        self._length = 0
        self._keep(*np.unique(every, return_counts=True))

    def add(self, value: float) -> float:
        """The p-value of the next value, in (0, 1): small where few are higher."""
        if self._digits < 53:
            value = float(_cut(value, self._digits))
        values, counts = self._values[: self._length], self._counts[: self._length]
        at = int(values.searchsorted(value))
        is_known = at < len(values) and values[at] == value
        equal = int(counts[at]) if is_known else 0
        higher = int(counts[at:].sum()) - equal
        share = 1.0 - self._rng.random()  # in (0, 1]
        self._total += 1
        if is_known:
            counts[at] += 1
        else:
            self._values[at + 1 : self._length + 1] = values[at:]
            self._counts[at + 1 : self._length + 1] = counts[at:]
            self._values[at], self._counts[at] = value, 1
            self._length += 1
            if self._length > MOST:
                self._keep(self._values.copy(), self._counts.copy())
        return min((higher + share * (equal + 1)) / self._total, 1 - 1e-12)

    def _keep(self, values: np.ndarray, counts: np.ndarray) -> None:
        """Keep sorted values and how often each came, with as many digits as there is room for."""
        while len(values) > MOST:
            self._digits -= 1
            values, place = np.unique(_cut(values, self._digits), return_inverse=True)
            counts = np.bincount(place, counts).astype(np.int64)
        self._length = len(values)
        self._values[: self._length], self._counts[: self._length] = values, counts


def _cut(values: ArrayLike, digits: int) -> np.ndarray:
    """Values with so many binary digits of theirs, the others 0."""
    fractions, exponents = np.frexp(values)
    return np.ldexp(np.trunc(np.ldexp(fractions, digits)), exponents - digits)


class Capital:
    """The capital of the gambler, as a natural logarithm; `add` takes p-values one by one."""

    def __init__(self) -> None:
        self._count, self._kept, self._bets = 0, 1.0, [0.0] * 4
        self._hundreds = 0  # the bets are kept divided by 10^100 so often: nothing overflows

    def add(self, p: float) -> float:
        """The logarithm of the capital after the next p-value, in (0, 1)."""
        self._count += 1
        kept = (1 + self._count) ** -RESERVE
        unit = 10.0 ** (-100 * self._hundreds)
        started, self._kept = (self._kept - kept) * unit, kept
        self._bets = [
            (bet + started) * factor for bet, factor in zip(self._bets, factors(p), strict=True)
        ]
        capital = kept * unit + sum(self._bets) / len(self._bets)
        logarithm = math.log(capital) + 100 * self._hundreds * math.log(10)
        if capital > 1e100:
            self._scale(1)
        elif self._hundreds and capital < 1e-100:
            self._scale(-1)
        return logarithm

    def _scale(self, hundreds: int) -> None:
        self._hundreds += hundreds
        self._bets = [bet * 10.0 ** (-100 * hundreds) for bet in self._bets]


def factors(p: float) -> tuple[float, float, float, float]:
    """What the four bets are multiplied by; the mean of each over p in (0, 1) is 1."""
    return (
        STRONG * p ** (STRONG - 1),
        STRONG * (1 - p) ** (STRONG - 1),
        1.5 - p,
        0.5 + p,
    )


def change_point(sample: np.ndarray, values: np.ndarray) -> int:
    """Index of the value with which the most likely change of level begins.

    The rank sum after it is the furthest from what it would be without a change, in deviations
    (Pettitt, Applied Statistics 28, 1979, normalised). The sample (n,) is before any change.

    Args:
        sample: (n,), n >= 1.
        values: (m,), m >= 1, in order.
    """
    from scipy.stats import rankdata  # takes longer to import than a detector to load

    every = np.concatenate([sample, values])
    ranks = rankdata(every) - (len(every) + 1) / 2
    after = np.cumsum(ranks[::-1])[::-1][len(sample) :]
    counts = np.arange(len(values), 0, -1)
    return int(np.argmax(np.abs(after) / np.sqrt(counts * (len(every) - counts))))
