"""Steps and batches on small sets: floors for both, and what is asked for taken as it is."""

import pytest
import torch
from toy import Toy, options

from fastad import models
from fastad.models import RSTPM, STPM, UTAD
from fastad.training import Trainer, TrainingConfig
from fastad.training.batches import shuffled_batches, steps_an_epoch
from fastad.training.small_sets import fitted
from fastad.training.stages import plan_stages

BOTTLE = 167  # images left to train on


@pytest.mark.parametrize("batch_size", [1, 2, 3, 4, 8])
def test_steps_are_counted_as_batches_are_made(batch_size):
    for items in range(1, 30):
        batches = shuffled_batches(torch.arange(items), batch_size, torch.Generator())
        assert steps_an_epoch(items, batch_size) == len(batches), items


@pytest.mark.parametrize(
    ("items", "batch", "epochs"),
    [
        (32, 8, 100),  # 40 images
        (33, 9, 100),
        (20, 5, 100),
        (9, 4, 200),  # the ninth would be a batch of one
        (3, 4, 400),
        (128, 32, 100),
        (127, 32, 100),
        (BOTTLE, 32, 100),
    ],
)
def test_stpm_fits_small_sets(items, batch, epochs):
    found = fitted(TrainingConfig.for_model(STPM), items)
    assert (found.batch_size, found.epochs) == (batch, epochs)


@pytest.mark.parametrize("model", [RSTPM, UTAD])
def test_other_models_train_on_bottle_as_ever(model):
    for stage in model.stages:
        asked = TrainingConfig.for_model(model).for_stage(model, stage)
        items = 1000 if stage.pseudo_anomalies else BOTTLE
        assert fitted(asked, items) == asked


@pytest.mark.parametrize(
    ("given", "batch", "epochs"),
    [
        ({"epochs": 3}, 8, 3),
        ({"batch_size": 16}, 16, 200),
        ({"epochs": 3, "batch_size": 16}, 16, 3),
        ({"epochs": 3, "min_steps": 100}, 8, 25),
        ({"batch_size": 16, "min_batches": 8}, 4, 100),
        ({"min_steps": 0, "min_batches": 0}, 32, 100),
        ({"stages": {"training": {"epochs": 5}}}, 8, 5),
        ({"stages": {"training": {"batch_size": 32}}}, 32, 400),
        ({"stages": {"training": {"epochs": 5, "min_steps": 80}}}, 8, 20),
    ],
)
def test_what_is_given_is_taken_as_it_is(given, batch, epochs):
    config = TrainingConfig.for_model(STPM, **given).for_stage(STPM, STPM.stages[0])
    found = fitted(config, 32)
    assert (found.batch_size, found.epochs) == (batch, epochs)


def test_plans_are_fitted_stage_by_stage():
    model = models.build("rstpm", **models.without_weights("rstpm"), teacher2="resnet18")
    config = TrainingConfig.for_model(model)
    images = torch.zeros(40, 3, 8, 8, dtype=torch.uint8)
    plans = plan_stages(model, config, images, torch.arange(32), torch.arange(32, 40))
    assert [(p.config.batch_size, p.config.epochs) for p in plans] == [(8, 100), (8, 6)]


class Floors(Toy):
    training_defaults = {"epochs": 2, "min_steps": 12, "batch_size": 32, "min_batches": 4}  # noqa: RUF012


def test_record_notes_and_progress_know_the_numbers(images, caplog):
    caplog.set_level("INFO", "fastad")
    events = []
    model = Floors()
    config = TrainingConfig.for_model(model, device="cpu", precision="float32")
    record = Trainer(model, config, events.append).fit(images)
    said = "8 images: batches of 4, 6 epochs of 2 steps"
    assert said in record.notes
    assert said in caplog.text
    assert record.config["epochs"] == 2  # as asked
    assert record.stages[0].config["epochs"] == record.epochs == 6
    assert record.stages[0].config["batch_size"] == 4
    assert {(e.epochs, e.steps) for e in events if not e.phase} == {(6, 2)}
    assert model.seen == [4] * 12


def test_few_steps_that_were_asked_for_are_said(images):
    def notes(**given):
        model = Floors()
        config = TrainingConfig.for_model(model, device="cpu", precision="float32", **given)
        return [note for note in Trainer(model, config).fit(images).notes if "few" in note]

    few = "epochs of 2 steps are few: where epochs are not given toy takes at least 12 steps"
    assert notes(epochs=3) == [f"3 {few}"]
    assert notes(epochs=6) == []
    assert notes() == []


def test_resumed_with_epochs_that_were_not_given_before(images, tmp_path):
    def fit(resume=False, **given):
        config = TrainingConfig.for_model(Floors, device="cpu", precision="float32", **given)
        trainer = Trainer(Floors(), config)
        return trainer.fit(images, checkpoint=tmp_path / "a.ckpt", resume=resume)

    assert fit().epochs == 6
    assert fit(resume=True).epochs == 6
    assert fit(resume=True, epochs=8).epochs == 8
    with pytest.raises(ValueError, match="batch_size 4 in the file, 3 now"):
        fit(resume=True, epochs=8, batch_size=3)


def test_a_config_made_by_hand_has_no_floors(images):
    model = Floors()
    Trainer(model, options(epochs=1, batch_size=8)).fit(images)
    assert model.seen == [8]
