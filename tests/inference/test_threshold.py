"""Conformal thresholds and p-values."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastad.inference import conformal_threshold, p_values


def test_the_rank_is_ceil_n_plus_one_times_one_minus_rate():
    scores = np.random.default_rng(0).permutation(np.arange(1.0, 100.0))  # 1 ... 99
    assert conformal_threshold(scores, 0.01) == 99  # rank 100 * 0.99 = 99
    assert conformal_threshold(scores, 0.05) == 95
    assert conformal_threshold(scores, 0.5) == 50
    assert conformal_threshold(scores[:50], 0.1) == np.sort(scores[:50])[45]  # ceil(45.9) = 46


def test_too_few_scores_give_the_largest_and_a_warning():
    text = "2.3 % is promised, the lowest that 42 held-out normal images allow; the 1 % .* needs 99"
    with pytest.warns(UserWarning, match=text):
        assert conformal_threshold(np.arange(42.0), 0.01) == 41
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert conformal_threshold(np.arange(99.0), 0.01) == 98


NORMAL = {
    "gaussian": lambda rng, n: rng.normal(size=n),
    "heavy tail": lambda rng, n: rng.standard_cauchy(size=n),
    "ties": lambda rng, n: rng.integers(0, 30, size=n).astype(float),
    "constant": lambda rng, n: np.zeros(n),
}


@pytest.mark.parametrize("kind", NORMAL)
@pytest.mark.parametrize(("n", "rate"), [(19, 0.05), (59, 0.05), (42, 0.1), (7, 0.3), (99, 0.01)])
def test_the_false_alarm_rate_stays_below_the_promise_on_average(kind, n, rate):
    """Over many draws of calibration and of new images; with continuous scores it is also used
    up, but for the part that a whole rank cannot give."""
    rng = np.random.default_rng(0)
    draws, new = 3000, 50
    alarms, small_p = np.empty(draws), np.empty(draws)
    for i in range(draws):
        calibration, scores = NORMAL[kind](rng, n), NORMAL[kind](rng, new)
        alarms[i] = np.mean(scores > conformal_threshold(calibration, rate))
        small_p[i] = np.mean(p_values(scores, calibration) <= rate)
    error = 4 * alarms.std() / np.sqrt(draws)  # one in 30,000
    assert alarms.mean() <= rate + error
    assert small_p.mean() <= rate + 4 * small_p.std() / np.sqrt(draws)
    if kind in ("gaussian", "heavy tail"):
        exact = np.floor(rate * (n + 1) + 1e-9) / (n + 1)
        assert alarms.mean() == pytest.approx(exact, abs=error)


def test_p_values_by_hand():
    calibration = np.array([1.0, 2.0, 2.0, 3.0])
    assert p_values(np.array([0.0, 1.0, 2.0, 2.5, 3.0, 9.0]), calibration).tolist() == [
        1.0, 1.0, 0.8, 0.4, 0.4, 0.2
    ]  # fmt: skip


@settings(deadline=None)
@given(
    calibration=st.lists(st.integers(0, 20), min_size=1, max_size=150),
    rate=st.floats(0.01, 0.99),
    score=st.integers(-1, 21),
)
@pytest.mark.filterwarnings("ignore:a false-positive rate")
def test_above_the_threshold_is_a_p_value_of_at_most_the_rate(calibration, rate, score):
    calibration = np.array(calibration, dtype=float)
    kept = max(rate, 1 / (calibration.size + 1))  # fewer scores cannot keep a smaller rate
    above = score > conformal_threshold(calibration, rate)
    assert above == (p_values(np.array([score]), calibration)[0] <= kept + 1e-9)


@pytest.mark.parametrize("rate", [0, 1, -0.1, 2, float("nan")])
def test_rate_errors(rate):
    with pytest.raises(ValueError, match="false_positive_rate must be between 0 and 1"):
        conformal_threshold(np.ones(5), rate)


def test_calibration_errors():
    with pytest.raises(ValueError, match=r"calibration must be \(n,\) with n >= 1"):
        conformal_threshold(np.array([]), 0.1)
    with pytest.raises(ValueError, match="calibration scores must be finite"):
        p_values(np.ones(2), np.array([1.0, np.nan]))
    with pytest.raises(ValueError, match="scores must be finite"):
        p_values(np.array([np.nan]), np.ones(2))
