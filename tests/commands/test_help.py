"""The help of every command: sentences, defaults, and what a mistyped name was meant to be."""

import re

import pytest
import typer

from fastad.cli import app
from fastad.commands.suggestions import hint
from fastad.models import MODELS
from fastad.training import TrainingConfig

COMMANDS = typer.main.get_command(app).commands
OPTIONS = [
    (name, parameter)
    for name, command in COMMANDS.items()
    for parameter in command.params
    if parameter.name != "help"
]
NAMES = [f"{name} {parameter.opts[0]}" for name, parameter in OPTIONS]


def shown(name, parameter):
    context = COMMANDS[name].make_context(name, [], resilient_parsing=True)
    return parameter.get_help_record(context)[1]


@pytest.mark.parametrize(("name", "parameter"), OPTIONS, ids=NAMES)
def test_help_is_in_sentences(name, parameter):
    for sentence in re.split(r"(?<=\.) (?=[\w`-])", parameter.help):
        assert re.fullmatch(r"[A-Za-z`-].*\.", sentence), sentence
        assert len(re.findall(r"[\w'/.-]+", sentence)) in range(3, 26), sentence
    assert parameter.help[0].isupper()
    assert ";" not in parameter.help


@pytest.mark.parametrize(("name", "parameter"), OPTIONS, ids=NAMES)
def test_every_option_shows_its_default(name, parameter):
    if parameter.param_type_name == "argument" or parameter.is_flag or parameter.required:
        return
    assert "default: " in shown(name, parameter)


def test_the_defaults_of_train_are_the_models_own():
    (epochs,) = [p for n, p in OPTIONS if (n, p.name) == ("train", "epochs")]
    said = dict(re.findall(r"(\w+) (\d+)(?=[,)])", shown("train", epochs)))
    assert set(said) == {name for name, kind in MODELS.items() if kind.trains()}
    for name, count in said.items():
        kind = MODELS[name]
        assert TrainingConfig.for_model(kind).for_stage(kind, kind.stages[0]).epochs == int(count)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("train x --ouput y", "No such option: --ouput (did you mean --output?)"),
        ("train x --epoch 3", "No such option: --epoch (did you mean --epochs?)"),
        ("train x --learning-rat=1", "(did you mean --set learning_rate=VALUE?)"),
        ("train x --backbone resnet34", "(did you mean --set backbone=VALUE?)"),
        ("train x --image_size 64", "(did you mean --image-size?)"),
        ("predict x y --threshold 1", "(did you mean --false-positive-rate?)"),
        ("predict x y --heatmap", "(did you mean --heatmaps?)"),
        ("predict x y --learning-rate 1", "No such option: --learning-rate │"),
        (
            "train x --set learning_rat=1",
            "unknown key 'learning_rat' (did you mean learning_rate?);",
        ),
        (
            "train x --stage head.epoch=1",
            "unknown option 'epoch' of 'head' (did you mean epochs?);",
        ),
        ("train x --model rstmp", "unknown model 'rstmp' (did you mean rstpm?); there are:"),
        ("train x --model zzz", "unknown model 'zzz'; there are:"),
        ("trian x", "No such command 'trian'. Did you mean 'train'?"),
    ],
)
def test_what_was_meant(fastad, monkeypatch, arguments, said):
    monkeypatch.setenv("COLUMNS", "1000")
    code, _, err = fastad(*arguments.split())
    assert code == 2
    assert said in " ".join(err.split())


def test_an_option_of_a_later_version_needs_no_other_name():
    assert hint("--threshold", ["--threshold"]) == " (did you mean --threshold?)"
    assert hint("--threshold", ["--output"]) == ""


def test_options_of_python(tiny_stpm):
    from fastad import Detector

    with pytest.raises(TypeError, match=r"option 'epoch' \(did you mean epochs\?\); there are"):
        TrainingConfig.for_model(tiny_stpm, epoch=1)
    with pytest.raises(TypeError, match=r"of stpm \(did you mean backbone\?\); there are"):
        Detector("stpm", backbones="resnet18")
