"""Another engine serves where it is asked for or measured faster, and scores alike."""

import json

import numpy as np
import pytest
import torch

import fastad
from fastad import models
from fastad.engine import runtimes
from fastad.inference import Artifact, Predictor, engines
from fastad.inference.serving import FIRST, machine

FRAMES = np.random.default_rng(0).integers(0, 256, (FIRST + 1, 32, 32, 3), dtype=np.uint8)
HERE = {"refused": [], "machine": machine(torch.device("cpu"))}


class Fake:
    """In the place of a runtime: the model itself, times ``factor``."""

    factor = 1.0
    fails = False

    def __init__(self, model, size, engine, dtype):
        self.model, self.engine, self.dtype = model, engine, dtype

    def __call__(self, images):
        if self.fails:
            raise runtimes.EngineError(f"engine {self.engine!r} cannot run it")
        if images.dtype == torch.uint8:
            images = images / 255
        with torch.autocast("cpu", enabled=False):
            found = self.model(images)
        return models.base.Prediction(found.score * self.factor, found.anomaly_map)


@pytest.fixture(autouse=True)
def fake(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(runtimes, "check_engine", lambda engine, device: None)
    monkeypatch.setattr(runtimes, "installed", lambda device: ["openvino"])
    monkeypatch.setattr(runtimes, "cpu_multiplies_in", lambda dtype: False)
    for module in (runtimes, fastad.inference.predictor, fastad.engine.folding):
        monkeypatch.setattr(module, "Runtime", Fake)
    monkeypatch.setattr(Fake, "factor", 1.0)
    monkeypatch.setattr(Fake, "fails", False)


@pytest.fixture
def artifact():
    torch.manual_seed(0)
    model = models.build("stpm", teacher_weights="embedded", layers=("layer1",)).eval()
    scores = Predictor(model, 32, device="cpu").predict(FRAMES).score
    return Artifact(model, (32, 32), scores, 0.01, None, {}, serving=dict(HERE))


def expected(artifact):
    return Predictor(artifact.model, 32, device="cpu", engine="torch").predict(FRAMES).score


def test_an_engine_that_scores_alike_is_taken(artifact, caplog):
    predictor = artifact.predictor(device="cpu", engine="openvino")
    with caplog.at_level("INFO", "fastad"):
        assert np.array_equal(predictor.predict(FRAMES).score, expected(artifact))
    assert (predictor.engine, predictor.ways) == ("openvino", [])
    assert "predicting in float32, openvino: on 9 images as in plain float32" in caplog.messages
    assert isinstance(predictor._network(predictor.dtype, True), Fake)


@pytest.mark.parametrize(("name", "value"), [("factor", 1.5), ("fails", True)])
def test_one_that_does_not_is_not(artifact, monkeypatch, name, value, caplog):
    monkeypatch.setattr(Fake, name, value)
    predictor = artifact.predictor(device="cpu", engine="openvino")
    for _ in range(3):
        found = predictor.predict(FRAMES).score
        np.testing.assert_allclose(found, expected(artifact), rtol=1e-3)
    assert (predictor.engine, predictor.fused, predictor.ways) == ("native", True, [])
    assert sum("a slower way is taken" in message for message in caplog.messages) == 1


def test_torch_is_the_model_as_it_was_trained(artifact):
    predictor = artifact.predictor(device="cpu", engine="torch")
    assert (predictor.dtype, predictor.fused) == (torch.float32, False)
    assert predictor._network(predictor.dtype, predictor.fused) is artifact.model


def times(native, **others):
    def measured(predictor, ways):
        own = f"native {str(predictor.dtype).removeprefix('torch.')}"
        return {own: native, **{f"{name} float32": time for name, time in others.items()}}

    return measured


@pytest.mark.parametrize(
    ("milliseconds", "engine"),
    [
        ({"native": 10.0, "openvino": 9.0}, "openvino"),
        ({"native": 10.0, "openvino": 9.6}, "native"),  # not clearly faster
        ({"native": 10.0}, "native"),  # it could not run the model
    ],
)
def test_auto_takes_what_was_measured_faster(artifact, monkeypatch, milliseconds, engine):
    monkeypatch.setattr(engines, "_measured", times(**milliseconds))
    predictor = artifact.predictor(device="cpu", engine="auto")
    assert predictor.engine == engine
    assert (type(predictor) is Predictor) == (engine == "native")
    predictor.predict(FRAMES)
    assert predictor.engine == engine


def test_the_fastest_comes_first(artifact, monkeypatch):
    monkeypatch.setattr(runtimes, "installed", lambda device: ["openvino", "onnxruntime"])
    monkeypatch.setattr(engines, "_measured", times(10.0, openvino=8.0, onnxruntime=7.0))
    native = artifact.predictor(device="cpu")
    ways = engines.ways_of("auto", native)
    assert [name for name, _ in ways] == ["onnxruntime", "openvino", "native"]
    monkeypatch.setattr(runtimes, "installed", lambda device: [])
    assert engines.ways_of("auto", native) == [("native", native.dtype)]


def test_it_is_measured_once(artifact, monkeypatch):
    calls = []
    measure = engines._measured

    def counted(*arguments):
        calls.append(arguments)
        return measure(*arguments)

    monkeypatch.setattr(engines, "_measured", counted)
    native = artifact.predictor(device="cpu")
    first = engines.ways_of("auto", native)
    assert engines.ways_of("auto", native) == first
    assert len(calls) == 1
    path = engines.cache_file()
    (entry,) = json.loads(path.read_text()).values()
    assert len(entry) == 2
    assert all(time > 0 for time in entry.values())
    native.image_size = (64, 32)  # another detector
    engines.ways_of("auto", native)
    assert len(json.loads(path.read_text())) == 2
    path.write_text('{"a": [')
    engines.ways_of("auto", native)
    assert (len(calls), len(json.loads(path.read_text()))) == (3, 1)


def test_where_it_cannot_be_kept(artifact, monkeypatch, tmp_path, caplog):
    (tmp_path / "fastad").write_text("a file in the place of the folder")
    monkeypatch.setattr(engines, "_measured", times(10.0, openvino=8.0))
    assert artifact.predictor(device="cpu", engine="auto").engine == "openvino"
    assert "the engines' times cannot be kept" in caplog.text


def test_a_detector_of_a_file(artifact, tmp_path):
    fastad.inference.save(tmp_path / "d.fastad", artifact)
    detector = fastad.load(tmp_path / "d.fastad", device="cpu", engine="openvino")
    detector.predict(FRAMES)
    assert detector._fitted().engine == "openvino"
    detector.set_threshold(false_positive_rate=0.2)
    assert detector._fitted().engine == "openvino"
