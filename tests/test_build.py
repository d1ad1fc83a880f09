"""The build: a build that cannot work stops with one sentence that says what to do."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pybind11
import pytest
import torch
from torch.utils import cpp_extension

from fastad import _extension

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))
import toolchain  # noqa: E402

# Those of Debian 12 and of Ubuntu 22.04 and 24.04.
COMPILERS = ["g++-11", "g++-12", "g++-13", "g++-14", "clang++-14", "clang++-15"]
COMPILERS += ["clang++-16", "clang++-18", "clang++-19", "aarch64-linux-gnu-g++"]
posix = pytest.mark.skipif(os.name == "nt", reason="the compiler is a shell script")
FAKE_TORCH = {
    "old": '__version__ = "2.9.1"\nclass version: cuda = None',
    "broken": 'raise ImportError("libtorch is missing")',
}


def installed(compiler: str) -> None:
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")


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
    assert "there is no C++ compiler ('' is not on PATH)" in build(tmp_path, CXX="")
    assert """CXX="g++ 'a" is no command (No closing quotation)""" in build(tmp_path, CXX="g++ 'a")
    sentence = build(tmp_path, CXX="/nowhere/c++")
    assert "there is no C++ compiler ('/nowhere/c++' is not on PATH)" in sentence
    assert "apt install g++" in sentence


def fake_compiler(tmp_path: Path, *macros: str) -> str:
    """One that says of itself what `macros` define."""
    compiler = tmp_path / "c++"
    compiler.write_text("#!/bin/sh\ncat <<END\n" + "\n".join(macros) + "\nEND\n")
    compiler.chmod(0o755)
    return str(compiler)


GCC, CLANG = "#define __GNUC__ {0}\n#define __GNUC_MINOR__ {1}", "#define __clang_major__ {0}"
LIBRARY = "#define __cpp_lib_bit_cast 201806L"


@posix
def test_gcc_too_old(tmp_path):
    compiler = fake_compiler(tmp_path, GCC.format(10, 2), LIBRARY)
    assert build(tmp_path, CXX=compiler) == (
        f"fastad cannot be built: {compiler!r} is g++ 10.2, which is too old; install g++ 11 or "
        "newer, or clang 14 or newer, and set CXX."
    )


@posix
def test_clang_too_old(tmp_path):
    """clang says that it is g++ 4.2, too."""
    compiler = fake_compiler(tmp_path, GCC.format(4, 2), CLANG.format(13), LIBRARY)
    assert f"{compiler!r} is clang 13.0, which is too old; install" in build(tmp_path, CXX=compiler)


@posix
def test_compiler_without_cpp20(tmp_path):
    compiler = fake_compiler(tmp_path)
    assert f"{compiler!r} does not compile C++20; install g++ 11 or" in build(
        tmp_path, CXX=compiler
    )


@posix
def test_library_of_an_old_compiler(tmp_path):
    """clang uses the library of the g++ that is installed, whatever its own age."""
    compiler = fake_compiler(tmp_path, GCC.format(4, 2), CLANG.format(15))
    assert f"{compiler!r} (clang 15.0) uses has no std::bit_cast; install that of g++ 11" in build(
        tmp_path, CXX=compiler
    )


@posix
def test_options_in_cxx_are_kept(tmp_path):
    compiler = fake_compiler(tmp_path, GCC.format(9, 4)) + " -pthread"
    assert f"{compiler!r} is g++ 9.4" in build(tmp_path, CXX=compiler)


@pytest.mark.parametrize("compiler", COMPILERS)
def test_compilers_that_work_are_taken(compiler):
    installed(compiler)
    assert toolchain.compiler_obstacle(compiler) is None


def test_a_real_compiler_that_is_too_old():
    installed("clang++-13")
    assert "is clang 13.0, which is too old" in toolchain.compiler_obstacle("clang++-13")


@pytest.mark.parametrize("compiler", COMPILERS)
def test_instruction_set_is_found_by_every_compiler(compiler, tmp_path):
    """It depends on the processor, not on what the compiler knows by name."""
    installed(compiler)
    if compiler.startswith("aarch64"):
        pytest.skip(f"{compiler} compiles for another processor")
    source, program = tmp_path / "set.cpp", tmp_path / "set"
    source.write_text(
        '#include <cstdio>\n#include "instruction_set.h"\nusing namespace fastad::cpu;\n'
        "int main() { std::puts(name_of(kInstructionSet)); }"
    )
    subprocess.run(
        [compiler, "-std=c++20", f"-I{ROOT / 'csrc'}", source, "-o", program], check=True
    )
    run = subprocess.run([program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == _extension.build_info()["cpu_kernels"]


@pytest.mark.skipif(torch.version.cuda is not None, reason="this torch has CUDA")
def test_cuda_demanded_from_a_torch_without_cuda(tmp_path):
    sentence = build(tmp_path, FASTAD_CUDA="1")
    assert "FASTAD_CUDA=1, but torch" in sentence
    assert "is built without CUDA; install a CUDA build of torch" in sentence


CUDA_BUILD = """
import os, runpy, setuptools, torch
from torch.utils import cpp_extension
torch.version.cuda = {torch!r}
cpp_extension.CUDA_HOME = os.environ["CUDA_HOME"]
setuptools.setup = lambda ext_modules, **_: print(*(e.name for e in ext_modules))
runpy.run_path("setup.py")
print(os.environ.get("TORCH_CUDA_ARCH_LIST"))
"""
NVCC = """#!/bin/sh
case $1 in
  -V) echo "Cuda compilation tools, release {release}, V{release}.20" ;;
  --list-gpu-code) printf 'sm_%s\\n' {codes} ;;
