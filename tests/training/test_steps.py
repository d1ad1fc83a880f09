"""Stages of several steps: whose optimizer, whose gradients, resumed to the same bytes."""

import json
from typing import ClassVar

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from toy import Toy, options
from toy_steps import JUDGE, MAKER, TwoSteps

from fastad.models import Stage, Step
from fastad.training import CheckpointError, Trainer, TrainingConfig, TrainingDivergedError
from fastad.training.checkpoint import load_checkpoint


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (10, 3, 8, 8), dtype=torch.uint8, generator=generator)


def fit(images, path=None, config=None, model=None, progress=None, **how):
    model = model or TwoSteps()
    torch.manual_seed(hash(str(how)) % 1000)  # the caller's random state must not matter
    trainer = Trainer(model, config or options(epochs=4), progress)
    return model, trainer.fit(images, checkpoint=path, **how)


def test_a_stage_has_one_step_unless_it_says_otherwise():
    model = Toy()
    assert model.stages[0].steps == (Step(),)
    assert model.step_parameter_groups(Step()) == model.parameter_groups()
    batch = {"image": torch.rand(2, 3, 8, 8)}
    assert model.step_loss(batch, Step()) == model.loss(batch)


def test_steps_take_turns_and_leave_the_others_alone(images):
    model, record = fit(images)
    per_batch = [("maker", {"student"}), ("judge", {"judge"})]
    assert [call[:2] for call in model.calls] == per_batch * (len(model.calls) // 2)
    assert len(model.calls) == 2 * 4 * 3
    # What gradients there are at the begin of a step are those of others.
    assert [call[2] for call in model.calls[:4]] == [
        set(),
        {"student"},
        {"judge"},
        {"student"},
    ]
    assert set(record.losses[0]) == {"squared", "absolute", "passing", "judging"}
    assert all(p.requires_grad for p in (*model.student.parameters(), *model.judge.parameters()))


def test_one_step_s_loss_leaves_no_gradient_with_the_other(images):
    """The judge's gradient is that of its own loss: not what the maker's sent through it."""
    found = []

    class Watched(TwoSteps):
        def step_loss(self, batch, step):
            if step is JUDGE and torch.is_grad_enabled():
                found.append([p.grad for p in self.judge.parameters()])
            return super().step_loss(batch, step)

    fit(images[:4], config=options(epochs=1, batch_size=8), model=Watched())
    assert found == [[None, None]]


def test_each_step_has_options_of_its_own(images):
    model = TwoSteps()
    config = options(
        weight_decay=0.5,
        stages={"both": {"learning_rate": 0.02}, "both.judge": {"weight_decay": 0.25}},
    )
    stage = model.stages[0]
    maker, judge = (config.for_step(model, stage, step) for step in (MAKER, JUDGE))
    assert (maker.learning_rate, maker.weight_decay, maker.optimizer) == (0.02, 0.5, "adam")
    assert (judge.learning_rate, judge.weight_decay, judge.optimizer) == (0.05, 0.25, "sgd")


def test_learning_rates_are_the_steps_own(images):
    """A judge without a rate worth the name stays where it was, and the student does not."""
    start = TwoSteps()
    config = options(epochs=1, stages={"both.judge": {"learning_rate": 1e-30}})
    model = fit(images, config=config)[0]
    assert torch.equal(model.judge.weight, start.judge.weight)
    assert not torch.equal(model.student.conv.weight, start.student.conv.weight)
    record = fit(images, config=config)[1].to_dict()
    steps = record["stages"][0]["config"]["steps"]
    assert {name: own["learning_rate"] for name, own in steps.items()} == {
        "maker": config.learning_rate,
        "judge": 1e-30,
    }
    model = fit(images, config=options(epochs=1, stages={"both": {"learning_rate": 1e-30}}))[0]
    assert torch.equal(model.student.conv.weight, start.student.conv.weight)
    assert not torch.equal(model.judge.weight, start.judge.weight)


@pytest.mark.parametrize(
    ("stages", "said"),
    [
        (
            {"both.judge": {"epochs": 3}},
            "epochs is the same for all steps of a stage; 'both.judge'",
        ),
        ({"both.other": {}}, "has no stage 'both.other'; there are: both, both.judge, both.maker"),
    ],
)
def test_options_of_steps_are_checked(stages, said):
    with pytest.raises(ValueError, match=said):
        TrainingConfig.for_model(TwoSteps(), stages=stages)


def test_a_stage_of_one_step_has_no_options_of_it():
    with pytest.raises(ValueError, match=r"toy has no stage 'training\.step'"):
        TrainingConfig.for_model(Toy(), stages={"training.step": {"learning_rate": 1.0}})


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
@pytest.mark.filterwarnings("ignore:this CPU has no")
def test_resumed_to_the_same_bytes(images, tmp_path, precision):
    def stop(event):
        if (event.epoch, event.step) == (3, 2):
            raise KeyboardInterrupt

    path, config = tmp_path / "a.ckpt", options(epochs=5, precision=precision)
    whole, record = fit(images, config=config)
    assert fit(images, path, config, progress=stop)[1].interrupted
    again, resumed = fit(images, path, config, resume=True)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    assert record.losses == resumed.losses
    steps = load_checkpoint(path).steps
    assert list(steps) == ["maker", "judge"]
    assert set(steps["maker"].optimizer["state"][0]) == {"step", "exp_avg", "exp_avg_sq"}
    assert set(steps["judge"].optimizer["state"][0]) == {"momentum_buffer"}


def test_options_of_a_step_must_be_the_same_to_resume(images, tmp_path):
    path = tmp_path / "a.ckpt"
    fit(images, path, options(epochs=1))
    config = options(epochs=2, stages={"both.judge": {"learning_rate": 0.5}})
    said = r"step judge: training option learning_rate 0\.05 in the file, 0\.5 now"
    with pytest.raises(CheckpointError, match=said):
        fit(images, path, config, resume=True)


def test_a_training_of_one_step_is_written_as_it_was_before_there_were_several(images, tmp_path):
    path = tmp_path / "a.ckpt"
    Trainer(Toy(), options(epochs=1)).fit(images, checkpoint=path)
    with safe_open(path, framework="pt") as file:
        content = json.loads(file.metadata()["checkpoint"])
    assert set(content) == {"identity", "record", "optimizer", "scaler"}
    parts = {name.partition(".")[0] for name in load_file(path)}
    assert parts == {"model", "optimizer", "generator"}


def test_the_step_that_diverges_is_named(images):
    class Diverging(TwoSteps):
        def step_loss(self, batch, step):
            losses = super().step_loss(batch, step)
            factor = torch.nan if step is JUDGE and len(self.calls) == 4 else 1
            return {name: factor * value for name, value in losses.items()}

    with pytest.raises(
        TrainingDivergedError, match=r"loss became nan in epoch 1, step 2 \(judge\)"
    ):
        fit(images, model=Diverging())


def test_a_step_without_parameters_is_named(images):
    class Empty(TwoSteps):
        def step_parameter_groups(self, step):
            return [{"params": []}] if step is JUDGE else super().step_parameter_groups(step)

    with pytest.raises(ValueError, match="steps has no parameters to train, step judge"):
        fit(images, model=Empty())


class Measured(TwoSteps):
    """Takes a number from the training images when its stage is over."""

    stages: ClassVar = (
        Stage("both", steps=(MAKER, JUDGE)),
        Stage("more", {"epochs": 1}, steps=(MAKER, JUDGE)),
    )
    training_defaults: ClassVar = {"epochs": 4}

    def __init__(self, scores=None):
        super().__init__(scores)
        self.register_buffer("measured", torch.zeros(2))

    def finish_stage(self, train):
        assert not self.training
        assert not torch.is_grad_enabled()
        super().finish_stage(train)
        index = [stage.name for stage in self.stages].index(self.stage.name)
        self.measured[index] = self.student.conv.weight.sum()


def test_what_a_finished_stage_measures_stays(images):
    model, record = fit(images, model=Measured())
    assert model.measured[1] == model.student.conv.weight.sum()
    assert 0 != model.measured[0] != model.measured[1]
    kept = torch.cat(model.finished)
    assert torch.equal(kept, images[[i for i in range(10) if i not in record.held_out]] / 255)


def test_a_stage_that_was_stopped_is_finished_with_its_best_epoch(images):
    def stop(event):
        if (event.stage, event.epoch, event.step) == ("both", 3, 1):
            raise KeyboardInterrupt

    model, record = fit(images, model=Measured(), progress=stop)
    assert record.interrupted
    assert model.measured[0] == model.student.conv.weight.sum()
    assert model.measured[1] == 0
    model = fit(
        images, model=Measured(), config=options(epochs=1), progress=lambda event: stop_first(event)
    )[0]
    assert (model.measured == 0).all()


def stop_first(event):
    if event.step == 2:
        raise KeyboardInterrupt
