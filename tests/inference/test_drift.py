"""Drift of a detector's images: the verdict, its bound, and what it says of the change."""

import json
import math
import pickle

import numpy as np
import pytest
from scipy.stats import binom, ks_2samp

import fastad
from fastad.commands.drift_plot import write_plot
from fastad.data.appearance import STATISTICS
from fastad.inference import PredictionResult, exchangeability, history
from fastad.inference.drift import WATCHED, DriftMonitor, drift
from fastad.inference.threshold import alarm_p_value, conformal_threshold

N = 60  # calibration images


def looks(count, rng):
    """Scores (n,) and appearance (n, 5), all of them dependent on each other."""
    hidden = rng.normal(size=(count, 3))
    score = np.exp(hidden[:, 0] + 0.5 * rng.normal(size=count))
    columns = hidden @ np.random.default_rng(0).normal(size=(3, 5)) * 0.02
    return score, (columns + np.array([0.5, 0.2, -1.0, 0.1, 0.6])).astype(np.float32)


def result_of(score, appearance):
    maps = np.zeros((len(score), 1, 1), np.float32)
    return PredictionResult(score, maps, appearance=appearance)


def monitored(change=lambda score, appearance: None, begin=100, count=300, seed=0, **options):
    rng = np.random.default_rng(seed)
    monitor = DriftMonitor(*looks(N, rng), 0.05, **options)
    score, appearance = looks(count, rng)
    change(score[begin:], appearance[begin:])
    for start in range(0, count, 32):
        monitor.add(result_of(score[start : start + 32], appearance[start : start + 32]))
    return monitor


def darker(score, appearance):
    appearance[:, 0] *= 0.8


def test_all_of_it_keeps_the_promise():
    """2,000 undrifted lines of dependent values, five of them watched, looked at at any time."""
    rng, alarms = np.random.default_rng(1), 0
    for seed in range(2000):
        monitor = DriftMonitor(*looks(15, rng), 0.1, false_alarm_rate=0.2, seed=seed)
        alarms += monitor.add(result_of(*looks(40, rng)))
    assert alarms <= binom.ppf(0.999, 2000, 0.2)


def test_a_darker_lamp_is_said_and_since_when():
    report = monitored(darker).report()
    assert report.is_drift
    assert 0 < report.p_value <= 0.01
    assert report.since in range(97, 104)
    assert report.alarm_at in range(100, 130)
    [brightness] = [one for one in report.watched if one.name == "brightness"]
    assert brightness.change == pytest.approx(-0.2, abs=0.03)
    assert brightness.words == f"darker by {-100 * brightness.change:.2g} %"
    assert f"{brightness.words} since image {brightness.since + 1}" in report.message
    json.dumps(report.to_dict(), allow_nan=False)


def change_of(name, amount):
    def change(score, appearance):
        if name == "score":
            score *= 1 + amount
        elif name == "sharpness":
            appearance[:, 2] += math.log(1 + amount)
        else:
            appearance[:, STATISTICS.index(name)] *= 1 + amount

    return change


@pytest.mark.parametrize("name", list(WATCHED))
@pytest.mark.parametrize("sign", [-1, 1])
def test_each_change_has_its_words(name, sign):
    amount = sign * (0.8 if name == "score" and sign < 0 else 3 if name == "score" else 0.4)
    report = monitored(change_of(name, amount)).report()
    found = {one.name: one for one in report.watched if one.words is not None}
    assert found[name].words.startswith(WATCHED[name][sign > 0])
    assert np.sign(found[name].change) == sign
    assert found[name].since in range(90, 110)


def test_a_lamp_that_is_changed_back_was_known():
    def for_a_while(score, appearance):
        appearance[:60, 0] *= 0.8

    report = monitored(for_a_while, count=600).report()
    assert report.is_drift
    assert report.since in range(97, 104)


def test_without_drift_nothing_is_said():
    report = monitored().report()
    assert not report.is_drift
    assert (report.since, report.alarm_at) == (None, None)
    assert report.message == f"no drift in 300 images (p = {report.p_value:.2g})"
    assert [one.words for one in report.watched] == [None] * 5


def test_the_tests_for_one_look_are_of_two_samples():
    rng = np.random.default_rng(0)
    known, _ = looks(N, rng)
    new, _ = looks(300, rng)
    report = monitored().report()
    threshold = conformal_threshold(known, 0.05)
    assert report.alarms.hits == (new > threshold).sum()
    above = int((known > threshold).sum())
    assert report.alarms_p_value == alarm_p_value(report.alarms.hits, 300, above, N)
    assert report.alarms_promised == (above + 1) / (N + 1)
    assert report.ks_p_value == ks_2samp(known, new).pvalue


def test_the_same_images_once_more_are_no_drift(recwarn):
    known = np.random.default_rng(0).random(300)
    monitor = DriftMonitor(known * (1 + 1e-5), np.empty((0, 5)), 0.05)
    monitor.add(PredictionResult(known, np.zeros((300, 1, 1))))
    report = monitor.report()
    assert (report.is_drift, report.ks_p_value) == (False, 1.0)
    assert not recwarn.list


def test_the_seed_and_the_batches_do_not_matter_for_what_is_found():
    one = monitored(darker, seed=3).report()
    rng = np.random.default_rng(3)
    again = DriftMonitor(*looks(N, rng), 0.05)
    score, appearance = looks(300, rng)
    darker(score[100:], appearance[100:])
    alarms = [again.add(result_of(score[i : i + 1], appearance[i : i + 1])) for i in range(300)]
    assert again.report().message == one.message
    assert alarms.index(True) == one.alarm_at
    assert monitored(darker, seed=3, false_alarm_rate=1e-9).report().p_value == one.p_value


