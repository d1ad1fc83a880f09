"""The guard: its false alarms by simulation, and that it names what is wrong with an image."""

import dataclasses

import numpy as np
import pytest
from PIL import Image, ImageFilter

import fastad
from fastad import inference
from fastad.inference.guard import COLUMNS, FLOORS, InputGuard

DRAWS = 3000


def draw(rng, n, kind):
    """(n, 7) values of good images: independent, or with heavy tails and much in common."""
    if kind == "normal":
        return rng.normal(size=(n, 7)) * FLOORS * 5
    shared = rng.standard_t(2, size=(n, 1))
    return (rng.standard_t(2, size=(n, 7)) + 2 * shared) * FLOORS * 5


def guard_of(values, rate):
    return InputGuard(values[:, :5], values[:, 5], np.exp(values[:, 6]), rate)


def judged(guard, values):
    return guard.judge(values[:, :5], values[:, 5], np.exp(values[:, 6]))


@pytest.mark.parametrize("kind", ["normal", "heavy"])
@pytest.mark.parametrize(("n", "rate"), [(5, 0.2), (22, 0.01), (22, 0.1), (99, 0.02)])
def test_false_alarms_are_at_most_those_promised(kind, n, rate):
    rng = np.random.default_rng(n)
    promised = max(np.floor(rate * (n + 1) + 1e-9), 1) / (n + 1)
    strange = alarms = 0
    for _ in range(DRAWS):
        values = draw(rng, n + 1, kind)
        guard = guard_of(values[:-1], rate)
        # The scores of the file are those of the guard, as the image's own.
        own = guard._values(values[-1:, :5], values[-1:, 5], np.exp(values[-1:, 6]))
        strange += guard.p_values(own)[0] <= promised + 1e-9
        alarms += judged(guard, values[-1:])[0] != "ok"
    deviation = np.sqrt(promised * (1 - promised) / DRAWS)
    assert strange / DRAWS <= promised + 3 * deviation
    assert strange / DRAWS >= promised - 3 * deviation  # exact, so that nothing is given away
    assert alarms <= strange


def test_p_values_are_those_of_the_definition():
    rng = np.random.default_rng(0)
    known, new = draw(rng, 12, "heavy"), draw(rng, 6, "heavy")
    guard = guard_of(known, 0.1)
    for row, p in zip(new, guard.p_values(new), strict=True):
        bag = np.concatenate([known, row[None]])
        z = (bag - bag.mean(axis=0)) / np.sqrt(bag.var(axis=0) + FLOORS**2)
        strangeness = np.maximum(np.abs(z[:, :-1]).max(axis=1), -z[:, -1])
        assert p == (strangeness >= strangeness[-1] - 1e-12).sum() / 13


@pytest.mark.parametrize(
    ("column", "sign", "name"),
    [
        ("brightness", -1, "dark"), ("brightness", 1, "bright"), ("sharpness", -1, "blurred"),
        ("sharpness", 1, "unlike"), ("contrast", 1, "unlike"), ("colour", 1, "unlike"),
        ("range", -1, "unlike"), ("aspect", 1, "shape"), ("aspect", -1, "shape"),
        ("score", -1, "unlike"), ("score", 1, "ok"),
    ],
)  # fmt: skip
def test_names(column, sign, name):
    known = draw(np.random.default_rng(1), 30, "normal")
    value = known.mean(axis=0)
    value[COLUMNS.index(column)] += sign * 60 * FLOORS[COLUMNS.index(column)]
    assert judged(guard_of(known, 0.01), value[None]).tolist() == [name]


def test_what_does_not_vary_may_vary_a_little():
    known = np.tile(draw(np.random.default_rng(0), 1, "normal"), (20, 1))
    guard = guard_of(known, 0.05)
    assert judged(guard, known[:1] + 0.9 * FLOORS).tolist() == ["ok"]
    assert judged(guard, known[:1] - 3 * FLOORS).tolist() != ["ok"]


def test_unknown_aspects_are_not_compared():
    known = draw(np.random.default_rng(2), 20, "normal")
    new = known.mean(axis=0)[None].copy()
    new[0, 5] = 9
    assert judged(guard_of(known, 0.05), new).tolist() == ["shape"]
    new[0, 5] = np.nan  # resized by its user
    assert judged(guard_of(known, 0.05), new).tolist() == ["ok"]
    known[3, 5], new[0, 5] = np.nan, 9
    assert judged(guard_of(known, 0.05), new).tolist() == ["ok"]


def scene(rng, size=(48, 64)):
    """A grey part on a bright ground, with noise and a lamp that flickers by a percent."""
    image = np.full((*size, 3), 190.0)
    image[12:36, 16:48] = 90
    image *= rng.uniform(0.99, 1.01)
    return (image + rng.normal(0, 4, image.shape)).clip(0, 255).round().astype(np.uint8)


