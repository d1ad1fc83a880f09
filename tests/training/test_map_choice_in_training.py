"""The choice at the end of a training: what the record says, and what is kept."""

import logging

import pytest
import torch
from toy_maps import Net

from fastad import models
from fastad.models.map_options import MapChoice
from fastad.training import Trainer, TrainingConfig, map_choice

IMAGES = torch.randint(
    100, 140, (50, 3, 48, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
)


@pytest.fixture(autouse=True)
def few_defects(monkeypatch):
    monkeypatch.setattr(map_choice, "DEFECTS", 30)


def build(**options):
    torch.manual_seed(0)
    return models.build("stpm", backbone=Net(), **options)


def fit(model, images=IMAGES, epochs=1, progress=None, **arguments):
    options = {"device": "cpu", "precision": "float32", "batch_size": 20, "min_steps": 0}
    config = TrainingConfig.for_model(model, epochs=epochs, learning_rate=0.01, **options)
    return Trainer(model, config, progress).fit(images, **arguments)


def notes(record):
    """Those on the choice; others are on so few steps."""
    return [note for note in record.notes if "maps" in note]


def test_the_record_and_the_log_say_what_was_chosen(caplog):
    model = build()
    with caplog.at_level(logging.INFO, "fastad"):
        record = fit(model)
    assert model.chosen == MapChoice(**record.choice["chosen"])
    assert (record.choice["images"], record.choice["defects"]) == (10, 30)
    for name, line in map_choice.choice_lines(record.choice):
        assert f"{name}: {line}" in caplog.messages
    assert record.to_dict()["choice"] == record.choice
    assert (model.subspace is not None) == model.choice().subspace
    assert notes(record) == []


def test_another_seed_than_the_epoch_has_other_defects(monkeypatch):
    seeds, drawn = [], map_choice.trial_defects

    def noted(images, held_out, seed, *rest):
        seeds.append(seed)
        return drawn(images, held_out, seed, *rest)

    monkeypatch.setattr(map_choice, "trial_defects", noted)
    from fastad.training.batches import split_indices
    from fastad.training.stages import plan_stages

    model = build()
    fit(model)
    config = TrainingConfig.for_model(model)
    [plan] = plan_stages(model, config, IMAGES, *split_indices(50, 0.2, 0))
    assert plan.trial.seed not in seeds
    assert plan.seed not in seeds  # that of `fastad check`


def test_nothing_is_chosen_where_all_is_given():
    model = build(
        scale_maps="position", scale_score="none", pooling=0.01, subspace=True, score_by="maps"
    )
    record = fit(model)
    assert record.choice is None
    assert notes(record) == []
    assert model.choice() == MapChoice("position", "none", 0.01, (), True)
    assert model.subspace is not None


@pytest.mark.parametrize(
    ("images", "why"),
    [
        (IMAGES[:35], "it needs 8 held-out images, there are 7"),
        (IMAGES[:, :, :31], "the images are too small for synthesised defects"),
    ],
)
def test_where_nothing_can_choose_it_is_plain_and_noted(images, why):
    model = build(pooling=0.01)
    record = fit(model, images)
    assert record.choice is None
    assert notes(record) == [f"how maps are scaled and pooled was not chosen but left plain: {why}"]
    assert model.choice() == MapChoice(pooling=0.01)
    assert model.subspace is None


def test_a_scale_that_is_given_holds_for_the_score_too_where_nothing_chooses():
    model = build(scale_maps="position")
    fit(model, IMAGES[:35])
    assert model.choice() == MapChoice("position", "position")


def test_a_stopped_training_is_plain():
    def stop(event):
        if event.epoch == 2:
            raise KeyboardInterrupt

    model = build()
    record = fit(model, epochs=3, progress=stop)
    assert record.interrupted
    assert notes(record) == [
        "how maps are scaled and pooled was not chosen but left plain: the training was stopped"
    ]
    assert model.choice() == MapChoice()
    assert (model.distance_means != 1).any()


@pytest.mark.parametrize("when", ["before", "after"])
def test_stopped_while_choosing_all_else_is_kept(monkeypatch, when):
    expected = build(subspace=False)
    fit(expected)
    choose = map_choice.choose

    def stopped(*arguments):
        if when == "after":
            choose(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(map_choice, "choose", stopped)
    model = build()
    record = fit(model)
    assert not record.interrupted
    if when == "before":
        assert model.choice() == MapChoice()
        assert notes(record)[0].endswith("left plain: it was stopped by the user")
    for name, value in expected.student.state_dict().items():
        assert torch.equal(model.student.state_dict()[name], value)


def test_a_resumed_training_chooses_the_same(tmp_path):
    straight = build()
    expected = fit(straight, epochs=2, checkpoint=tmp_path / "a.ckpt")
    fit(build(), epochs=1, checkpoint=tmp_path / "b.ckpt")
    for epochs in (2, 2):  # the second time nothing is left to train
        model = build()
        record = fit(model, epochs=epochs, checkpoint=tmp_path / "b.ckpt", resume=True)
        assert record.choice == expected.choice
        assert model.chosen == straight.chosen
        state, other = model.state_dict(), straight.state_dict()
        assert state.keys() == other.keys()
        assert all(torch.equal(state[name], other[name]) for name in state)


def test_a_second_training_chooses_anew(tmp_path):
    model = build()
    first = fit(model, checkpoint=tmp_path / "a.ckpt")
    record = fit(model, epochs=2, checkpoint=tmp_path / "a.ckpt", resume=True)
    assert len(record.choice["maps"]) == len(first.choice["maps"]) == 4  # with the subspace again