def test_little_memory_finds_the_same(tmp_path, monkeypatch):
    def late(score, appearance):
        appearance[:, 0] *= 0.9

    options = {"change": late, "begin": 3000, "count": 3400}
    whole = monitored(**options).report()
    monkeypatch.setattr(exchangeability, "MOST", 512)
    monkeypatch.setattr(history, "MOST", 512)
    monitor = monitored(**options)
    few = monitor.report()
    assert (few.images, few.alarms, few.is_drift) == (3400, whole.alarms, whole.is_drift)
    assert few.is_drift
    assert abs(few.alarm_at - whole.alarm_at) <= 20
    assert abs(few.since - whole.since) <= 2 * few.watched[0].step
    for one, other in zip(few.watched, whole.watched, strict=True):
        assert len(one.values) == len(one.log10_capital) <= 512
        np.testing.assert_array_equal(one.values, other.values[:: one.step])
        np.testing.assert_array_equal(other.values[one.numbers - 1], one.values)
        np.testing.assert_allclose(one.log10_capital, other.log10_capital[:: one.step], atol=0.5)
    write_plot(str(tmp_path / "drift.png"), few)
    assert (tmp_path / "drift.png").stat().st_size > 0
    assert len(pickle.dumps(monitor)) < 5 * (2 * 512 + 2 * 512 + 5 * N) * 8


def test_scores_alone_are_watched_where_nothing_else_is_known():
    monitor = DriftMonitor(np.arange(20.0), np.empty((0, 5)), 0.1)
    monitor.add(PredictionResult(np.full(30, 25.0), np.zeros((30, 1, 1))))
    report = monitor.report()
    assert [one.name for one in report.watched] == ["score"]
    assert report.message.startswith("drift: scores higher by 163 % since image 1 ")


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="no calibration scores: use calibrate"):
        DriftMonitor(np.empty(0), np.empty((0, 5)), 0.1)
    for rate in (0, 1, -1, math.nan, "x"):
        with pytest.raises(ValueError, match="false_alarm_rate must be between 0 and 1"):
            DriftMonitor(np.ones(3), np.empty((0, 5)), 0.1, false_alarm_rate=rate)
    monitor = DriftMonitor(np.ones(3), np.ones((3, 5)), 0.1)
    with pytest.raises(ValueError, match="there are no images"):
        monitor.report()
    with pytest.raises(ValueError, match="they lack `appearance`"):
        monitor.add(PredictionResult(np.ones(2), np.zeros((2, 1, 1))))


def test_a_detector_watches_its_images():
    rng = np.random.default_rng(0)
    images = rng.integers(100, 156, (60, 32, 32, 3), dtype=np.uint8)
    options = {"image_size": 32, "layers": ("layer1",), "teacher_weights": None, "device": "cpu"}
    detector = fastad.Detector("stpm", **options, false_positive_rate=0.2)
    detector.fit(images[:30], epochs=1, validation_fraction=0.5)
    detector.calibrate(images[30:])
    more = rng.integers(100, 156, (80, 32, 32, 3), dtype=np.uint8)
    assert not detector.drift(detector.predict(more)).is_drift
    more[40:] //= 2
    report = detector.drift(detector.stream(more))
    assert report.is_drift
    assert (report.images, report.calibration_images, report.since) == (80, 30, 40)
    assert "darker by 50 % since image 41" in report.message


def test_what_is_no_result_is_refused():
    with pytest.raises(TypeError, match="results must be what predict or stream gave; got str"):
        drift(None, ["folder"])


def test_results_by_another_calibration_are_refused():
    """Of another detector, or after `set_min_area` or `calibrate`: their scores are others."""
    good = np.random.default_rng(0).integers(100, 156, (40, 32, 32, 3), dtype=np.uint8)
    settings = {"image_size": 32, "layers": ("layer1",), "teacher_weights": "embedded"}
    options = {"epochs": 1, "self_check": False, "validation_fraction": 0.5}
    detector, other = (
        fastad.Detector("stpm", **settings, false_positive_rate=0.2, seed=seed).fit(good, **options)
        for seed in (0, 1)
    )
    monitor, before = detector.watch(), detector.predict(good[:4])
    monitor.add(before)
    monitor.add(before[:2])  # a part of it is judged alike
    monitor.add(detector.set_threshold(value=0.5).predict(good[:4]))  # the scores are the same
    detector.set_threshold(false_positive_rate=0.2)
    with pytest.raises(ValueError, match="results: they are judged by another calibration"):
        monitor.add(other.predict(good[:4]))
    detector.set_min_area("2%")
    with pytest.raises(ValueError, match=r"set_min_area changed this one: begin anew with watch"):
        monitor.add(detector.predict(good[:4]))
    with pytest.raises(ValueError, match="another calibration"):
        detector.drift(before)
    detector.watch().add(detector.predict(good[:4]))
    detector.set_min_area(None)
    monitor.add(detector.predict(good[:4]))
    assert monitor.report().images == 14  # what was refused left no trace
    detector.calibrate(good - 30)
    with pytest.raises(ValueError, match="another calibration"):
        monitor.add(detector.predict(good[:4]))


def test_so_few_images_that_no_drift_can_show_are_said():
    monitor = DriftMonitor(np.arange(19.0), np.empty((0, 5)), 0.1)
    messages = []
    for score in range(100, 107):
        monitor.add(result_of(np.array([float(score)]), None))
        messages.append(monitor.report().message)
    few = [message.endswith(": so few cannot show any") for message in messages]
    assert few[:3] == [True] * 3
    assert not few[-1]
