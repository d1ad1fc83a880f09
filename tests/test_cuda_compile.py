"""CUDA kernels compile for the oldest and the newest architecture, without warnings and spills.

``python tools/check_cuda.py`` does it for all of them.
"""

import subprocess
import sys
from pathlib import Path

import pytest
from torch.utils import cpp_extension

TOOL = Path(__file__).parents[1] / "tools" / "check_cuda.py"
sys.path.insert(0, str(TOOL.parent))
import check_cuda  # noqa: E402
import toolchain  # noqa: E402

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


PTX = """
.visible .entry _Z1aPf(
	.param .u64 .ptr .align 1 _Z1aPf_param_0
)
.maxntid 256
.minnctapersm 3
{
}
.visible .entry _Z1bPf(.param .u64 _Z1bPf_param_0) .maxntid 512, 1, 1 {}
"""
DISASSEMBLY = """
.text._Z1aPf:
_Z1aPf:
        /*0000*/                   LDC R1, c[0x0][0x28] ;
        /*0010*/              @!P0 LDG.E.128.CONSTANT R4, desc[UR4][R2.64] ;
        /*0020*/                   LDG.E R4, desc[UR4][R2.64] ;
        /*0030*/             @UP1  UIADD3 UR4, UR4, 0x1, URZ ;
.L_x_0:
        /*0040*/              @!P0 BRA `(.L_x_0) ;
.text._Z1bPf:
        /*0000*/                   FMUL R1, R2, R3 ;
"""


def test_instructions_are_counted_by_kernel():
    a, b, helper = check_cuda.parse(LOG, "x.cu", "90", PTX, DISASSEMBLY)
    assert a.instructions == {"LDC": 1, "LDG": 2, "UIADD3": 1, "BRA": 1}
    assert b.instructions == {"FMUL": 1}
    assert (a.blocks, b.blocks, helper.blocks) == (6, 0, 0)
    assert helper.instructions == {}


@pytest.mark.parametrize(
    ("registers", "threads", "arch", "blocks"),
    [
        (80, 256, "90", 3),  # 24 warps of 80 registers
        (81, 256, "90", 2),  # registers come in eights: 20 warps of 88
        (119, 256, "90", 2),
        (94, 128, "90", 5),
        (16, 128, "90", 16),  # threads are the limit
        (16, 128, "75", 8),
        (16, 128, "120", 12),
        (255, 256, "80", 1),
    ],
)
def test_resident_blocks(registers, threads, arch, blocks):
    assert check_cuda.resident_blocks(registers, threads, arch) == blocks


# What `nvcc --list-gpu-code` prints. That of 13.0 is recorded. The others say what the releases are
# known to support; these releases were not run.
FROM_50_TO_90 = (50, 52, 53, 60, 61, 62, 70, 72, 75, 80, 86, 87, 89, 90)
LISTED = {
    "11.8": (35, 37, *FROM_50_TO_90),
    "12.4": (*FROM_50_TO_90, "90a"),
    "12.6": (*FROM_50_TO_90, "90a"),
    "12.8": (*FROM_50_TO_90, "90a", 100, "100a", 101, "101a", 120, "120a"),
    "12.9": (
        *FROM_50_TO_90,
        "90a",
        100,
        "100a",
        101,
        "101a",
        103,
        "103a",
        120,
        "120a",
        121,
        "121a",
    ),
    "13.0": (75, 80, 86, 87, 88, 89, 90, 100, 110, 103, 120, 121),
}


def listed(release: str) -> str:
    return "\n".join(f"sm_{code}" for code in LISTED[release])


@pytest.mark.parametrize(
    ("release", "expected"),
    [
        ("11.8", "7.5 8.0 8.6 8.9 9.0+PTX"),
        ("12.4", "7.5 8.0 8.6 8.9 9.0+PTX"),
        ("12.6", "7.5 8.0 8.6 8.9 9.0+PTX"),
        ("12.8", "7.5 8.0 8.6 8.9 9.0 10.0 12.0+PTX"),
        ("12.9", "7.5 8.0 8.6 8.9 9.0 10.0 12.0+PTX"),
        ("13.0", "7.5 8.0 8.6 8.9 9.0 10.0 11.0 12.0+PTX"),
    ],
)
def test_architectures_follow_the_release_of_nvcc(release, expected):
    assert toolchain.architectures(listed(release)) == expected


def test_architectures_that_torch_does_not_know_are_left_out():
    known = ("7.5", "8.0", "9.0", "10.0")
    assert toolchain.architectures(listed("13.0"), known.__contains__) == "7.5 8.0 9.0 10.0+PTX"


def test_torch_knows_all_architectures(monkeypatch):
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", toolchain.architectures(listed("13.0")))
    flags = cpp_extension._get_cuda_arch_flags()
    assert len(flags) == len(toolchain.GPUS) + 1
    assert "-gencode=arch=compute_120,code=compute_120" in flags


def test_the_installed_nvcc_lists_architectures():
    nvcc = check_cuda.find_nvcc()
    if nvcc is None:
        pytest.skip("nvcc was not found")
    found = check_cuda.architectures(nvcc)
    assert {"80", "90"} <= set(found) <= {gpu.replace(".", "") for gpu in toolchain.GPUS}


@pytest.mark.slow
def test_kernels_compile_without_spills():
    nvcc = check_cuda.find_nvcc()
    if nvcc is None:
        pytest.skip("nvcc was not found")
    oldest, *_, newest = check_cuda.architectures(nvcc)
    command = [sys.executable, TOOL, "--arch", oldest, newest]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 bytes spilled" in done.stdout
