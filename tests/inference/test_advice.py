"""What a training's record says should be done next, and how long that would take."""

import dataclasses

import numpy as np
import pytest

import fastad
from fastad import models
from fastad.inference.advice import OTHER_MODELS, next_step, with_path
from fastad.training import TrainingConfig, TrainingRecord
from fastad.training.record import StageRecord

STPM = models.build("stpm", teacher_weights="embedded")
FALLING, FLAT = [3.0, 2.0, 1.0], [3.0, 0.99, 1.0]


def stage(name, scores, seconds, qualities=()):
    best = int(np.argmin(scores)) + 1
    return StageRecord(
        name, 8, {}, len(scores), best, [{}] * len(scores), scores, list(qualities), "", seconds
    )


def record(model, verdict, trained, seconds, **options):
    config = dataclasses.asdict(TrainingConfig.for_model(model, **options))
    content = TrainingRecord(
        model.name, config, 0, "cpu", "float32", {}, 1, 8, 2, [], seconds=seconds, stages=trained
    ).to_dict()
    return content | {"self_check": None if verdict is None else {"verdict": verdict}}


@pytest.mark.parametrize("verdict", ["weak", "fair", "no better than chance"])
def test_twice_the_epochs_and_their_time(verdict):
    # 1200 s of three epochs, and 60 s of the choice of maps, which do not double.
    training = record(STPM, verdict, [stage("training", FALLING, 1200)], 1260, epochs=3)
    assert next_step(training, STPM) == (
        "more epochs would help: --epochs 6, about 41 min (in Python epochs=6)"
    )


def test_a_training_cut_short_gets_its_usual_epochs():
    training = record(STPM, "weak", [stage("training", [3.0, 2.0], 60)], 120, epochs=2)
    assert next_step(training, STPM) == (
        "more epochs would help: --epochs 100, about 51 min (in Python epochs=100)"
    )


def test_where_candidates_are_trained_again_their_time_counts():
    training = record(STPM, "weak", [stage("training", FALLING, 1200)], 1260, epochs=3)
    rows = [{"model": "stpm", "seconds": 1260.0}, {"model": "patchcore", "seconds": 300.0}]
    assert "about 46 min" in next_step(training | {"candidates": rows}, STPM)


@pytest.mark.parametrize(
    ("verdict", "scores", "expected"),
    [
        (None, FALLING, None),
        ("strong", FALLING, None),
        ("fair", FLAT, None),
        ("weak", FLAT, f"{OTHER_MODELS}'my bottle'"),
        ("no better than chance", FLAT, f"{OTHER_MODELS}'my bottle'"),
    ],
)
def test_nothing_to_gain_by_epochs(verdict, scores, expected):
    training = record(STPM, verdict, [stage("training", scores, 9)], 9, epochs=3)
    assert next_step(training | {"data": "my bottle"}, STPM) == expected
    if expected is None:
        assert with_path(None, "data/my bottle") is None
        return
    assert with_path(expected, "data/my bottle") == f"{OTHER_MODELS}'data/my bottle'"
    assert with_path("more epochs would help", "data") == "more epochs would help"
    # Images in memory have no folder.
    assert next_step(training, STPM) == f"{OTHER_MODELS}FOLDER, with the images in a folder"


@pytest.fixture(scope="module")
def rstpm():
    return models.build(
        "rstpm", teacher_weights="embedded", teacher2="resnet18", discriminator_width=4
    )


def test_the_stage_that_was_improving_gets_twice_its_epochs(rstpm):
    # By default the second stage has other epochs than the first: the whole's follow from it.
    config = TrainingConfig.for_model(rstpm)
    first, second = (config.for_stage(rstpm, s).epochs for s in rstpm.stages)
    assert first != second
    trained = [stage("pairs", FLAT, 100), stage("discriminator", FALLING, 600)]
    training = record(rstpm, "weak", trained, 700)
    said = next_step(training, rstpm)
    epochs = int(said.split("--epochs ")[1].split(",")[0])
    config = TrainingConfig.for_model(rstpm, epochs=epochs)
    pairs, discriminator = (config.for_stage(rstpm, s).epochs for s in rstpm.stages)
    assert discriminator >= 6
    assert (
        TrainingConfig.for_model(rstpm, epochs=epochs - 1).for_stage(rstpm, rstpm.stages[1]).epochs
        <= discriminator
    )
    minutes = round((100 * pairs / 3 + 600 * discriminator / 3) / 60)
    assert f"about {minutes} min" in said


def test_a_stage_with_epochs_of_its_own_is_named(rstpm):
    trained = [stage("pairs", FLAT, 60), stage("discriminator", FALLING, 600)]
    given = {"discriminator": {"epochs": 3, "batch_size": 2}}
    training = record(rstpm, "weak", trained, 660, epochs=3, stages=given)
    assert next_step(training, rstpm) == (
        "more epochs would help: --stage discriminator.epochs=6, about 21 min "
        "(in Python stages={'discriminator': {'epochs': 6}})"
    )


def test_a_training_ends_with_it(tmp_path):
    from fastad.commands.info import contents

    good = np.random.default_rng(0).integers(100, 156, (20, 32, 40, 3), dtype=np.uint8)
    detector = fastad.Detector(
        "subspace", image_size=(32, 40), teacher_weights="embedded", false_positive_rate=0.4
    ).fit(good)
    training = detector.training_record_
    assert training["next_step"] == next_step(training, detector.model_)
    training["next_step"] = "go on"
    detector.save(tmp_path / "a.fastad")
    lines = contents(str(tmp_path / "a.fastad"))
    assert lines.count(("next step", "go on")) == 1
    assert not any(value == "go on" and name != "next step" for name, value in lines)
