"""Thousands of damaged detector files: each is refused by name, or reads as it was written."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from fastad import models
from fastad.inference import Artifact, ArtifactError, load, save

MUTATIONS = 4000


@dataclass
class Options:
    channels: int = 2


class Small(models.AnomalyModel):
    """As little of a model as there can be, so that thousands load in seconds."""

    name = "small"
    Config = Options

    def __init__(self, config):
        super().__init__(config)
        self.conv = nn.Conv2d(3, config.channels, 1)


def mutate(data: bytes, rng: np.random.Generator) -> bytes:
    """One random damage, half of them within the first bytes, where the structure is."""
    size = len(data) if rng.random() < 0.5 else min(len(data), 400)
    start = int(rng.integers(size))
    length = int(rng.integers(1, 40))
    noise = rng.integers(0, 256, length, dtype=np.uint8).tobytes()
    kind = rng.integers(7)
    if kind == 0:  # one bit
        return data[:start] + bytes([data[start] ^ 1 << int(rng.integers(8))]) + data[start + 1 :]
    if kind == 1:  # cut short
        return data[:start]
    if kind == 2:  # a piece overwritten
        return data[:start] + noise + data[start + length :]
    if kind == 3:  # a piece too much
        return data[:start] + noise + data[start:]
    if kind == 4:  # a piece missing
        return data[:start] + data[start + length :]
    if kind == 5:  # digits for digits: still good JSON
        digits = [i for i, byte in enumerate(data) if 48 <= byte <= 57]
        at = digits[int(rng.integers(len(digits)))]
        return data[:at] + bytes([48 + int(rng.integers(10))]) + data[at + 1 :]
    return data + noise


def content(artifact):
    tensors = {k: v.numpy().tobytes() for k, v in artifact.model.state_dict().items()}
    numbers = (artifact.image_size, artifact.threshold, artifact.pixel_threshold)
    return tensors, numbers, artifact.calibration.tobytes(), artifact.training


def test_mutations(tmp_path, monkeypatch):
    monkeypatch.setitem(models.MODELS, "small", Small)
    torch.manual_seed(0)
    path = tmp_path / "small.fastad"
    artifact = Artifact(
        Small(Options()), (16, 24), np.array([0.25, 0.5]), 0.1, 0.5, {"seed": 3}, np.ones(2), 0.75
    )
    save(path, artifact)
    original = path.read_bytes()
    rng = np.random.default_rng(0)
    messages = []
    for _ in range(MUTATIONS):
        path.write_bytes(mutate(original, rng))
        try:
            loaded = load(path)
        except ArtifactError as error:
            messages.append(str(error))
        else:
            assert content(loaded) == content(artifact)
    assert all("small.fastad" in text and "\n" not in text for text in messages)
    # What stays readable: a digit replaced by itself, and letters nobody reads.
    assert len(messages) > 0.9 * MUTATIONS


def test_the_undamaged_file_reads(tmp_path, monkeypatch):
    monkeypatch.setitem(models.MODELS, "small", Small)
    save(tmp_path / "a", Artifact(Small(Options()), (4, 4), np.empty(0), 0.1, None, {}))
    assert load(tmp_path / "a").image_size == (4, 4)
