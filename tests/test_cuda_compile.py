"""CUDA kernels compile for the oldest and the newest architecture, without warnings and spills.

``python tools/check_cuda.py`` does it for all of them.
"""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[1] / "tools" / "check_cuda.py"
spec = importlib.util.spec_from_file_location("check_cuda", TOOL)
check_cuda = importlib.util.module_from_spec(spec)
sys.modules["check_cuda"] = check_cuda  # dataclasses look their module up
spec.loader.exec_module(check_cuda)

LOG = """
ptxas info    : 28 bytes gmem
ptxas info    : Compiling entry function '_Z1aPf' for 'sm_90'
ptxas info    : Function properties for _Z1aPf
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 40 registers, used 1 barriers, 512 bytes smem, 380 bytes cmem[0]
ptxas info    : Compiling entry function '_Z1bPf' for 'sm_90'
ptxas info    : Function properties for _Z1bPf
    8 bytes stack frame, 12 bytes spill stores, 4 bytes spill loads
ptxas info    : Used 255 registers, used 0 barriers, 380 bytes cmem[0]
ptxas info    : Function properties for helper
    0 bytes stack frame, 20 bytes spill stores, 20 bytes spill loads
"""


def test_parse():
    a, b, helper = check_cuda.parse(LOG, "x.cu", "90")
    assert (a.registers, a.shared, a.stack, a.spilled) == (40, 512, 0, 0)
    assert (b.registers, b.shared, b.stack, b.spilled) == (255, 0, 8, 16)
    assert (helper.registers, helper.spilled) == (0, 40)


@pytest.mark.slow
def test_kernels_compile_without_spills():
    if check_cuda.find_nvcc() is None:
        pytest.skip("nvcc was not found")
    command = [
        sys.executable,
        TOOL,
        "--arch",
        check_cuda.ARCHITECTURES[0],
        check_cuda.ARCHITECTURES[-1],
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 bytes spilled" in done.stdout
