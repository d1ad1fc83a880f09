"""Builds ``fastad._C`` (the ops), ``fastad._C_convolution`` (the engine's convolutions) and, where
torch has CUDA and nvcc is there, ``fastad._C_cuda``.

Environment: FASTAD_CUDA=0|1 (forbid, demand), TORCH_CUDA_ARCH_LIST, CUDA_HOME, MAX_JOBS, CXX.
What is built depends on torch and nvcc alone, never on a visible GPU.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "tools"))
from toolchain import architectures, compiler_obstacle  # noqa: E402

OLDEST_TORCH = (2, 10)
STABLE_ABI = ["-DTORCH_TARGET_VERSION=0x020a000000000000"]  # LibTorch stable ABI of torch 2.10
CURE = (
    "install a CUDA build of torch and the CUDA toolkit of its version, or leave FASTAD_CUDA unset"
)


def stop(sentence: str) -> None:
    sys.exit(f"fastad cannot be built: {sentence}")


def version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text)[:2])


try:
    import torch
    from torch.utils import cpp_extension
except ImportError as error:
    stop(f"torch cannot be imported ({error}); install it first: pip install 'torch>=2.10'.")

try:
    # Not the copy that torch carries: that of some versions refuses to stand beside the stable ABI.
    import pybind11
except ImportError:
    stop("pybind11 is missing; pip install pybind11, or build without --no-build-isolation.")

if version(torch.__version__) < OLDEST_TORCH:
    stop(f"torch {torch.__version__} is too old; pip install 'torch>=2.10'.")

compiler = os.environ.get("CXX", "cl" if os.name == "nt" else "c++")
try:
    command = shlex.split(compiler)
except ValueError as error:
    stop(f"CXX={compiler!r} is no command ({error}).")
if not command or shutil.which(command[0]) is None:
    stop(
        f"there is no C++ compiler ({compiler!r} is not on PATH); install one, for example "
        "apt install g++, or set CXX."
    )
if os.name != "nt" and (trouble := compiler_obstacle(compiler)) is not None:
    stop(f"{trouble}.")


def nvcc(*arguments: str) -> str | None:
    """What nvcc prints, or None where there is no nvcc that can be run."""
    name = "nvcc.exe" if os.name == "nt" else "nvcc"
    command = [str(Path(cpp_extension.CUDA_HOME or "") / "bin" / name), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None


def cuda_obstacle() -> str | None:
    """What keeps the CUDA kernels from being built, or None."""
    if os.environ.get("FASTAD_CUDA") == "0":
        return "FASTAD_CUDA=0"
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA"
    printed = nvcc("-V") if cpp_extension.CUDA_HOME else None
    if printed is None:
        return "nvcc was not found (set CUDA_HOME)"
    release = re.search(r"release (\d+)\.(\d+)", printed)
    if release[1] != torch.version.cuda.split(".")[0]:
        return f"nvcc is of CUDA {release[1]}.{release[2]}, torch of CUDA {torch.version.cuda}"
    if nvcc("--list-gpu-code") is None:
        return "nvcc does not list the GPUs that it compiles for"
    return None


if os.environ.get("FASTAD_CUDA", "") not in ("", "0", "1"):
    stop(f"FASTAD_CUDA={os.environ['FASTAD_CUDA']!r} is neither 0 (forbid) nor 1 (demand).")
obstacle = cuda_obstacle()
if os.environ.get("FASTAD_CUDA") == "1" and obstacle is not None:
    stop(f"FASTAD_CUDA=1, but {obstacle}; {CURE}.")


def sources(*folders: str, ending: str) -> list[str]:
    return sorted(
        str(path.relative_to(ROOT))
        for folder in folders
        for path in (ROOT / "csrc" / folder).glob(f"*.{ending}")
    )


def accepted(gpu: str) -> bool:
    """Whether torch takes this name in TORCH_CUDA_ARCH_LIST."""
    os.environ["TORCH_CUDA_ARCH_LIST"] = gpu
    try:
        cpp_extension._get_cuda_arch_flags()
    except ValueError:
        return False
    finally:
        del os.environ["TORCH_CUDA_ARCH_LIST"]
    return True


status = "built" if obstacle is None else f"not built: {obstacle}"
quote = '\\"' if os.name == "nt" else '"'  # on Windows the command line is taken apart once more
define = f"-DFASTAD_CUDA_STATUS={quote}{status}{quote}"
include = [str(ROOT / "csrc"), pybind11.get_include()]
gcc = ["-O3", "-std=c++20", "-fno-math-errno", "-fno-trapping-math", "-g0"]
gcc += ["-Wno-psabi"]  # vectors never cross a function that is not inlined
cxx = ["/O2", "/std:c++20"] if os.name == "nt" else gcc


def contraction(mode: str) -> list[str]:
    """Whether a sum of products may become FMA ("fast") or not ("off"). MSVC does not by itself."""
    return [] if os.name == "nt" else [f"-ffp-contract={mode}"]


# Without contraction the distance of equal vectors is exactly zero, and every x86-64 CPU computes
# the same bytes. The inner loops wait for memory, so it costs nothing. Smoothing waits for
# arithmetic: it asks for FMA by itself, where a CPU has AVX2.
cpu = cpp_extension.CppExtension(
    "fastad._C",
    ["csrc/fastad.cpp", "csrc/threads.cpp", *sources("cpu", "images", "metrics", ending="cpp")],
    include_dirs=include,
    extra_compile_args={"cxx": [*cxx, *contraction("off"), *STABLE_ABI, define]},
)
# The convolutions' inner loops wait for arithmetic: contraction doubles their speed.
convolution = cpp_extension.CppExtension(
    "fastad._C_convolution",
    sources("convolution", ending="cpp"),
    include_dirs=include,
    extra_compile_args={"cxx": [*cxx, *contraction("fast"), *STABLE_ABI]},
)
extensions = [cpu, convolution]
for extension in extensions:
    extension.libraries = ["c10", "torch_cpu"]  # nothing of libtorch_python is used
if obstacle is None:
    if not os.environ.get("TORCH_CUDA_ARCH_LIST"):
        os.environ["TORCH_CUDA_ARCH_LIST"] = architectures(nvcc("--list-gpu-code"), accepted)
    flags = [*STABLE_ABI, "-DUSE_CUDA"]
    extensions.append(
        cpp_extension.CUDAExtension(
            "fastad._C_cuda",
            sources("cuda", ending="cu"),
            include_dirs=[str(ROOT / "csrc")],
            extra_compile_args={
                "cxx": [*cxx, *contraction("off"), *flags],
                "nvcc": ["-O3", "-std=c++20", *flags],
            },
        )
    )

setup(
    ext_modules=extensions,
    cmdclass={"build_ext": cpp_extension.BuildExtension.with_options(no_python_abi_suffix=False)},
)
