"""The training loop: interrupted, prolonged, in several processes; and the file that it writes."""

import dataclasses
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from fastad import backbones
from research.embedded_teacher import training, workers
from research.embedded_teacher.objectives import TERMS
from research.embedded_teacher.scenes import draw_bank

ROOT = Path(__file__).resolve().parents[3]
TINY = training.Config(epochs=2, steps=2, scenes=2, size=32, bank=40, fixed_bank=True)


def test_a_training_goes_on_to_the_same_bytes(tmp_path):
    config = dataclasses.replace(TINY, terms=dict.fromkeys(TERMS, 1.0))
    whole = training.train(config, tmp_path / "whole")
    state = training._State(config)
    bank = draw_bank(config.seed, 0, config.bank)
    state.run_epoch(bank)
    state.epoch += 1
    (tmp_path / "parts").mkdir()
    torch.save(state.saved(), tmp_path / "parts" / "checkpoint.pt")
    torch.rand(5)  # what the process drew before does not matter
    parts = training.train(config, tmp_path / "parts")
    assert whole.read_bytes() == parts.read_bytes()
    lines = (tmp_path / "whole" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2]
    assert set(json.loads(lines[0])["losses"]) == set(TERMS)
    with pytest.raises(ValueError, match=r"checkpoint.pt is of another configuration"):
        training.train(dataclasses.replace(config, rate=1.0), tmp_path / "parts")


def test_bfloat16_is_close():
    def losses(**options):
        state = training._State(dataclasses.replace(TINY, scenes=4, **options))
        return state.run_epoch(draw_bank(0, 0, TINY.bank))["dense"]

    exact = losses()
    assert losses(bfloat16=True) == pytest.approx(exact, rel=0.05)
    assert losses(bfloat16=True) != exact


def _average_numbers(folder):
    own = torch.full((2, 3), float(workers.number()))
    other = torch.tensor([4.0 * workers.number()])
    workers.average_([own, other])
    torch.save([own, other], folder / f"{workers.number()}.pt")


@pytest.mark.slow
def test_workers_average_what_they_find(tmp_path):
    workers.together(2, _average_numbers, tmp_path)
    for number in range(2):
        own, other = torch.load(tmp_path / f"{number}.pt")
        assert torch.equal(own, torch.full((2, 3), 0.5))
        assert other.item() == 2.0


@pytest.mark.slow
def test_workers_train_one_model_to_the_same_bytes(tmp_path):
    config = dataclasses.replace(TINY, workers=2)
    whole = training.train(config, tmp_path / "whole", threads=1)
    again = training.train(config, tmp_path / "again", threads=1)
    assert whole.read_bytes() == again.read_bytes()
    alone = training.train(TINY, tmp_path / "alone", threads=1)
    weights, others = load_file(whole), load_file(alone)
    assert not torch.equal(weights["conv1.weight"], others["conv1.weight"])  # other scenes
    with pytest.raises(ValueError, match="multiple of workers; got 2 and 3"):
        training.train(dataclasses.replace(TINY, workers=3), tmp_path / "three")


@pytest.mark.slow
def test_workers_end_with_the_process_that_started_them(tmp_path):
    options = "--workers 2 --threads 1 --epochs 1000000 --steps 1 --scenes 2 --size 32 --bank 2"
    process = subprocess.Popen(
        [sys.executable, "-m", "research.embedded_teacher", tmp_path, *options.split()],
        stdout=subprocess.PIPE,
        cwd=ROOT,
        # As in the background of a shell: torch's own signal to orphans is ignored then.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )
    process.stdout.readline()  # an epoch is over
    process.kill()
    # The pipe is the workers' too: it ends with the last of them.
    assert process.communicate(timeout=120)[0] is not None


def test_a_training_can_be_prolonged_until_its_rate_falls(tmp_path):
    short = dataclasses.replace(TINY, epochs=4, steps=1)
    longer = dataclasses.replace(short, epochs=8)
    training.train(short, tmp_path / "short")
    training.train(longer, tmp_path / "straight")
    (tmp_path / "prolonged").mkdir()
    saved = torch.load(tmp_path / "short" / "before_fall.pt", weights_only=True)
    assert saved["epoch"] == 3
    torch.save(saved, tmp_path / "prolonged" / "checkpoint.pt")
    training.train(longer, tmp_path / "prolonged")
    files = [tmp_path / name / "resnet18.safetensors" for name in ("straight", "prolonged")]
    weights = [load_file(file) for file in files]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    with pytest.raises(ValueError, match="of another configuration, after 4 epochs"):
        training.train(longer, tmp_path / "short")


def test_the_trunk_is_written_in_half_precision_and_loads(tmp_path):
    trunk = backbones.build("resnet18", training.LAYERS)
    for module in trunk.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean)
            torch.nn.init.uniform_(module.running_var, 1, 2)
    path = tmp_path / "resnet18.safetensors"
    training.export(trunk, path, {"config": "{}"})
    loaded = backbones.build("resnet18", training.LAYERS, path)
    for (key, value), found in zip(
        trunk.state_dict().items(), loaded.state_dict().values(), strict=True
    ):
        expected = value.half().float() if value.dim() == 4 else value
        assert torch.equal(found, expected), key
    assert path.stat().st_size <= 6 * 2**20
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"config": "{}"}


def test_a_diverged_training_keeps_its_last_checkpoint(tmp_path, monkeypatch):
    config = dataclasses.replace(TINY, epochs=1)
    nan = float("nan")
    monkeypatch.setattr(
        training._State,
        "_loss",
        lambda self, *_: (self.trunk.conv1.weight.sum() * nan, {"dense": nan}),
    )
    with pytest.raises(RuntimeError, match="diverged in epoch 1"):
        training.train(config, tmp_path)
    assert not (tmp_path / "checkpoint.pt").exists()
