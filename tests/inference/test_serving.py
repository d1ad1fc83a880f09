"""The fastest way is taken that ranks and decides alike, and no other."""

import dataclasses
import pickle
import warnings

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

import fastad
from fastad import _extension, inference, models
from fastad.commands.info import contents
from fastad.inference import Artifact, Predictor
from fastad.inference.serving import (
    FIRST,
    IMAGES,
    SelfCheckingPredictor,
    examine,
    machine,
    rank_correlation,
    skip_refused,
)

GOOD = torch.rand(70, 3, 4, 4)


@pytest.fixture(autouse=True)
def without_integers(monkeypatch):
    """Most of what is tested here is the same on every processor."""
    monkeypatch.setattr(_extension, "cpu_int16", False)


TRUE = np.random.default_rng(3).permutation(70).astype(np.float32)  # the images' scores


class FakePredictor:
    """Scores images by what they are, each way with an error of its own."""

    batch_size = 16

    def __init__(self, dtype=torch.bfloat16, **errors):
        self.dtype, self.fused, self.errors, self.seen = dtype, True, errors, []

    device = torch.device("cpu")
    model = models.build("stpm", teacher_weights=None, layers=("layer1",))

    def run(self, images, dtype, fused):
        numbers = [int((image == GOOD).flatten(1).all(1).nonzero()[0, 0]) for image in images]
        self.seen += numbers
        way = f"{str(dtype).removeprefix('torch.')}_{'fused' if fused else 'plain'}"
        change = self.errors.get(way, lambda scores: scores)
        return change(TRUE)[numbers], None


def shuffled(scores):
    return np.random.default_rng(0).permutation(scores)


def others_shuffled(scores):
    """The highest of the scores looked at stays."""
    others = np.delete(np.arange(IMAGES), np.argmax(scores[:IMAGES]))
    changed = scores.copy()
    changed[others] = shuffled(scores[others])
    return changed


def another_first(scores):
    """Two images change places, of which one is the highest of those looked at."""
    scores = scores.copy()
    first, second = np.argsort(scores[:IMAGES])[-2:]
    scores[[first, second]] = scores[[second, first]]
    return scores


def test_half_precision_where_it_ranks_alike():
    predictor = FakePredictor(bfloat16_fused=lambda scores: scores * 1.05 + 0.3)
    found = examine(predictor, GOOD, [5, 69], 0.01)
    assert (predictor.dtype, predictor.fused) == (torch.bfloat16, True)
    assert dataclasses.asdict(found) == {
        "precision": "bfloat16",
        "fused": True,
        "images": IMAGES,
        "rank_correlation": pytest.approx(1.0),
        "refused": [],
        "machine": machine(torch.device("cpu")),
    }
    assert found.notes == []
    assert set(predictor.seen) >= {5, 69}


@pytest.mark.parametrize("error", [shuffled, others_shuffled, another_first])
def test_float32_where_it_does_not(error):
    predictor = FakePredictor(bfloat16_fused=error)
    # At this rate the highest score alone is above the threshold.
    found = examine(predictor, GOOD, range(IMAGES), 2 / (IMAGES + 1))
    assert (predictor.dtype, predictor.fused) == (torch.float32, True)
    assert found.refused == ["bfloat16"]
    assert "predicting in float32, because bfloat16 changed" in found.notes[0]


def test_integers_come_before_float32(monkeypatch):
    monkeypatch.setattr(_extension, "cpu_int16", True)
    predictor = FakePredictor(bfloat16_fused=shuffled)
    found = examine(predictor, GOOD, [], 0.1)
    assert (predictor.dtype, predictor.fused) == (torch.int16, True)
    assert found.refused == ["bfloat16"]
    predictor = FakePredictor(torch.int16, int16_fused=shuffled)
    found = examine(predictor, GOOD, [], 0.1)
    assert (predictor.dtype, predictor.fused) == (torch.float32, True)
    assert found.refused == ["int16"]
    for refused, dtype in (
        (["int16"], torch.bfloat16),
        (["bfloat16"], torch.int16),
        (["bfloat16", "int16"], torch.float32),
    ):
        other = FakePredictor()
        skip_refused(other, refused)
        assert (other.dtype, other.fused) == (dtype, True)
    everything = FakePredictor()
    skip_refused(everything, ["bfloat16", "int16", "fused"])
    assert (everything.dtype, everything.fused) == (torch.float32, False)
    assert "int16" in machine(torch.device("cpu")).split()


def test_plain_float32_where_nothing_else_does():
    predictor = FakePredictor(bfloat16_fused=shuffled, float32_fused=shuffled)
    found = examine(predictor, GOOD, [], 0.1)
    assert (predictor.dtype, predictor.fused) == (torch.float32, False)
    assert found.refused == ["bfloat16", "fused"]
    assert "in float32, not fused, because bfloat16 and fused changed" in found.notes[0]
    other = FakePredictor()
    skip_refused(other, found.refused)
    assert (other.dtype, other.fused) == (torch.float32, False)


def test_a_predictor_of_float32_is_examined_once(monkeypatch):
    predictor = FakePredictor(torch.float32)
    assert examine(predictor, GOOD[:5], [1], 0.1).images == 5
    assert len(predictor.seen) == 10  # plain, and fused


