"""The learning rate over a training."""

import math

import numpy as np
import pytest
import torch
from toy import RandomToy, Toy, options

from fastad.training import CheckpointError, Trainer
from fastad.training import state as training_state
from fastad.training.schedule import rate_factor

pytestmark = pytest.mark.filterwarnings("ignore:this CPU has no")


@pytest.mark.parametrize("steps", [1, 7, 20, 333])
def test_a_constant_rate_is_one(steps):
    assert {rate_factor("constant", done, steps) for done in range(steps)} == {1.0}


def test_the_exponential_falls_evenly_to_nine_tenths():
    found = np.array([rate_factor("exponential", done, 40) for done in range(41)])
    assert found[0] == 1
    assert found[-1] == pytest.approx(0.9)
    np.testing.assert_allclose(found[1:] / found[:-1], 0.9 ** (1 / 40))


@pytest.mark.parametrize("steps", [1, 2, 19, 40, 1000])
def test_the_cosine_rises_and_falls_to_zero(steps):
    found = np.array([rate_factor("cosine", done, steps) for done in range(steps)])
    half = 0.5 * (1 + np.cos(np.pi * np.arange(steps) / steps))
    rising = np.minimum((np.arange(steps) + 1) / max(0.05 * steps, 1), 1)
    np.testing.assert_allclose(found, half * rising, rtol=1e-12)
    assert (found > 0).all()
    assert found.max() <= 1
    top = found.argmax()
    assert (np.diff(found[:top]) > 0).all()
    assert (np.diff(found[top:]) < 0).all()
    assert top <= math.ceil(0.05 * steps)


def rates_of(images, monkeypatch, **changes):
    """The learning rate of every step of a training."""
    rates = []

    class Watched(torch.optim.SGD):
        def step(self, *arguments, **named):
            rates.append([group["lr"] for group in self.param_groups])
            return super().step(*arguments, **named)

    monkeypatch.setattr(training_state.torch.optim, "SGD", Watched)
    config = options(epochs=4, optimizer="sgd", learning_rate=0.02, **changes)
    record = Trainer(Toy(), config).fit(images)
    return np.array(rates), record


def test_every_step_has_its_rate(images, monkeypatch):
    rates, record = rates_of(images, monkeypatch, schedule="cosine")
    assert len(rates) % 4 == 0
    expected = [0.02 * rate_factor("cosine", done, len(rates)) for done in range(len(rates))]
    np.testing.assert_allclose(rates[:, 0], expected, rtol=1e-12)
    assert record.stages[0].config["schedule"] == "cosine"


def test_without_a_schedule_the_rate_stays(images, monkeypatch):
    rates, _ = rates_of(images, monkeypatch)
    assert (rates == 0.02).all()


def interrupted(images, path, epochs):
    def stop(event):
        if event.epoch == 2 and event.validation_score is not None:
            raise KeyboardInterrupt

    config = options(epochs=epochs, schedule="cosine")
    Trainer(RandomToy(), config, stop).fit(images, checkpoint=path)
    return config


def test_a_resumed_training_goes_on_along_the_schedule(images, tmp_path):
    config = interrupted(images, tmp_path / "a.ckpt", 5)
    model, whole = RandomToy(), RandomToy()
    Trainer(model, config).fit(images, checkpoint=tmp_path / "a.ckpt", resume=True)
    Trainer(whole, config).fit(images)
    for (name, value), expected in zip(
        model.state_dict().items(), whole.state_dict().values(), strict=True
    ):
        assert torch.equal(value, expected), name


def test_another_number_of_epochs_is_another_schedule(images, tmp_path):
    interrupted(images, tmp_path / "a.ckpt", 5)
    trainer = Trainer(RandomToy(), options(epochs=6, schedule="cosine"))
    with pytest.raises(CheckpointError, match="falls over 5 epochs"):
        trainer.fit(images, checkpoint=tmp_path / "a.ckpt", resume=True)


def test_an_unknown_schedule_is_refused():
    names = "constant, cosine, exponential"
    with pytest.raises(ValueError, match=f"schedule must be one of {names}; got 'step'"):
        options(schedule="step")
