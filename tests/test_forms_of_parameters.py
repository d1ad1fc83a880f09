"""A detector takes what grid searches, tables and notebooks hand over, and writes plain values."""

import dataclasses
import io
import json
import warnings

import numpy as np
import pytest
import safetensors
import torch
from PIL import Image
from sklearn.base import clone
from sklearn.model_selection import (
    GridSearchCV,
    ParameterSampler,
    cross_val_predict,
    cross_val_score,
)
from sklearn.pipeline import make_pipeline

import fastad

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(80, 120, (12, 40, 32, 3), dtype=np.uint8)
TRAINING = {"epochs": 1, "batch_size": 4}
OPTIONS = {
    "image_size": 32,
    "device": "cpu",
    "precision": "float32",
    "false_positive_rate": 0.3,
    "layers": ("layer1",),
    "teacher_weights": None,
}


def small(**options):
    return fastad.Detector("stpm", **OPTIONS | options)


@pytest.fixture(autouse=True)
def few_images_are_no_news():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "a false-positive rate of")
        yield


@pytest.fixture(scope="module")
def detector():
    return small(image_size=(40, 32)).fit(IMAGES, **TRAINING, validation_fraction=0.5)


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for number, pixels in enumerate(IMAGES):
        Image.fromarray(pixels).save(folder / f"{number:02}.png")
    return sorted(folder.iterdir())


NUMPYS = {
    "image_size": np.array([32, 40]),
    "batch_size": np.int64(8),
    "false_positive_rate": np.float32(0.3),
    "seed": np.int64(3),
    "eps": np.float64(1e-6),
    "layers": np.array(["layer1"]),
    "weights": np.array([1]),
    "device": np.str_("cpu"),
    "precision": np.array("float32"),
}
TORCHS = {
    "image_size": torch.tensor([32, 40]),
    "batch_size": torch.tensor(8),
    "false_positive_rate": torch.tensor(0.3),
    "seed": torch.tensor(3),
    "device": torch.device("cpu"),
}
PLAIN = {
    "image_size": (32, 40),
    "batch_size": 8,
    "false_positive_rate": float(np.float32(0.3)),
    "seed": 3,
}


@pytest.mark.parametrize("given", [NUMPYS, TORCHS], ids=["numpy", "torch"])
def test_the_file_holds_plain_values_and_the_same_detector(given, tmp_path):
    extra = {name: NUMPYS[name] for name in ("eps", "layers", "weights")}
    plainly = {"eps": 1e-6, "layers": ("layer1",), "weights": [1.0]}
    form = type(given["seed"])
    training = {
        "epochs": form(1) if form is np.int64 else torch.tensor(1),
        "batch_size": np.uint8(4),
        "learning_rate": np.float32(0.5),
        "validation_fraction": np.float16(0.5),
        "deterministic": np.bool_(True),
        "betas": np.array([0.5, 0.75]),
    }
    expected = {
        "epochs": 1,
        "batch_size": 4,
        "learning_rate": 0.5,
        "validation_fraction": 0.5,
        "betas": (0.5, 0.75),
    }
    found = small(**extra | given).fit(IMAGES, **training)
    wanted = small(**PLAIN | plainly).fit(IMAGES, **expected)
    found.save(tmp_path / "found.fastad")
    wanted.save(tmp_path / "wanted.fastad")
    contents = []
    for name in ("found", "wanted"):
        with safetensors.safe_open(tmp_path / f"{name}.fastad", "pt") as file:
            texts = [text for text in file.metadata().values() if text.startswith("{")]
        contents.append([without_times(json.loads(text)) for text in texts])
    assert contents[0] == contents[1]
    loaded = fastad.load(
        tmp_path / "found.fastad",
        device=given["device"],
        precision=given.get("precision", np.str_("float32")),
        batch_size=given["batch_size"],
    )
    assert np.array_equal(loaded.predict(IMAGES).score, wanted.predict(IMAGES).score)
    assert repr(found) == repr(clone(found))
    assert "image_size=[32, 40]" in repr(found)
    assert "np." not in repr(found)


