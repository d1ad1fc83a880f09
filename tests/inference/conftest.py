"""A small model with random weights, shared by the tests of this folder."""

import pytest
import torch

from fastad import models


@pytest.fixture(scope="session")
def tiny_model():
    torch.manual_seed(0)
    return models.build("stpm", teacher_weights=None, layers=("layer1", "layer2")).eval()
