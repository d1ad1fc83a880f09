"""The sequential test: its p-values, its capital, and its bound by simulation."""

import math

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import binom, kstest

from fastad.inference import exchangeability
from fastad.inference.exchangeability import (
    RESERVE,
    Capital,
    RanksSoFar,
    change_point,
    factors,
)


class Fixed:
    """A generator whose draws are given."""

    def __init__(self, value):
        self.value = value

    def random(self):
        return self.value


def brute_p_value(before, value, share):
    higher, equal = sum(v > value for v in before), sum(v == value for v in before)
    return (higher + share * (equal + 1)) / (len(before) + 1)


@pytest.mark.parametrize("draw", [0.0, 0.25, 0.999])
def test_p_values_are_ranks_among_all_before(draw):
    values = np.random.default_rng(0).integers(0, 12, 80).astype(float)  # with many ties
    ranks = RanksSoFar(values[:10], Fixed(draw))
    for i, value in enumerate(values[10:], 10):
        expected = brute_p_value(values[:i], value, 1 - draw)
        assert ranks.add(value) == pytest.approx(expected, abs=2e-12)
        assert 0 < expected <= 1


def cut(values, digits):
    """Values with so many binary digits."""
    parts = map(math.frexp, values)
    return [math.ldexp(math.trunc(math.ldexp(f, digits)), e - digits) for f, e in parts]


def test_many_values_are_cut_to_fewer_digits(monkeypatch):
    monkeypatch.setattr(exchangeability, "MOST", 40)
    rng = np.random.default_rng(0)
    values = rng.uniform(0.2, 3, 300) * rng.choice([-1, 1], 300)
    ranks = RanksSoFar(values[:50], Fixed(0.25))
    for i, value in enumerate(values[50:], 50):
        left = next(d for d in range(53, 0, -1) if len(set(cut(values[:i], d))) <= 40)
        expected = brute_p_value(cut(values[:i], left), cut([value], left)[0], 0.75)
        assert ranks.add(value) == pytest.approx(expected, abs=2e-12)


@pytest.mark.parametrize("most", [8192, 8])
@pytest.mark.parametrize("ties", [False, True])
def test_p_values_are_uniform_and_independent(ties, most, monkeypatch):
    monkeypatch.setattr(exchangeability, "MOST", most)
    rng, rows = np.random.default_rng(1), []
    for _ in range(2000):
        values = rng.normal(size=18)
        values = np.round(values) if ties else values
        ranks = RanksSoFar(values[:6], rng)
        rows.append([ranks.add(value) for value in values[6:]])
    p = np.array(rows)
    for column in (0, 5, 11):
        assert kstest(p[:, column], "uniform").pvalue > 0.001
    correlations = np.corrcoef(p.T)[~np.eye(12, dtype=bool)]
    assert np.abs(correlations).max() < 4.5 / math.sqrt(2000)


@pytest.mark.parametrize("bet", range(4))
def test_no_bet_gains_on_average(bet):
    total = quad(lambda p: factors(p)[bet], 0, 1, limit=200)[0]
    assert total == pytest.approx(1, abs=1e-6)


def brute_capital(p_values):
    """By its definition: parts that start with every value, and what has not started."""
    weights = [(1 + s) ** -RESERVE - (2 + s) ** -RESERVE for s in range(len(p_values))]
    all_factors = np.array([factors(p) for p in p_values])
    parts = [w * np.prod(all_factors[s:], axis=0).mean() for s, w in enumerate(weights)]
    return (1 + len(p_values)) ** -RESERVE + sum(parts)


def test_capital_is_that_of_the_definition():
    p_values = np.concatenate([np.random.default_rng(2).random(40), np.full(15, 0.02)])
    capital = Capital()
    for i, p in enumerate(p_values, 1):
        expected = math.log(brute_capital(p_values[:i]))
        assert capital.add(float(p)) == pytest.approx(expected, abs=1e-9)


def test_capital_neither_overflows_nor_vanishes():
    capital = Capital()
    highest = [capital.add(1e-4) for _ in range(1000)][-1]
    assert highest == pytest.approx(1000 * math.log(factors(1e-4)[0]), rel=0.01)
    after = [capital.add(0.5) for _ in range(50_000)]
    assert all(map(math.isfinite, after))
    assert after[-1] < highest - 1000
    assert after[-1] >= -RESERVE * math.log(60_000)  # what has not started is never lost


def ever_reaches(limit, streams, length, sample, fixed_sample=False):
    """How many undrifted streams' capital ever reaches a limit."""
    rng, found = np.random.default_rng(3), 0
    for _ in range(streams):
        values = rng.exponential(size=sample + length)
        ranks, capital, known = RanksSoFar(values[:sample], rng), Capital(), values[:sample]
        for value in values[sample:].tolist():
            p = ranks.add(value)
            if fixed_sample:
                p = ((known > value).sum() + rng.random()) / (sample + 1)
            if capital.add(float(p)) >= math.log(limit):
                found += 1
                break
    return found


def test_false_alarms_are_at_most_as_promised():
    """2,000 undrifted streams, looked at after every one of 150 images."""
    for_chance = binom.ppf(0.999, 2000, 0.1)
    assert ever_reaches(10, 2000, 150, sample=15) <= for_chance


def test_p_values_of_the_sample_alone_would_break_the_promise():
    assert ever_reaches(10, 300, 300, sample=15, fixed_sample=True) > binom.ppf(0.9999, 300, 0.1)


@pytest.mark.parametrize(
    ("shift", "median", "most"), [(2.0, 12, 20), (1.0, 40, 90), (-1.0, 40, 90)]
)
def test_detection_delay(shift, median, most):
    """A shift by deviations at image 201, after a calibration of 100; as the page says."""
    rng, delays, errors = np.random.default_rng(4), [], []
    for _ in range(60):
        values = rng.normal(size=100 + 200 + 300)
        values[300:] += shift
        ranks, capital = RanksSoFar(values[:100], rng), Capital()
        logs = [capital.add(ranks.add(value)) for value in values[100:].tolist()]
        first = int(np.argmax(np.array(logs) >= math.log(500)))
        delays.append(first - 199)
        errors.append(abs(change_point(values[:100], values[100 : 100 + first + 1]) - 200))
    assert min(delays) > 0
    assert np.median(delays) <= 1.35 * median
    assert np.quantile(delays, 0.9) <= most
    assert np.median(errors) <= 4


def test_change_point_is_that_of_the_definition():
    rng = np.random.default_rng(5)
    sample, values = rng.normal(size=12), np.append(rng.normal(size=9), 3 + rng.normal(size=7))
    every = np.append(sample, values)
    found = []
    for s in range(len(values)):
        before, after = every[: 12 + s], every[12 + s :]
        u = sum(np.sign(a - b) for a in after for b in before)
        found.append(abs(u) / math.sqrt(len(before) * len(after)))
    assert change_point(sample, values) == int(np.argmax(found)) == 9
    assert change_point(sample, np.full(5, 9.0)) == 0