esac
"""


def cuda_build(tmp_path: Path, torch_cuda: str, **environment: str) -> list[str]:
    """The extensions and architectures for a torch of this CUDA and nvcc 12.6."""
    nvcc = tmp_path / "bin" / "nvcc"
    nvcc.parent.mkdir()
    nvcc.write_text(NVCC.format(release="12.6", codes="50 70 75 80 86 87 89 90 90a"))
    nvcc.chmod(0o755)
    env = {k: v for k, v in os.environ.items() if k not in ("FASTAD_CUDA", "TORCH_CUDA_ARCH_LIST")}
    env |= {"CUDA_HOME": str(tmp_path), **environment}
    command = [sys.executable, "-c", CUDA_BUILD.format(torch=torch_cuda)]
    run = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    return run.stdout.splitlines()


@posix
def test_cuda_is_built_for_what_nvcc_knows(tmp_path):
    extensions, architectures = cuda_build(tmp_path, "12.6")
    assert extensions == "fastad._C fastad._C_convolution fastad._C_cuda"
    assert architectures == "7.5 8.0 8.6 8.9 9.0+PTX"


@posix
def test_the_list_of_the_user_wins(tmp_path):
    assert cuda_build(tmp_path, "12.6", TORCH_CUDA_ARCH_LIST="8.9")[1] == "8.9"


@posix
def test_nvcc_of_another_release(tmp_path):
    assert cuda_build(tmp_path, "13.0") == ["fastad._C fastad._C_convolution", "None"]


def test_fastad_cuda_is_neither_0_nor_1(tmp_path):
    assert "FASTAD_CUDA='yes' is neither 0 (forbid) nor 1 (demand)" in build(
        tmp_path, FASTAD_CUDA="yes"
    )


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / "csrc" / folder).glob("*.cpp"))


def compile_all(compiler: str, folder: Path, files: list[Path], *flags: str) -> None:
    """Compiles the files into `folder`, without optimisation."""
    abi = re.search(r'"(-DTORCH_TARGET_VERSION=\w+)"', (ROOT / "setup.py").read_text())[1]
    include = [ROOT / "csrc", pybind11.get_include(), sysconfig.get_path("include")]
    folders = [f for path in [*include, *cpp_extension.include_paths()] for f in ("-isystem", path)]
    command = [compiler, "-std=c++20", "-O0", "-w", abi, '-DFASTAD_CUDA_STATUS=""', *flags]
    run = subprocess.run(
        [*command, *folders, *files], cwd=folder, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr


@pytest.mark.slow
def test_sources_compile_for_other_processors(tmp_path):
    """MSVC and ARM have none of the kernels with panels: what calls them compiles all the same."""
    installed("g++")
    files = sources("cpu", "convolution", "images")
    compile_all("g++", tmp_path, files, "-fsyntax-only", "-DFASTAD_NO_PANELS")


@pytest.mark.slow
@pytest.mark.parametrize("compiler", COMPILERS)
def test_every_compiler_compiles_the_sources(compiler, tmp_path):
    installed(compiler)
    files = [ROOT / "csrc" / "fastad.cpp", *sources("cpu", "convolution", "images", "metrics")]
    compile_all(compiler, tmp_path, files, "-c")  # what a target lacks shows in machine code only
    assert len(list(tmp_path.glob("*.o"))) == len(files)


@pytest.mark.slow
@pytest.mark.parametrize("compiler", COMPILERS)
def test_every_compiler_vectorises_the_loops(compiler, tmp_path):
    """Machine code of the x86-64 levels v3 and v4 has registers of its own: ymm and zmm."""
    installed(compiler)
    if compiler.startswith("aarch64"):
        pytest.skip(f"{compiler} compiles for another processor")
    compile_all(compiler, tmp_path, [ROOT / "csrc" / "cpu" / "upsampling_loops.cpp"], "-c", "-O3")
    command = ["objdump", "-d", "--no-show-raw-insn", "upsampling_loops.o"]
    code = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    functions = re.findall(r"^\w+ <(.*)>:\n((?:.+\n)*)", code, re.MULTILINE)
    baseline, v3, v4 = (
        "".join(body for name, body in functions if mangled in name)
        for mangled in ("12run_baseline", "6run_v3", "6run_v4")
    )
    assert "%xmm" in baseline
    assert "%ymm" not in baseline
    assert "%ymm" in v3
    assert "%zmm" not in v3
    assert "%zmm" in v4


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
@pytest.mark.parametrize("module", ["_C", "_C_convolution"])
def test_the_module_needs_nothing_of_a_certain_torch(module):
    """Only libtorch_cpu and libc10 are needed: no libtorch_python, no symbol of C++ PyTorch."""
    module = getattr(_extension, module).__file__
    out = subprocess.run(["readelf", "-d", module], capture_output=True, text=True, check=True)
    torch_libraries = [line for line in out.stdout.splitlines() if "NEEDED" in line]
    names = {line.split("[")[1].rstrip("]") for line in torch_libraries}
    assert {n for n in names if "torch" in n or "c10" in n} <= {"libtorch_cpu.so", "libc10.so"}
    out = subprocess.run(["nm", "-DCu", module], capture_output=True, text=True, check=True)
    assert not [s for s in out.stdout.splitlines() if " at::" in s or " c10::" in s]
