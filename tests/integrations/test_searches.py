"""scikit-learn's searches and joblib with detectors: scores, copies, processes."""

import io
from functools import partial

import joblib
import numpy as np
import pytest
from sklearn.model_selection import GridSearchCV

from fastad import Detector, integrations

OPTIONS = {"image_size": 32, "teacher_weights": "embedded", "false_positive_rate": 0.4}


@pytest.fixture(scope="module")
def good():
    return np.random.default_rng(0).integers(100, 156, (20, 32, 32, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def detector(good):
    return Detector("subspace", **OPTIONS).fit(good, self_check=False)


def test_a_grid_of_options(good):
    scoring = partial(integrations.synthesised_defects, count=30)
    grid = {"smoothing": [0.0, 8.0]}
    search = GridSearchCV(Detector("subspace", **OPTIONS), grid, scoring=scoring, cv=2)
    search.fit(good, self_check=False)
    halves = (good[10:], good[:10]), (good[:10], good[10:])
    scores = [
        [
            Detector("subspace", **OPTIONS, smoothing=smoothing)
            .fit(train, self_check=False)
            .check(fresh, count=30)
            .image_auroc
            for train, fresh in halves
        ]
        for smoothing in grid["smoothing"]
    ]
    assert np.array_equal(search.cv_results_["mean_test_score"], np.mean(scores, axis=1))
    best = grid["smoothing"][int(np.argmax(np.mean(scores, axis=1)))]
    assert search.best_params_ == {"smoothing": best}
    assert search.best_estimator_.predict(good[:2]).score.shape == (2,)


def test_the_score_is_that_of_check(detector, good):
    fresh = good[::-1] + 1
    expected = detector.check(fresh).image_auroc
    assert integrations.synthesised_defects(detector, fresh, None) == expected


def test_a_detector_survives_joblib(detector, good):
    file = io.BytesIO()
    joblib.dump(detector, file)
    file.seek(0)
    again = joblib.load(file)
    assert np.array_equal(again.predict(good).score, detector.predict(good).score)
    assert again.threshold_ == detector.threshold_


def _scores(detector, images):
    return detector.predict(images).score


def test_a_detector_works_in_threads_of_joblib(detector, good):
    parts = joblib.Parallel(n_jobs=2, prefer="threads")(
        joblib.delayed(_scores)(detector, good[i : i + 10]) for i in (0, 10)
    )
    assert np.concatenate(parts) == pytest.approx(detector.predict(good).score, rel=1e-5)


@pytest.mark.slow
def test_a_detector_works_in_processes_of_joblib(detector, good):
    parts = joblib.Parallel(n_jobs=2)(
        joblib.delayed(detector.score_samples)(good[i : i + 10]) for i in (0, 10)
    )
    assert np.concatenate(parts) == pytest.approx(detector.score_samples(good), rel=1e-5)
