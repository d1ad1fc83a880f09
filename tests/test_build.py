"""The build: a build that cannot work stops with one sentence that says what to do."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils import cpp_extension

from fastad import _extension

ROOT = Path(__file__).parents[1]
FAKE_TORCH = {
    "old": '__version__ = "2.9.1"\nclass version: cuda = None',
    "broken": 'raise ImportError("libtorch is missing")',
}


def build(tmp_path: Path, fake_torch: str | None = None, **environment: str) -> str:
    """What `setup.py` says where it stops before building anything."""
    env = {k: v for k, v in os.environ.items() if k not in ("CXX", "FASTAD_CUDA", "CUDA_HOME")}
    if fake_torch:
        utils = tmp_path / "torch" / "utils"
        utils.mkdir(parents=True)
        (tmp_path / "torch" / "__init__.py").write_text(FAKE_TORCH[fake_torch])
        (utils / "__init__.py").touch()
        (utils / "cpp_extension.py").write_text("CUDA_HOME = None")
        env["PYTHONPATH"] = str(tmp_path)
    command = [sys.executable, "setup.py", "--version"]
    run = subprocess.run(
        command, cwd=ROOT, env={**env, **environment}, capture_output=True, text=True
    )
    assert run.returncode == 1
    assert "Traceback" not in run.stderr
    return run.stderr.strip().splitlines()[-1]


def test_torch_too_old(tmp_path):
    sentence = build(tmp_path, fake_torch="old")
    assert sentence == (
        "fastad cannot be built: torch 2.9.1 is too old; pip install 'torch>=2.10'."
    )


def test_torch_cannot_be_imported(tmp_path):
    sentence = build(tmp_path, fake_torch="broken")
    assert "torch cannot be imported (libtorch is missing); install it first" in sentence


def test_no_compiler(tmp_path):
    sentence = build(tmp_path, CXX="/nowhere/c++")
    assert "there is no C++ compiler ('/nowhere/c++' is not on PATH)" in sentence
    assert "apt install g++" in sentence


@pytest.mark.skipif(torch.version.cuda is not None, reason="this torch has CUDA")
def test_cuda_demanded_from_a_torch_without_cuda(tmp_path):
    sentence = build(tmp_path, FASTAD_CUDA="1")
    assert "FASTAD_CUDA=1, but torch" in sentence
    assert "is built without CUDA; install a CUDA build of torch" in sentence


def test_fastad_cuda_is_neither_0_nor_1(tmp_path):
    assert "FASTAD_CUDA='yes' is neither 0 (forbid) nor 1 (demand)" in build(
        tmp_path, FASTAD_CUDA="yes"
    )


@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++")
def test_sources_compile_for_other_processors():
    """ARM, clang and MSVC have none of the kernels with panels: what calls them compiles all the
    same."""
    abi = re.search(r'"(-DTORCH_TARGET_VERSION=\w+)"', (ROOT / "setup.py").read_text())[1]
    folders = [f for path in cpp_extension.include_paths() for f in ("-isystem", path)]
    folders_of_torch = ("cpu", "convolution", "images")
    sources = [str(p) for name in folders_of_torch for p in (ROOT / "csrc" / name).glob("*.cpp")]
    command = ["g++", "-std=c++20", "-fsyntax-only", "-DFASTAD_NO_PANELS", abi, "-w"]
    run = subprocess.run(
        [*command, "-I", str(ROOT / "csrc"), *folders, *sources], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr


def test_backend_reuses_the_installed_torch():
    code = (
        "import sys; sys.path.insert(0, 'tools'); import build_backend as b;"
        "print(b.get_requires_for_build_wheel(), b.get_requires_for_build_editable())"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert out.stdout.strip() == "[] []"


def test_build_info():
    info = _extension.build_info()
    assert tuple(map(int, info["built_with_torch"].split("."))) >= (2, 10, 0)
    assert info["cpu_kernels"] in ("x86-64-v4", "x86-64-v3", "baseline")
    assert info["cuda_kernels"] == "loaded" or "built" in info["cuda_kernels"]


@pytest.mark.skipif(sys.platform != "linux", reason="reads ELF files with readelf")
def test_the_module_needs_nothing_of_a_certain_torch():
    """Only libtorch_cpu and libc10 are needed: no libtorch_python, no symbol of C++ PyTorch."""
    module = _extension._C.__file__
    out = subprocess.run(["readelf", "-d", module], capture_output=True, text=True, check=True)
    torch_libraries = [line for line in out.stdout.splitlines() if "NEEDED" in line]
    names = {line.split("[")[1].rstrip("]") for line in torch_libraries}
    assert {n for n in names if "torch" in n or "c10" in n} <= {"libtorch_cpu.so", "libc10.so"}
    out = subprocess.run(["nm", "-DCu", module], capture_output=True, text=True, check=True)
    assert not [s for s in out.stdout.splitlines() if " at::" in s or " c10::" in s]
