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
    with pytest.warns(UserWarning, match="needs at least 99 held-out normal images, there are 42"):
        assert conformal_threshold(np.arange(42.0), 0.01) == 41
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert conformal_threshold(np.arange(99.0), 0.01) == 98


def test_false_positive_rate_holds_on_average():
    rng = np.random.default_rng(0)
    rates = []
    for _ in range(2000):
        threshold = conformal_threshold(rng.normal(size=59), 0.05)
        rates.append(np.mean(rng.normal(size=200) > threshold))
    assert np.mean(rates) == pytest.approx(0.05, abs=0.003)


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
