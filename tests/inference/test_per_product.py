"""One student for several products: what is taken from the images of one of them."""

import warnings

import numpy as np
import pytest
import torch

import fastad
from fastad.inference import conformal_threshold
from fastad.inference.known_images import trained_and_apart
from fastad.inference.per_product import held_out_of, require_shareable
from fastad.models import AUTO, MODELS


def images(seed, low, high):
    return np.random.default_rng(seed).integers(low, high, (24, 32, 32, 3), dtype=np.uint8)


CAPS, NUTS = images(0, 100, 156), images(1, 20, 96)


@pytest.fixture(scope="module")
def both():
    options = {"image_size": 32, "device": "cpu", "precision": "float32", "seed": 1}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return fastad.Detector(
            "stpm",
            **options,
            layers=("layer1",),
            teacher_weights="embedded",
            false_positive_rate=0.2,
        ).fit(np.concatenate([CAPS, NUTS]), epochs=1, validation_fraction=0.5, self_check=False)


@pytest.mark.parametrize("own", [CAPS, NUTS])
def test_it_is_calibrated_by_its_own_images(both, own):
    before = both.threshold_, both.model_.distance_means.clone(), both.model_.chosen
    detector = both.for_product(own, self_check=False)
    assert (before[0], before[2]) == (both.threshold_, both.model_.chosen)
    assert torch.equal(both.model_.distance_means, before[1])
    assert not torch.equal(detector.model_.distance_means, before[1])
    artifact = detector._artifact
    _, apart = trained_and_apart(both._artifact)
    digests = artifact.training["image_digests"]
    held_out = artifact.training["held_out"]
    assert {digests[i] for i in held_out} == apart & {*digests}
    assert 5 <= len(held_out) < 24
    scores = detector.predict(own[held_out]).score
    assert detector.calibration_scores_ == pytest.approx(scores, rel=1e-4)
    assert detector.threshold_ == conformal_threshold(detector.calibration_scores_, 0.2)
    trained = dict(both.model_.student.named_parameters())
    for name, value in detector.model_.student.named_parameters():
        assert torch.equal(value, trained[name])
    assert artifact.training["epochs"] == 0
    assert artifact.training["start_from"]["n_train"] == both.training_record_["n_train"]
    [note, *_] = artifact.training["notes"]
    assert "the networks are those of the detector, trained on 24 images" in note


def test_an_image_that_was_trained_on_is_never_held_out(both):
    trained, _ = trained_and_apart(both._artifact)
    digests = both.training_record_["image_digests"]
    of_caps = [i for i in range(24) if digests[i] in trained]
    with pytest.raises(ValueError, match=r"0 of .* may be held out, which is too few"):
        both.for_product(CAPS[of_caps])


def test_tiles_are_refused(both, monkeypatch):
    monkeypatch.setitem(both._artifact.training, "tile", [32, 32])
    with pytest.raises(ValueError, match="was trained on tiles"):
        both.for_product(CAPS)


@pytest.mark.parametrize("name", [AUTO, *MODELS])
def test_models_that_cannot_say_why(name):
    if name in ("stpm", "gtrans"):
        return require_shareable(name)
    said = {"patchcore": "trains nothing", "subspace": "trains nothing", "auto": "compares models"}
    with pytest.raises(ValueError, match=said.get(name, "networks that learn from")) as error:
        require_shareable(name)
    assert str(error.value).endswith("Take the model stpm or gtrans")


def test_at_least_five_images_are_held_out():
    assert len(held_out_of(10, 0.2, 0)) == 5
    assert len(held_out_of(20, 0.2, 0)) == 5
    assert len(held_out_of(100, 0.2, 0)) == 20
    assert held_out_of(100, 0.2, 0) != held_out_of(100, 0.2, 1)
    assert held_out_of(3, 0.0, 0) == set()
    with pytest.raises(ValueError, match=r"9 good images are too few .* at least 10"):
        held_out_of(9, 0.2, 0)
