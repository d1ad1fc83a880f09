"""``fastad train`` on a machine that reaches nothing: the embedded teacher, said and recorded."""

import re

import pytest
import torch

from fastad import backbones
from fastad.inference import load
from fastad.training import ConsoleProgress, load_checkpoint

SHORT = ("--image-size", "32", "--epochs", "1", "--batch-size", "4", "--precision", "float32")
RSTPM = (*SHORT, "--set", "discriminator_width=4", "--pseudo-anomalies", "4")
SETTLED = {
    "teacher2": "resnet18",
    "bottleneck": "learned",
    "teacher_weights": "embedded",
    "teacher2_weights": "embedded",
}


def options(model):
    return {name: getattr(model.config, name) for name in SETTLED}


@pytest.mark.parametrize("model", ["stpm", pytest.param("rstpm", marks=pytest.mark.slow)])
def test_the_quick_start_needs_no_network(fastad, offline, images, tmp_path, model):
    path = tmp_path / "d.fastad"
    arguments = (*(RSTPM if model == "rstpm" else SHORT), "--model", model, "--output", path)
    code, _, err = fastad("train", images, *arguments)
    assert code == 0, err
    warnings = [line for line in err.splitlines() if line.startswith("warning: ")]
    [notice] = [line for line in warnings if "embedded" in line or "rstpm" in line]
    assert "no ImageNet weights (the download failed: network is unreachable)" in notice
    assert ("rstpm teacher2=resnet18 bottleneck=learned" in notice) == (model == "rstpm")
    assert len(offline) == 1

    artifact = load(path)
    teachers = {"stpm": ["teacher"], "rstpm": ["teacher1", "teacher2"]}[model]
    assert artifact.training["teachers"] == dict.fromkeys(teachers, "embedded")
    if model == "rstpm":
        assert options(artifact.model) == SETTLED
    else:
        assert artifact.model.config.teacher_weights == "embedded"
    code, out, _ = fastad("info", path)
    for name in teachers:
        assert re.search(rf"^weights\.{name} +embedded$", out, re.M)
    code, out, _ = fastad("predict", path, images / "test" / "good")
    assert code == 0
    assert len(offline) == 1  # the detector has its teachers


def test_embedded_is_an_option(fastad, offline, images, tmp_path):
    path = tmp_path / "d.fastad"
    arguments = (*SHORT, "--model", "stpm", "--teacher-weights", "embedded", "--output", path)
    code, _, err = fastad("train", images, *arguments)
    assert code == 0, err
    assert "taking the embedded" not in err
    assert load(path).training["teachers"] == {"teacher": "embedded"}
    code, _, err = fastad("train", images, *arguments, "--force", "--set", "backbone=resnet34")
    assert (code, len(err.splitlines())) == (1, 1)
    assert err.startswith("error: the embedded teacher is a ResNet-18 from conv1 to layer3")
    assert offline == []


@pytest.mark.slow
@pytest.mark.parametrize("model", ["stpm", "rstpm"])
def test_a_resumed_training_keeps_its_teachers(
    fastad, offline, images, tmp_path, monkeypatch, model
):
    """Although others could be had by now."""
    listen = ConsoleProgress.__call__

    def interrupt(self, event):
        listen(self, event)
        if event.epoch == 2:
            raise KeyboardInterrupt

    path = tmp_path / "d.fastad"
    arguments = (*(RSTPM if model == "rstpm" else SHORT), "--model", model, "--output", path)
    arguments = [*arguments, "--epochs", 3]
    with monkeypatch.context() as patch:
        patch.setattr(ConsoleProgress, "__call__", interrupt)
        code, _, err = fastad("train", images, *arguments)
    assert (code, "--resume goes on" in err) == (1, True), err
    checkpoint = load_checkpoint(f"{path}.checkpoint")
    assert set(checkpoint.record.teachers.values()) == {"embedded"}

    weights = tmp_path / "weights"
    weights.mkdir()
    for name, layers in (("resnet18", ("layer4",)), ("resnet50", ("layer3",))):
        torch.save(backbones.build(name, layers).state_dict(), weights / f"{name}.pth")
    monkeypatch.setenv("FASTAD_WEIGHTS", str(weights))
    code, _, err = fastad("train", images, *arguments, "--resume")
    assert code == 0, err
    artifact = load(path)
    assert set(artifact.training["teachers"].values()) == {"embedded"}
    if model == "rstpm":
        assert options(artifact.model) == SETTLED
