"""Lets the tests of the ops import their helper, and gives every test fresh random numbers."""

import random
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def _fresh_inputs() -> None:
    seed = random.SystemRandom().randrange(2**31)
    print(f"inputs: torch.manual_seed({seed})")  # shown when the test fails
    torch.manual_seed(seed)
