"""Compiles every CUDA kernel, without a GPU, and reports registers and spills.

    python tools/check_cuda.py [--arch 75 90 120] [--jobs N] [--json FILE]

Needs nvcc (CUDA_HOME, or on PATH) and any torch, a CPU wheel too: the kernels use the LibTorch
stable ABI only. Exit code 1 where a file does not compile, the compiler warns, or a register is
spilled to memory; 2 where nvcc is missing.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

from toolchain import gpus

CSRC = Path(__file__).resolve().parents[1] / "csrc"
FLAGS = """
    -std=c++20 -O3 -Xptxas -v -Xcompiler -fPIC,-Wall,-Wno-unknown-pragmas
    -DUSE_CUDA -DTORCH_TARGET_VERSION=0x020a000000000000
"""


@dataclass(frozen=True)
class Kernel:
    """What ptxas says of one kernel on one architecture; memory in bytes."""

    file: str
    name: str
    arch: str
    registers: int
    shared: int
    stack: int
    spilled: int


def find_nvcc() -> str | None:
    home = os.environ.get("CUDA_HOME")
    candidates = [str(Path(home) / "bin" / "nvcc")] if home else []
    return next(filter(None, map(shutil.which, [*candidates, "nvcc"])), None)


def architectures(nvcc: str) -> list[str]:
    """Those that the package is built for with this nvcc, such as "75"."""
    command = [nvcc, "--list-gpu-code"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [gpu.replace(".", "") for gpu in gpus(listed)]


def readable(symbols: list[str]) -> list[str]:
    """Demangled, without namespaces and parameters, where there is a c++filt to do it."""
    tool = shutil.which("cu++filt") or shutil.which("c++filt")
    if tool is None:
        return symbols
    done = subprocess.run([tool], input="\n".join(symbols), capture_output=True, text=True)
    names = []
    for name in done.stdout.splitlines():
        name = name.replace("(anonymous namespace)::", "").removeprefix("void ")
        name = re.sub(r"\w+::(?=\w)", "", name)
        names.append(re.sub(r"\([^()]*\)$", "", name))
    return names


def parse(log: str, file: str, arch: str) -> list[Kernel]:
    """Kernels in the order of ptxas' log. Functions that kernels call count as kernels."""
    found = re.findall(
        r"Function properties for (\S+)\n\s*(\d+) bytes stack frame, (\d+) bytes spill stores, "
        r"(\d+) bytes spill loads(?:\nptxas info\s*: Used (\d+) registers(.*))?",
        log,
    )
    kernels = []
    for name, (_, stack, stores, loads, registers, rest) in zip(
        readable([f[0] for f in found]), found, strict=True
    ):
        shared = re.search(r"(\d+) bytes smem", rest)
        kernels.append(
            Kernel(
                file,
                name,
                f"sm_{arch}",
                int(registers or 0),
                int(shared[1]) if shared else 0,
                int(stack),
                int(stores) + int(loads),
            )
        )
    return kernels


def compile_file(nvcc: str, source: Path, arch: str) -> tuple[list[Kernel], str]:
    """The kernels of a file on one architecture, and what is wrong with it, if anything."""
    torch = Path(find_spec("torch").origin).parent
    with tempfile.TemporaryDirectory() as folder:
        output = ["-c", source, "-o", f"{folder}/kernels.o"]
        includes = ["-I", CSRC, "-isystem", torch / "include"]
        command = [nvcc, *FLAGS.split(), f"-gencode=arch=compute_{arch},code=sm_{arch}"]
        done = subprocess.run([*command, *includes, *output], capture_output=True, text=True)
    log = done.stdout + done.stderr
    kernels = parse(log, source.name, arch)
    problems = [] if done.returncode == 0 else [f"{source.name} sm_{arch}: nvcc failed\n{log}"]
    problems += [f"{source.name} sm_{arch}: {w}" for w in re.findall(r".*warning.*", log)]
    problems += [
        f"{source.name} sm_{arch}: {k.name} spills {k.spilled} bytes" for k in kernels if k.spilled
    ]
    return kernels, "\n".join(problems)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", nargs="+", help="compute capabilities; all without it")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="compilers at a time")
    parser.add_argument("--json", type=Path, help="write the table to this file, too")
    arguments = parser.parse_args()
    nvcc = find_nvcc()
    if nvcc is None:
        print("nvcc was not found: set CUDA_HOME, or put it on PATH.", file=sys.stderr)
        return 2

    wanted = arguments.arch or architectures(nvcc)
    sources = sorted((CSRC / "cuda").glob("*.cu"))
    work = [(nvcc, source, arch) for source in sources for arch in wanted]
    with ThreadPoolExecutor(arguments.jobs) as pool:
        results = list(pool.map(lambda item: compile_file(*item), work))
    kernels = [kernel for found, _ in results for kernel in found]
    problems = [problem for _, problem in results if problem]

    width = max((len(k.name) for k in kernels), default=6)
    print(
        f"{'kernel':{width}}  {'arch':7} {'registers':>9} {'shared':>7} {'stack':>6} {'spilled':>8}"
    )
    for k in sorted(kernels, key=lambda k: (k.file, k.name)):
        print(
            f"{k.name:{width}}  {k.arch:7} {k.registers:9} {k.shared:7} {k.stack:6} {k.spilled:8}"
        )
    print(f"\n{len(kernels)} kernels, {sum(k.spilled for k in kernels)} bytes spilled")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps([asdict(k) for k in kernels], indent=1) + "\n")
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