@pytest.fixture(scope="module")
def detector():
    rng = np.random.default_rng(0)
    good = np.stack([scene(rng) for _ in range(50)])
    return fastad.Detector(
        "stpm", image_size="32x48", layers=("layer1",), teacher_weights=None, device="cpu",
        precision="float32", false_positive_rate=0.05,
    ).fit(good, epochs=1, batch_size=8, validation_fraction=0.5)  # fmt: skip


def strange_images():
    rng = np.random.default_rng(5)
    good = scene(rng)
    return {
        "ok": good,
        "dark": (good * 0.9).astype(np.uint8),
        "dark ": np.zeros_like(good),
        "bright": (good * 1.1).clip(0, 255).astype(np.uint8),
        "blurred": np.asarray(Image.fromarray(good).filter(ImageFilter.GaussianBlur(3))),
        "shape": np.concatenate([good, good, good], axis=1),
        "unlike": (good * [1, 0.7, 1.3]).clip(0, 255).astype(np.uint8),
    }


@pytest.mark.filterwarnings("ignore:.*said once")
def test_images_of_a_detector_are_named(detector, tmp_path):
    images = strange_images()
    result = detector.predict(list(images.values()))
    assert result.input.tolist() == [name.strip() for name in images]
    decided = result.is_anomalous
    strict = detector.predict(list(images.values()), strict=True).is_anomalous
    assert strict.tolist() == [bool(d) or i > 0 for i, d in enumerate(decided)]
    assert not strict[0]
    detector.save(tmp_path / "d.fastad")
    again = fastad.load(tmp_path / "d.fastad", device="cpu", precision="float32")
    assert again.predict(list(images.values())).input.tolist() == result.input.tolist()


@pytest.mark.filterwarnings("ignore:.*said once")
def test_images_that_another_runtime_scored_are_named_alike(detector, tmp_path):
    detector.save(tmp_path / "d.fastad")
    artifact = inference.load(tmp_path / "d.fastad")
    images = list(strange_images().values())
    result = detector.predict(images)
    assert artifact.judge_inputs(images, result.score).tolist() == result.input.tolist()
    lower = np.append(result.score[:1] / 1e3, result.score[1:])
    assert artifact.judge_inputs(images, lower)[0] == "unlike"  # a score as no good image has
    resized = np.zeros((1, 32, 48, 3), dtype=np.uint8)  # of what shape is not known
    assert artifact.judge_inputs(resized, result.score[:1]).tolist() == ["dark"]
    with pytest.raises(ValueError, match="scores: there are 1, but 7 images"):
        artifact.judge_inputs(images, result.score[:1])
    nothing = dataclasses.replace(artifact, inputs=np.empty((0, 6)))
    assert nothing.judge_inputs(images, result.score).tolist() == ["unknown"] * 7


def test_good_images_are_ok(detector):
    rng = np.random.default_rng(9)
    found = detector.predict(np.stack([scene(rng) for _ in range(100)])).input
    assert (found != "ok").sum() <= 10  # 5 promised; 99.9 % of binomials are at most 13


def test_another_rate_is_the_guards_too(detector):
    detector.set_threshold(false_positive_rate=0.4)
    assert detector._predictor.guard._rate == 0.4
    detector.set_threshold(false_positive_rate=0.05)
    assert detector._predictor.guard._rate == 0.05


@pytest.mark.filterwarnings("ignore:.*said once")
def test_older_files_and_files_without_held_out_images_say_unknown(detector, tmp_path):
    artifact = dataclasses.replace(detector._artifact, inputs=np.empty((0, 6)))
    inference.save(tmp_path / "old.fastad", artifact)
    old = fastad.load(tmp_path / "old.fastad", device="cpu", precision="float32")
    images = [scene(np.random.default_rng(1)), np.zeros((48, 64, 3), np.uint8)]
    result = old.predict(images, strict=True)
    assert result.input.tolist() == ["unknown", "unknown"]
    assert result.is_anomalous.tolist() == old.predict(images).is_anomalous.tolist()


def test_aspects_of_files_are_kept(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(12):
        Image.fromarray(scene(rng)).save(tmp_path / f"{i:02d}.png")
    detector = fastad.Detector(
        "stpm", image_size=32, layers=("layer1",), teacher_weights=None, false_positive_rate=0.4
    ).fit(tmp_path, epochs=1, batch_size=4, validation_fraction=0.5)
    assert detector._artifact.inputs[:, -1] == pytest.approx(np.log(64 / 48))
