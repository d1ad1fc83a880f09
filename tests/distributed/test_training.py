"""One training by several processes: that of one, and resumed by another number of them."""

import json
import os

import numpy as np
import pytest
import torch
from PIL import Image
from trainings import epochs_of, norm_input, norm_layer, train

from fastad import cli, load

# Each process finds the hard distances of its own share: all are alike where none is.
SMALL = {"backbone": "resnet18", "layers": ["layer1", "layer2"], "hard": 0.0}
STPM = ("stpm", SMALL, {"epochs": 3, "batch_size": 4, "learning_rate": 0.05, "workers": 0})

# Of losses and scores of three epochs. Weights that begin 1e-7 apart end as far from each other.
ROUNDING = 1e-3


@pytest.fixture(autouse=True)
def at_one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def result(target, rank=0):
    facts = json.loads(target.with_name(f"{target.name}.{rank}.json").read_text())
    return facts, torch.load(target.with_name(f"{target.name}.{rank}.pt"))


def assert_close(one, other, tolerance):
    """Losses and scores of all epochs."""
    for a, b in zip(one[0]["stages"], other[0]["stages"], strict=True):
        assert len(a["losses"]) == len(b["losses"])
        for of_a, of_b in zip(a["losses"], b["losses"], strict=True):
            assert of_a == pytest.approx(of_b, rel=tolerance)
        assert a["validation"] == pytest.approx(b["validation"], rel=tolerance)


def test_a_training_is_that_of_one_process(ranks, tmp_path):
    """Batches of 4 images in shares of 2, 1 and 1, and of 2, which all do: losses to rounding."""
    count = 3
    train(*STPM, tmp_path / "one", together=False)
    codes, said = ranks(count, "trainings:train", *STPM, tmp_path / "several")
    assert codes == [0] * count, said
    one, first = result(tmp_path / "one"), result(tmp_path / "several")
    assert first[0]["processes"] == count
    assert_close(one, first, ROUNDING)
    for rank in range(1, count):
        other = result(tmp_path / "several", rank)
        assert first[0]["stages"] == other[0]["stages"]
        assert all(torch.equal(value, other[1][name]) for name, value in first[1].items())


def test_resumed_by_another_number_of_processes(ranks, tmp_path):
    """Killed in the third epoch of two processes, and gone on with by one."""
    path = tmp_path / "training.ckpt"
    train(*STPM, tmp_path / "one", together=False)
    said = ranks(2, "trainings:train", *STPM, tmp_path / "two", True, path, False, [1, 3])
    assert said[0][1] == -9
    assert said[0][0] != 0  # it hears that the other is gone
    assert epochs_of(path) == 2
    train(*STPM, tmp_path / "resumed", together=False, checkpoint=path, resume=True)
    resumed = result(tmp_path / "resumed")
    assert_close(result(tmp_path / "one"), resumed, ROUNDING)
    assert any("processes 1 instead of 2" in note for note in resumed[0]["notes"])


def test_batch_norm_is_that_of_the_whole_batch(ranks, tmp_path):
    """Shares of 5 and 2 images against torch in float64."""
    codes, said = ranks(2, "trainings:norm", tmp_path / "norm")
    assert codes == [0, 0], said
    values, weights = norm_input()
    layer, values = norm_layer().double(), values.double().requires_grad_()
    expected = layer(values)
    (expected * weights).sum().backward()
    parts = [torch.load(tmp_path / f"norm.{rank}.pt") for rank in range(2)]
    found = torch.cat([part[0] for part in parts]).double()
    torch.testing.assert_close(found, expected.detach(), rtol=1e-5, atol=1e-5)
    gradients = torch.cat([part[1] for part in parts]).double()
    torch.testing.assert_close(gradients, values.grad, rtol=1e-4, atol=1e-6)
    for part in parts:
        for name, value in layer.state_dict().items():
            torch.testing.assert_close(part[2][name].double(), value.double(), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_one_student_for_several_products(ranks, tmp_path):
    """Two processes train the student together, and each calibrates products."""
    rng = np.random.default_rng(0)
    for name in ("cap", "nut", "bolt"):
        for i in range(12):
            pixels = rng.integers(20, 120, (32, 32, 3), dtype=np.uint8)
            (tmp_path / "root" / name / "train/good").mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / f"root/{name}/train/good/{i}.png")
    options = ["--model", "stpm", "--set", "layers=layer1", "--teacher-weights", "embedded"]
    options += ["--image-size", "32", "--precision", "float32", "--device", "cpu", "--quiet"]
    options += ["--epochs", "2", "--batch-size", "4", "--set", "learning_rate=0.05"]
    options += ["--set", "hard=0"]

    def command(name):
        return ["train", tmp_path / "root", "--together", "--output", tmp_path / name, *options]

    with pytest.raises(SystemExit):
        cli.main([str(a) for a in command("one")])
    codes, said = ranks(2, "commands:command", *command("two"))
    assert codes == [0, 0], said
    assert load(tmp_path / "two/.together/student.fastad").training_record_["processes"] == 2
    for name in ("cap", "nut", "bolt"):
        one, two = (load(tmp_path / f"{folder}/{name}.fastad") for folder in ("one", "two"))
        assert two.calibration_scores_ == pytest.approx(one.calibration_scores_, rel=0.01)
        assert two.training_record_["processes"] == 1


@pytest.mark.slow
def test_every_model_trains_in_two_processes(ranks, tmp_path, tiny_model):
    """Every stage of every model; both processes end with the same weights."""
    if not tiny_model.trains:
        pytest.skip("trains nothing")
    options = {k: v for k, v in tiny_model.options.items() if v is not None}
    options |= {"hard": 0.0} if tiny_model.name == "stpm" else {}
    training = {**tiny_model.training, "epochs": 1, "batch_size": 6}
    arguments = tiny_model.name, options, training
    train(*arguments, tmp_path / "one", together=False)
    codes, said = ranks(2, "trainings:train", *arguments, tmp_path / "two")
    assert codes == [0, 0], said
    first, other = (result(tmp_path / "two", rank) for rank in range(2))
    assert first[0]["stages"] == other[0]["stages"]
    assert all(torch.equal(value, other[1][name]) for name, value in first[1].items())
    assert_close(result(tmp_path / "one"), first, TOLERANCES[tiny_model.name])
    assert "RANK" not in os.environ


# Of the losses. Those of UTAD compare the images of a batch, and its layers draw at random.
TOLERANCES = {"stpm": 1e-3, "gtrans": 1e-3, "rstpm": 0.05, "prn": 0.05, "utad": 0.5}
