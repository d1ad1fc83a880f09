"""scikit-learn's conventions, by scikit-learn's own checks where they apply."""

import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone, is_outlier_detector
from sklearn.utils import estimator_checks, get_tags
from sklearn.utils.validation import check_is_fitted

import fastad


@pytest.mark.parametrize("model", fastad.models.MODELS)
@pytest.mark.parametrize(
    "check",
    [
        "check_estimator_cloneable",
        "check_estimator_repr",
        "check_no_attributes_set_in_init",
        "check_parameters_default_constructible",
        "check_get_params_invariance",
        "check_set_params",
        "check_do_not_raise_errors_in_init_or_set_params",
        "check_valid_tag_types",
        "check_mixin_order",
    ],
)
def test_checks_that_need_no_table_of_numbers(check, model):
    if not hasattr(estimator_checks, check):
        pytest.skip(f"this scikit-learn has no {check}")
    getattr(estimator_checks, check)("Detector", fastad.Detector(model))


def test_clone_keeps_every_parameter_and_nothing_fitted():
    network = torch.nn.Conv2d(3, 4, 3)
    detector = fastad.Detector("stpm", image_size="auto", seed=7, weights=[1.0, 0.5, 0.5], eps=1e-6)
    detector.threshold_ = 1.0
    copy = clone(detector)
    assert copy.get_params() == detector.get_params()
    assert not hasattr(copy, "threshold_")
    assert copy is not detector
    rstpm = clone(fastad.Detector("rstpm", teacher2="resnet18", decoder_blocks=(2, 3, 2)))
    assert rstpm.get_params() == clone(rstpm).get_params()
    assert rstpm.decoder_blocks == (2, 3, 2)
    own = clone(fastad.Detector("stpm", backbone=network))
    assert isinstance(own.backbone, torch.nn.Conv2d)
    assert own.backbone is not network


def test_params_are_the_constructor_arguments():
    detector = fastad.Detector("rstpm", image_size=64)
    assert detector.get_params() == {
        "model": "rstpm",
        "image_size": 64,
        "bit_depth": "auto",
        "device": "auto",
        "precision": "auto",
        "batch_size": 32,
        "false_positive_rate": 0.01,
        "seed": 0,
    }
    assert detector.set_params(seed=3, teacher2="resnet34") is detector
    assert detector.get_params()["teacher2"] == "resnet34"
    assert repr(detector) == "Detector('rstpm', image_size=64, seed=3, teacher2='resnet34')"
    with pytest.raises(ValueError, match="invalid parameter 'sed' of Detector; there are: model"):
        detector.set_params(sed=1)


def test_fitted_or_not(tiny_model):
    detector = fastad.Detector(
        tiny_model.name, image_size=32, precision="float32", **tiny_model.options
    )
    with pytest.raises(ValueError, match="not fitted"):
        check_is_fitted(detector)
    images = np.random.default_rng(0).integers(0, 255, (6, 32, 32, 3), dtype=np.uint8)
    training = tiny_model.epochs(1) | tiny_model.training
    with pytest.warns(UserWarning, match="false-positive rate"):
        assert detector.fit(images, y=np.zeros(6), **training) is detector
    check_is_fitted(detector)
    assert get_tags(detector).estimator_type == "outlier_detector"
    assert is_outlier_detector(detector)
    restored = pickle.loads(pickle.dumps(detector))  # as joblib does for its workers
    assert np.array_equal(restored.predict(images).score, detector.predict(images).score)
