"""Which candidate is best, how many epochs fit into a time, and which images judge."""

import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from fastad import models
from fastad.commands import time_budget
from fastad.commands.compare import JUDGED, split_images
from fastad.commands.comparison import MARGIN, best, quality, reason
from fastad.commands.time_budget import EpochTimes, default_epochs, epochs_that_fit, fit_within
from fastad.data import describe
from fastad.training import EpochProgress


def row(model, image_auroc, aupro, milliseconds):
    synthesised = {"image_auroc": image_auroc, "aupro": aupro}
    return {"model": model, "synthesised": synthesised, "milliseconds_per_image": milliseconds}


def test_the_faster_wins_within_the_margin_only():
    slow, near = row("slow", 0.9, 0.8, 50), row("near", 0.9, 0.8 - 1.9 * MARGIN, 10)
    far = row("far", 0.9, 0.8 - 2.1 * MARGIN, 1)
    assert quality(slow) == pytest.approx(0.85)
    assert best([slow, near, far]) is near
    assert best([far, slow]) is slow
    assert "and faster" in reason([slow, near, far])
    assert "slow's 0.850" in reason([slow, near, far])
    assert "the best by synthesised defects" in reason([far, slow])


def test_epochs_that_fit_have_a_closed_form():
    times = {"training": 2.0}
    # A training of two epochs took 7 s, so 3 s are needed once; 3 + 2 n <= 20.
    assert epochs_that_fit("stpm", 100, 7.0, times, 20.0) == 8
    assert epochs_that_fit("stpm", 100, 7.0, times, 19.0) == 8
    assert epochs_that_fit("stpm", 100, 7.0, times, 18.9) == 7
    assert epochs_that_fit("stpm", 5, 7.0, times, 1000.0) == 5
    assert epochs_that_fit("stpm", 100, 7.0, times, 4.9) == 0


def test_later_stages_take_their_part():
    kind = models.model_class("rstpm")
    first, second = (stage.name for stage in kind.stages)
    times = {first: 1.0, second: 3.0}

    def seconds(epochs):
        config = time_budget.TrainingConfig.for_model(kind, epochs=epochs)
        return sum(times[s.name] * config.for_stage(kind, s).epochs for s in kind.stages)

    found = epochs_that_fit("rstpm", 100, seconds(2) + 5, times, 60.0)
    assert 5 + seconds(found) <= 60.0 < 5 + seconds(found + 1)


def test_epochs_are_timed_without_what_is_done_once(monkeypatch):
    now = SimpleNamespace(time=0.0)
    monkeypatch.setattr(time_budget.time, "monotonic", lambda: now.time)
    times = EpochTimes()

    def step(at, stage, epoch, number, score=None):
        now.time = at
        times(EpochProgress(epoch, 2, number, 4, 1.0, 0.0, validation_score=score, stage=stage))

    step(10.0, "one", 1, 1)
    step(13.0, "one", 1, 4)
    step(14.0, "one", 1, 4, 0.5)
    assert times.seconds["one"] == pytest.approx(4.0 * 4 / 3)  # the first of four steps is missing
    step(15.0, "one", 2, 1)
    step(17.0, "one", 2, 4, 0.4)
    assert times.seconds["one"] == pytest.approx(3.0)
    step(40.0, "two", 1, 1)
    step(43.0, "two", 1, 4, 0.4)
    assert times.seconds == pytest.approx({"one": 3.0, "two": 4.0})


class FakeDetector:
    """Trains in no time, but the clock says 10 s once and 2 s an epoch."""

    model = "stpm"
    fitted = ()

    def __init__(self, now, interrupted=False):
        self.now, self.training_record_ = now, {"interrupted": interrupted}

    def fit(self, images, progress=None, epochs=None):
        FakeDetector.fitted += (epochs,)
        self.now.time += 10.0
        for epoch in range(1, (epochs or 0) + 1):
            for number in (1, 2):
                self.now.time += 1.0
                progress(EpochProgress(epoch, epochs, number, 2, 1.0, 0.0))
            progress(EpochProgress(epoch, epochs, 2, 2, 1.0, 0.0, {}, 0.5))
        return self


@pytest.mark.parametrize(
    ("epochs", "seconds", "fitted"),
    [
        (100, None, (100,)),
        (100, 1000.0, (2, 100)),
        (100, 64.0, (2, 20)),  # 14 s for the first two, then 10 + 2 * 20
        (100, 15.0, (2,)),
        (100, 1.0, (2,)),  # no fewer, whatever they take
        (2, 1.0, (2,)),
        (None, 1.0, (None,)),
    ],
)
def test_a_training_fits_into_its_time(monkeypatch, epochs, seconds, fitted):
    now = SimpleNamespace(time=0.0)
    monkeypatch.setattr(time_budget.time, "monotonic", lambda: now.time)
    monkeypatch.setattr(FakeDetector, "fitted", ())
    fit_within(lambda: FakeDetector(now), [], epochs, seconds)
    assert FakeDetector.fitted == fitted


def test_an_interrupted_measurement_is_no_training(monkeypatch):
    now = SimpleNamespace(time=0.0)
    monkeypatch.setattr(time_budget.time, "monotonic", lambda: now.time)
    monkeypatch.setattr(FakeDetector, "fitted", ())
    fit_within(lambda: FakeDetector(now, interrupted=True), [], 100, 1000.0)
    assert FakeDetector.fitted == (2,)


def test_models_that_train_nothing_have_no_epochs():
    for name, kind in models.MODELS.items():
        has_steps = any(stage.steps for stage in kind.stages)
        assert (default_epochs(name, **models.without_weights(name)) is not None) == has_steps


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(20):
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(
            tmp_path / f"{i:02}.png"
        )
    return tmp_path


def test_a_fifth_judges_and_is_never_trained_on(folder):
    split = split_images(describe(folder), seed=0)
    assert len(split.judged) == round(20 * JUDGED)
    assert not set(split.judged) & set(split.training.paths)
    assert len(split.training.paths) == 16
    again, other = (split_images(describe(folder), seed=seed) for seed in (0, 1))
    assert split == again
    assert split.judged != other.judged
    assert split.real == []


def test_a_copy_of_an_image_trained_on_does_not_judge(folder):
    for path in sorted(folder.iterdir())[:10]:
        shutil.copy(path, folder / f"copy_{path.name}")
    split = split_images(describe(folder), seed=0)
    content = {path.read_bytes() for path in split.training.paths}
    assert all(path.read_bytes() not in content for path in split.judged)
    assert 0 < len(split.judged) < round(30 * JUDGED)


def test_another_image_is_another_digest(folder):
    digest = split_images(describe(folder), seed=0).digest
    Image.new("RGB", (32, 32)).save(folder / "03.png")
    assert split_images(describe(folder), seed=0).digest != digest


def test_real_defects_are_taken_with_images_that_were_not_trained_on(images, tmp_path):
    split = split_images(describe(images), seed=0)
    assert sorted(sample.label for sample in split.real) == [0, 0, 1, 1]
    # Sorted by class, the good images are those of the training, too.
    for name, source in (("good", "train/good"), ("hole", "test/hole")):
        shutil.copytree(images / source, tmp_path / name)
    split = split_images(describe(tmp_path), seed=0)
    normal = [sample.path for sample in split.real if sample.label == 0]
    assert sorted(normal) == sorted(split.judged)
    assert len(split.real) == len(normal) + 2


def test_too_few_images_are_refused(folder):
    for path in sorted(folder.iterdir())[9:]:
        path.unlink()
    with pytest.raises(ValueError, match=r"at least 10 good images.*there are 9"):
        split_images(describe(folder), seed=0)