def without_times(value):
    if isinstance(value, dict):
        timed = ("seconds", "next_step")  # the latter says how long it would take
        return {k: without_times(v) for k, v in value.items() if not any(t in k for t in timed)}
    return [without_times(v) for v in value] if isinstance(value, list) else value


def test_the_constructor_keeps_what_it_was_given():
    found = small(**NUMPYS)
    for name, value in NUMPYS.items():
        assert found.get_params()[name] is value
    clone(found)
    assert found.set_params(seed=np.int64(4)).seed == 4


def test_a_training_is_resumed_whatever_form_its_options_have(tmp_path):
    file, two = tmp_path / "training", ("layer1", "layer2")
    first = small(seed=np.int64(3), layers=np.array(two))
    first.fit(IMAGES, checkpoint=file, **TRAINING, weight_decay=np.float64(0))
    more = {"checkpoint": file, "resume": True, "batch_size": 4, "weight_decay": 0}
    resumed = small(seed=3, layers=two).fit(IMAGES, epochs=np.int64(2), **more)
    again = small(seed=torch.tensor(3), layers=np.array(two))
    again.fit(IMAGES, epochs=np.int8(2), **more)
    whole = small(seed=3, layers=two).fit(IMAGES, epochs=2, batch_size=4, weight_decay=0)
    for other in (resumed, again):
        assert np.array_equal(other.predict(IMAGES).score, whole.predict(IMAGES).score)
    with pytest.raises(ValueError, match="seed 3 in the file, 4 now"):
        small(seed=np.int64(4), layers=two).fit(IMAGES, epochs=2, **more)


def test_an_artifact_is_written_with_plain_values(detector, tmp_path):
    numbers = {"threshold": np.float32(0.5), "pixel_threshold": torch.tensor(0.25)}
    artifact = dataclasses.replace(detector._artifact, image_size=np.array([40, 32]), **numbers)
    fastad.inference.save(tmp_path / "a.fastad", artifact)
    loaded = fastad.load(tmp_path / "a.fastad")
    assert (loaded.threshold_, loaded.pixel_threshold_) == (0.5, 0.25)
    assert loaded.image_size_ == (40, 32)


@pytest.mark.parametrize("form", [np.float64, np.float32, np.array, torch.tensor, float])
def test_thresholds(detector, form, tmp_path):
    detector.set_threshold(false_positive_rate=form(0.25))
    detector.set_pixel_threshold(false_positive_rate=form(0.25))
    assert (type(detector.threshold_), type(detector.false_positive_rate)) == (float, float)
    detector.set_threshold(value=form(0.5)).set_pixel_threshold(value=form(0.5))
    assert (detector.threshold_, detector.pixel_threshold_) == (0.5, 0.5)
    detector.save(tmp_path / "a.fastad")
    assert fastad.load(tmp_path / "a.fastad").threshold_ == 0.5


@pytest.mark.parametrize("value", [True, np.nan, np.float32("inf"), 1j, "0.5", [0.5], np.zeros(2)])
def test_what_is_no_threshold(detector, value):
    for choose in (detector.set_threshold, detector.set_pixel_threshold):
        with pytest.raises(ValueError, match="value must be a finite number; got "):
            choose(value=value)
        with pytest.raises(ValueError, match="false_positive_rate must be between 0 and 1; got "):
            choose(false_positive_rate=value)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"seed": np.float64(3)}, r"seed must be an integer of at least 0; got 3\.0$"),
        ({"seed": np.bool_(True)}, "seed must be an integer of at least 0; got True$"),
        ({"batch_size": np.int64(0)}, "batch_size must be an integer of at least 1; got 0$"),
        ({"batch_size": np.bool_(True)}, "batch_size must be an integer of at least 1; got True$"),
        ({"image_size": np.array([64.0, 64])}, r"image size must .* got \[64\.0, 64\.0\]$"),
        ({"image_size": np.int64(8)}, "image size must be at least 32 a side, got "),
        ({"false_positive_rate": np.float32(2)}, r"between 0 and 1; got 2\.0$"),
        ({"false_positive_rate": np.bool_(True)}, "between 0 and 1; got True$"),
        ({"eps": np.float64("nan")}, "eps must be a number above 0; got nan$"),
        ({"layers": np.array(["layer9"])}, "layers must be .*; got .*layer9"),
    ],
)
def test_wrong_values_are_shown_as_people_write_them(options, match):
    with pytest.raises(ValueError, match=match):
        small(**options).fit(IMAGES, **TRAINING)


