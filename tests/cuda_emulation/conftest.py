"""Builds the CUDA kernels for the CPU and gives their ops as a fixture.

The .cu files are compiled unchanged by g++ against ``include/cuda_runtime.h``; ``emulator.cpp``
plays the threads, ``emulated_torch.cpp`` the rest of CUDA, and both check what the ops do. The
host side of every op runs as it is: argument checks, planning, allocation, boxing. The schemas are
those of ``csrc/fastad.cpp``.
"""

import ctypes
import hashlib
import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from fastad import _extension

HERE = Path(__file__).parent
sys.path += [str(HERE), str(HERE.parent / "ops")]  # the tests import their helpers
CSRC = HERE.parents[1] / "csrc"
TORCH = Path(torch.__file__).parent
FLAGS = """
    -std=c++20 -O1 -fPIC -ffp-contract=off -Wall -Wno-unknown-pragmas
    -fsanitize=undefined -fsanitize=float-cast-overflow -fno-sanitize=vptr -fsanitize-recover=all
    -DUSE_CUDA -DTORCH_TARGET_VERSION=0x020a000000000000
"""


class Kernels:
    """The ops as ``torch.ops`` gives them, on the device they run on."""

    device = torch.device("cuda")
    ops = torch.ops.fastad

    def shuffle(self) -> None:
        """Another order of blocks and threads: here the hardware's business."""


class EmulatedKernels(Kernels):
    """The same, emulated, with what the emulator counted in the last call of an op."""

    device = torch.device("cpu")
    ops = torch.ops.fastad_emulation

    def __init__(self, library: Path, schemas: torch.library.Library) -> None:
        self._schemas = schemas  # they live as long as this object does
        self._library = ctypes.CDLL(str(library))
        self._library.emulated_traffic.restype = ctypes.c_int64

    def shuffle(self) -> None:
        self._library.emulation_seed(random.SystemRandom().randrange(2**31))

    @property
    def launches(self) -> int:
        return self._library.emulated_launches()

    @property
    def memsets(self) -> int:
        return self._library.emulated_memsets()

    @property
    def traffic(self) -> dict[str, int]:
        """Bytes of device memory, by kind of access."""
        kinds = ("vectors_read", "elements_read", "vectors_written", "elements_written")
        return {kind: self._library.emulated_traffic(i) for i, kind in enumerate(kinds)}


def build(folder: Path) -> Path:
    """Compiles, unless it has been, under a name that sources, flags and torch decide."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("the emulation needs g++")
    sources = [*sorted((CSRC / "cuda").glob("*.cu")), *sorted(HERE.glob("*.c*"))]
    headers = [
        *(CSRC / "cuda").glob("*.cuh"),
        CSRC / "bilinear.h",
        CSRC / "checks.h",
        *HERE.rglob("*.h"),
    ]
    digest = hashlib.sha256((FLAGS + torch.__version__).encode())
    for path in [*sources, *sorted(headers)]:
        digest.update(path.read_bytes())
    library = folder / f"emulation_{digest.hexdigest()[:16]}.so"
    if library.is_file():
        return library

    includes = [f"-I{HERE / 'include'}", f"-I{CSRC}", "-isystem", TORCH / "include"]
    kernel = ["-include", HERE / "include" / "emulated_library.h", "-x", "c++"]

    def compile_one(source: Path) -> Path:
        result = folder / f"{library.stem}_{source.stem}.o"
        options = [*FLAGS.split(), *includes, *(kernel if source.suffix == ".cu" else [])]
        command = [compiler, *options, "-c", source, "-o", result]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0 or done.stderr:  # warnings too
            pytest.fail(f"{source.name} does not compile cleanly:\n{done.stderr}")
        return result

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compile_one, sources))
    # -Bsymbolic: the ops call the emulator's functions in place of torch's of the same name.
    link = [compiler, "-shared", "-Wl,-Bsymbolic", *objects, "-o", library]
    subprocess.run([*link, f"-L{TORCH / 'lib'}", "-ltorch_cpu", "-lc10", "-ldl"], check=True)
    for path in objects:
        path.unlink()
    return library


@pytest.fixture(scope="session")
def emulation(pytestconfig: pytest.Config) -> EmulatedKernels:
    # Of several processes (pytest -n) each builds its own: they would write to the same files.
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    library = build(Path(pytestconfig.cache.mkdir(f"cuda_emulation{worker}")))
    schemas = torch.library.Library("fastad_emulation", "DEF")
    source = (CSRC / "fastad.cpp").read_text()
    ops = source.partition("STABLE_TORCH_LIBRARY(")[2].partition("\n}")[0]
    for text in re.findall(r"m\.def\((.*?)\);", ops, re.DOTALL):
        schemas.define("".join(re.findall(r'"(.*?)"', text)))
    schemas.define("faulty(int fault, Tensor x) -> Tensor")
    torch.ops.load_library(str(library))
    kernels = EmulatedKernels(library, schemas)
    kernels.shuffle()
    return kernels


# Where there is a GPU, the tests of values run on it too.
ON_DEVICE = torch.cuda.is_available() and _extension.cuda_obstacle is None


@pytest.fixture(params=["emulated", *["cuda"] * ON_DEVICE])
def kernels(request: pytest.FixtureRequest) -> Kernels:
    return request.getfixturevalue("emulation") if request.param == "emulated" else Kernels()


@pytest.fixture(autouse=True)
def _fresh_inputs() -> None:
    seed = random.SystemRandom().randrange(2**31)
    print(f"inputs: torch.manual_seed({seed})")  # shown when the test fails
    torch.manual_seed(seed)


@pytest.fixture(autouse=True)
def _poisoned_memory() -> Iterator[None]:
    """New tensors hold NaN: results that no kernel wrote do not pass."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(before)
