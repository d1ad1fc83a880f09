"""``fastad train`` of a model whose training has several stages."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from fastad import inference, load, models
from fastad.training import ConsoleProgress

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))

from toy_stages import TwoStages

USAGE = 2


class Registered(TwoStages):
    def __init__(self, config):
        super().__init__()
        self.config = config


@pytest.fixture
def train(fastad, images, tmp_path, monkeypatch):
    monkeypatch.setitem(models.MODELS, "two", Registered)

    def run(*options, output=tmp_path / "d.fastad"):
        common = ("--image-size", "64", "--precision", "float32", "--pseudo-anomalies", "12")
        return fastad(
            *("train", images, "--model", "two", "--epochs", "4", "--set", "workers=0"),
            *("--set", "validation_fraction=0.4", "--output", output, *common, *options),
        )

    return run


def interrupt_in(monkeypatch, stage, epoch):
    listen = ConsoleProgress.__call__

    def stop(self, event):
        listen(self, event)
        if (event.stage, event.epoch) == (stage, epoch) and event.losses is None:
            raise KeyboardInterrupt

    monkeypatch.setattr(ConsoleProgress, "__call__", stop)


def test_options_reach_the_stages(train, images, tmp_path):
    textures = images / "test"
    code, _, err = train(
        *("--stage", "head.epochs=3", "--stage", "head.betas=0.5,0.9"),
        *("--stage", "students.batch_size=2", "--textures", textures),
    )
    assert code == 0, err
    artifact = inference.load(tmp_path / "d.fastad")
    students, head = artifact.training["stages"]
    assert (students["epochs"], head["epochs"]) == (4, 3)
    assert (students["config"]["batch_size"], head["config"]["batch_size"]) == (2, 16)
    assert head["config"]["betas"] == [0.5, 0.9]
    assert head["config"]["textures"] == str(textures)
    assert head["n_train"] == 12
    assert "students epoch 4/4" in err
    assert "head epoch 3/3" in err
    assert f"epoch {students['best_epoch']} of 4 (students), " in err
    assert f"epoch {head['best_epoch']} of 3 (head), " in err
    # Of four held-out images two were trained on; the thresholds are from the others.
    assert len(artifact.calibration) == len(artifact.training["held_out"]) == 2
    assert "false alarms by 2 held-out images" in err
    assert "note: stage head was trained on 2 of 4 held-out images" in err


@pytest.mark.parametrize("where", [("students", 3), ("head", 1), ("head", 2)])
def test_an_interrupted_training_is_resumed_and_usable_meanwhile(
    train, images, tmp_path, monkeypatch, where
):
    assert train(output=tmp_path / "whole.fastad")[0] == 0
    with monkeypatch.context() as patched:
        interrupt_in(patched, *where)
        code, _, err = train()
    assert code == 1
    assert "error: stopped by the user: --resume goes on from" in err
    detector = load(tmp_path / "d.fastad")
    assert np.isfinite(detector.predict(images / "test").score).all()
    record = detector.training_record_
    missing = where != ("head", 2)
    assert [s["name"] for s in record["stages"]] == (
        ["students"] if missing else ["students", "head"]
    )
    assert ("stopped by the user: stage head is missing" in record["notes"]) == missing
    assert len(record["held_out"]) == (4 if missing else 2)
    done = {("students", 3): "2 of 4 of stage students", ("head", 1): "4 of 4 of stage students"}
    assert f"stopped after epoch {done.get(where, '1 of 2 of stage head')}: epoch" in err
    code, _, err = train("--resume")
    assert code == 0, err
    one, other = (inference.load(tmp_path / f"{name}.fastad") for name in ("whole", "d"))
    for name, value in one.model.state_dict().items():
        assert torch.equal(value, other.model.state_dict()[name]), name
    assert np.array_equal(one.calibration, other.calibration)


def test_stopped_while_the_first_checkpoint_is_written(train, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("fastad.training.trainer.save_checkpoint", stop)
    code, _, err = train()
    assert code == 1
    assert not (tmp_path / "d.fastad.checkpoint").exists()
    assert err.rstrip().endswith("error: stopped by the user")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--stage", "head"], "--stage takes NAME.OPTION=VALUE; got 'head'"),
        (["--stage", "epochs=3"], "--stage takes NAME.OPTION=VALUE; got 'epochs=3'"),
        (["--stage", "head.=3"], "--stage takes NAME.OPTION=VALUE; got 'head.=3'"),
        (["--stage", "head.lr=3"], "--stage: unknown option 'lr' of 'head'; there are: epochs"),
        (["--stage", "head.x.lr=3"], "unknown option 'lr' of 'head.x'; there are: optimizer, lear"),
        (["--defects", "nowhere"], "--defects: there is no folder nowhere"),
        (["--defects", ""], "defects must be a folder or None; got ''"),
        (["--set", "defect_images=3"], "defect_images must be None without defects; got 3"),
        (["--stage", "students.textures=."], "stages: 'students' has no use for textures"),
        (["--stage", "head.epochs=x"], "--stage: epochs takes an integer; got 'x'"),
        (["--stage", "head.epochs=0"], "stages: of 'head', epochs must be an integer of at least"),
        (["--stage", "head.seed=1"], "stages: seed of 'head' is the same for the whole training"),
        (["--stage", "tail.epochs=1"], "two has no stage 'tail'; there are: students, head"),
        (["--textures", "nowhere"], "--textures: there is no folder nowhere"),
        (["--stage", "head.defects=gone"], "--stage head.defects: there is no folder gone"),
        (["--pseudo-anomalies", "0"], "--pseudo-anomalies"),
        (["--set", "stages=x"], "unknown key 'stages'"),
    ],
)
def test_wrong_options_are_wrong_usage(train, options, said, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")  # errors in a box are wrapped
    code, _, err = train(*options)
    assert code == USAGE
    assert said in " ".join(err.replace("│", " ").split())


def test_a_model_without_such_stages_refuses_their_options(fastad, images, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    output = tmp_path / "d.fastad"
    for option in (["--textures", images], ["--pseudo-anomalies", "5"]):
        code, _, err = fastad("train", images, "--model", "stpm", "--output", output, *option)
        assert code == USAGE
        assert "the training of stpm has no use for it" in err


def test_info_shows_the_file(train, fastad, tmp_path):
    assert train()[0] == 0
    code, out, err = fastad("info", tmp_path / "d.fastad")
    assert code == 0, err
    assert "stage.head" in out
    assert json.dumps(inference.load(tmp_path / "d.fastad").training["stages"])