def test_rank_correlation():
    first, second = np.random.default_rng(1).integers(0, 9, (2, 40)).astype(np.float32)
    assert rank_correlation(first, second) == pytest.approx(spearmanr(first, second)[0])
    assert rank_correlation(first, np.ones(40)) == 1.0


def test_a_training_ends_with_an_examination(tmp_path):
    detector = fastad.Detector(
        "stpm", image_size=32, device="cpu", layers=("layer1",), teacher_weights=None
    )
    images = np.random.default_rng(0).integers(80, 120, (12, 32, 32, 3), dtype=np.uint8)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "a false-positive rate of")
        detector.fit(images, epochs=1, batch_size=4, validation_fraction=0.5)
    path = tmp_path / "d.fastad"
    detector.save(path)
    found = inference.load(path).serving
    assert found["images"] == 12
    assert found["fused"]
    refused = [note for note in detector.training_record_["notes"] if "predicting in" in note]
    assert len(refused) == len(found["refused"])
    facts = dict(contents(str(path)))["predicts in"]
    assert facts.startswith(f"{found['precision']}, fused: rank correlation ")
    asked = detector.set_params(precision="float32").fit(images, epochs=1, validation_fraction=0)
    asked.save(path)
    assert inference.load(path).serving is None
    assert "predicts in" not in dict(contents(str(path)))


FRAMES = np.random.default_rng(2).integers(0, 256, (FIRST + 4, 32, 32, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def artifact():
    """Of a detector that was examined on another kind of machine."""
    torch.manual_seed(0)
    model = models.build("stpm", teacher_weights=None, layers=("layer1", "layer2")).eval()
    calibration = Predictor(model, 32, device="cpu", precision="float32").predict(FRAMES).score
    threshold = float(np.median(calibration)) + 1e-4
    artifact = Artifact(model, (32, 32), calibration, 0.5, threshold, {})
    artifact.serving = {"refused": [], "machine": "a typewriter"}
    return artifact


def wrong(run, ways):
    """A predictor's ``run`` whose scores are off in some ways."""

    def changed(images, dtype, fused, tiling=None):
        score, maps = run(images, dtype, fused, tiling)
        return (score[::-1].copy() if (dtype, fused) in ways else score), maps

    return changed


def test_a_new_machine_begins_in_plain_float32(artifact, caplog):
    newcomer = artifact.predictor(device="cpu", batch_size=3)
    assert isinstance(newcomer, SelfCheckingPredictor)
    newcomer.dtype = torch.float32
    plain = Predictor(artifact.model, 32, device="cpu", precision="float32", fused=False)
    with caplog.at_level("INFO", "fastad"):
        first = newcomer.predict(FRAMES)
    expected = plain.predict(FRAMES)
    assert np.array_equal(first.score[:FIRST], expected.score[:FIRST])
    np.testing.assert_allclose(first.anomaly_map, expected.anomaly_map, rtol=1e-4, atol=1e-6)
    assert first.is_anomalous is not None
    assert newcomer.fused
    assert [m for m in caplog.messages if m.startswith("predicting in float32, fused: on 9 images")]
    again = pickle.loads(pickle.dumps(newcomer))
    assert np.array_equal(again.predict(FRAMES).score, newcomer.predict(FRAMES).score)


def test_a_new_machine_whose_fast_ways_are_wrong(artifact, monkeypatch, caplog):
    newcomer = artifact.predictor(device="cpu", batch_size=4)
    newcomer.dtype = torch.bfloat16
    run = wrong(newcomer.run, [(torch.bfloat16, True), (torch.float32, True)])
    monkeypatch.setattr(newcomer, "run", run)
    expected = Predictor(
        artifact.model, 32, device="cpu", precision="float32", fused=False, batch_size=4
    ).predict(FRAMES)
    for _ in range(3):
        assert np.array_equal(newcomer.predict(FRAMES).score, expected.score)
    assert (newcomer.dtype, newcomer.fused) == (torch.float32, False)
    said = [m for m in caplog.messages if "a slower way is taken" in m]
    assert [m.partition(",")[0] for m in said] == ["bfloat16", "float32"]


def test_the_rounding_of_defects_refuses_nothing(artifact, monkeypatch):
    newcomer = artifact.predictor(device="cpu", batch_size=4)
    newcomer.dtype = torch.float32
    run = newcomer.run

    def of_defects(images, dtype, fused, tiling=None):
        score, maps = run(images, dtype, fused, tiling)
        return 1000 * score * (1.01 if fused else 1.0), maps

    monkeypatch.setattr(newcomer, "run", of_defects)
    newcomer.predict(FRAMES)
    assert newcomer.fused
    newcomer = dataclasses.replace(artifact, threshold=None).predictor(device="cpu", batch_size=4)
    newcomer.dtype = torch.float32
    monkeypatch.setattr(newcomer, "run", of_defects)
    newcomer.predict(FRAMES)
    assert not newcomer.fused  # without a threshold nothing tells that they are defects


def test_where_it_was_examined_nothing_is_tried_again(artifact):
    known = dataclasses.replace(
        artifact, serving={"refused": [], "machine": machine(torch.device("cpu"))}
    )
    assert type(known.predictor(device="cpu")) is Predictor
    assert type(artifact.predictor(device="cpu", precision="float32")) is Predictor
    refused = dataclasses.replace(artifact, serving={"refused": ["fused"], "machine": "another"})
    predictor = refused.predictor(device="cpu")
    predictor.predict(FRAMES)
    assert not predictor.fused