def test_paths_of_any_class(tmp_path, paths):
    class Elsewhere:
        def __init__(self, name):
            self.name = str(name)

        def __fspath__(self):
            return self.name

    folder, file = Elsewhere(paths[0].parent), Elsewhere(tmp_path / "a.fastad")
    found = small().fit(folder, checkpoint=Elsewhere(tmp_path / "c"), **TRAINING)
    found.save(file)
    loaded = fastad.load(file)
    assert loaded.predict(folder).paths == paths
    assert loaded.predict(Elsewhere(paths[3])).paths == [paths[3]]
    assert loaded.predict(np.str_(paths[3])).paths == [paths[3]]


def test_forms_of_images_have_the_score_of_the_file(detector, paths):
    expected = detector.predict(paths).score
    deep = IMAGES.astype(np.uint16) * 257
    alpha = np.full((*IMAGES.shape[:3], 1), 7, np.uint8)
    for images in (
        IMAGES / 255,
        (IMAGES / 255).astype(np.float16),
        deep,
        deep.astype(">u2"),
        np.concatenate([IMAGES, alpha], axis=3),
        np.asfortranarray(IMAGES),
        [path.read_bytes() for path in paths],
        [io.BytesIO(path.read_bytes()) for path in paths],
        (path.open("rb") for path in paths),
        [Image.open(path) for path in paths],
        np.array([str(path) for path in paths]),
        set(paths),
        torch.from_numpy(IMAGES).permute(0, 3, 1, 2),
        torch.from_numpy(deep).permute(0, 3, 1, 2),
    ):
        assert np.array_equal(detector.predict(images).score, expected)
    grey = IMAGES[..., 0]
    expected = detector.predict([Image.fromarray(image) for image in grey]).score
    for images in (grey[..., None], [*grey], [*(grey / 255)], [*(deep[..., 0])], deep[..., :1]):
        assert np.array_equal(detector.predict(images).score, expected)
    result = detector.predict(np.array([str(path) for path in paths])[::-1])
    assert result.paths == paths[::-1]


def test_forms_of_images_train_the_same_detector(paths):
    expected = small().fit(paths, **TRAINING).predict(paths).score
    for images in (
        IMAGES / 255,
        IMAGES.astype(np.uint16) * 257,
        (image for image in IMAGES),
        (str(path) for path in paths),
        np.array(paths),
        [path.read_bytes() for path in paths],
        set(paths),
    ):
        found = small().fit(images, **TRAINING)
        assert np.array_equal(found.predict(paths).score, expected)
    found = small(image_size=np.str_("auto")).fit(np.array(paths), **TRAINING)
    assert found.image_size_ == (288, 224)


def test_searches_of_scikit_learn(paths):
    """Folds are drawn from arrays of paths by arrays of indices."""
    names = np.array([str(path) for path in paths])
    labels = np.array([1, -1] * 6)
    fit = {"params": {"epochs": 1, "batch_size": 4}}
    scores = cross_val_score(small(), names, labels, scoring="roc_auc", cv=2, **fit)
    assert scores.shape == (2,)
    assert np.isfinite(scores).all()
    found = cross_val_predict(small(), names, method="decision_function", cv=2, **fit)
    assert found.shape == (12,)
    grid = {"image_size": np.array([32, 40]), "seed": np.arange(2)}
    search = GridSearchCV(small(), grid, scoring="roc_auc", cv=2)
    search.fit(names, labels, **fit["params"])
    assert search.best_estimator_.image_size_ in ((32, 32), (40, 40))
    pipeline = make_pipeline(search.best_estimator_)
    assert pipeline.decision_function(names[:3]).shape == (3,)
    rates = {"seed": [np.int64(5)], "false_positive_rate": [np.float64(0.25)]}
    for sampled in ParameterSampler(rates, 1):
        assert small(**sampled).fit(names, **fit["params"]).training_record_["seed"] == 5
