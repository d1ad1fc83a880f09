"""The CPU inner loops execute no more instructions than recorded (bench/instructions)."""

import importlib.util
import json
from pathlib import Path

import pytest

PATH = Path(__file__).parents[1] / "bench" / "instructions" / "count.py"
_spec = importlib.util.spec_from_file_location("count_instructions", PATH)
instructions = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(instructions)


@pytest.mark.slow
@pytest.mark.skipif(instructions.obstacle() is not None, reason=str(instructions.obstacle()))
def test_instruction_counts():
    recorded = json.loads(instructions.RECORD.read_text()).get(instructions.compiler())
    if recorded is None:
        pytest.skip(f"no counts recorded for {instructions.compiler()}")
    assert instructions.grown(instructions.count(), recorded) == []


def test_growth_is_noticed():
    assert instructions.grown({"loop": 1021}, {"loop": 1000})
    assert not instructions.grown({"loop": 1019}, {"loop": 1000})
    assert instructions.grown({"new loop": 1}, {})
