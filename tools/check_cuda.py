"""Compiles every CUDA kernel, without a GPU, and reports what its machine code says.

    python tools/check_cuda.py [--arch 75 90 120] [--jobs N] [--json FILE]

Needs nvcc (CUDA_HOME, or on PATH) and any torch, a CPU wheel too: the kernels use the LibTorch
stable ABI only. "blocks" are the blocks that a multiprocessor holds at a time, as registers and
threads allow. Instructions are counted in the code, not as often as they run. They need nvdisasm:
of the CUDA toolkit, on PATH, or from `pip install nvidia-cuda-nvdisasm`. Exit code 1 where a file
does not compile, the compiler warns, or a register is spilled to memory; 2 where nvcc is missing.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path

from toolchain import gpus

CSRC = Path(__file__).resolve().parents[1] / "csrc"
FLAGS = """
    -std=c++20 -O3 -Xptxas -v -Xcompiler -fPIC,-Wall,-Wno-unknown-pragmas
    -DUSE_CUDA -DTORCH_TARGET_VERSION=0x020a000000000000
"""
# Of all architectures: registers of a multiprocessor, and what a warp takes them in.
REGISTERS, REGISTER_UNIT, WARP = 65536, 8, 32
# Threads that a multiprocessor holds.
THREADS = {75: 1024, 80: 2048, 90: 2048, 100: 2048, 103: 2048}
OTHER_THREADS = 1536
# Columns of the table: loads and stores of device memory, loads of shared memory, arithmetic,
# reciprocals and roots, fences.
SHOWN = ("LDG", "STG", "LDS", "FMUL", "FFMA", "MUFU", "MEMBAR")


@dataclass(frozen=True)
class Kernel:
    """What ptxas and nvdisasm say of one kernel on one architecture; memory in bytes."""

    file: str
    name: str
    arch: str
    registers: int
    shared: int
    stack: int
    spilled: int
    blocks: int = 0  # on a multiprocessor; 0 for a function that kernels call
    instructions: dict[str, int] = field(default_factory=dict)  # by mnemonic; empty if unknown


def find_tool(name: str) -> str | None:
    """In CUDA_HOME, on PATH, or where pip installs NVIDIA's packages."""
    home = os.environ.get("CUDA_HOME")
    candidates = [str(Path(home) / "bin" / name)] if home else []
    nvidia = find_spec("nvidia")
    folders = nvidia.submodule_search_locations if nvidia else []
    installed = [str(p) for folder in folders for p in Path(folder).glob(f"*/bin/{name}")]
    return next(filter(None, map(shutil.which, [*candidates, name, *installed])), None)


def find_nvcc() -> str | None:
    return find_tool("nvcc")


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


def block_sizes(ptx: str) -> dict[str, int]:
    """Threads of a block by symbol, from the launch bounds."""
    return {
        name: int(threads)
        for name, threads in re.findall(r"\.entry (\w+)\([^)]*\)\s*\.maxntid (\d+)", ptx)
    }


def resident_blocks(registers: int, threads: int, arch: str) -> int:
    """Blocks of so many threads that fit on a multiprocessor; shared memory is not looked at."""
    if threads == 0:
        return 0
    units = -(-max(registers, 1) // REGISTER_UNIT)
    # A multiprocessor has four partitions, each with its own registers and warps.
    warps = 4 * (REGISTERS // 4 // (units * REGISTER_UNIT * WARP))
    resident = min(warps * WARP, THREADS.get(int(arch), OTHER_THREADS))
    return resident // threads


def count_instructions(disassembly: str) -> dict[str, Counter[str]]:
    """Instructions by symbol and mnemonic, without modifiers: LDG.E.128 counts as LDG."""
    counts: dict[str, Counter[str]] = {}
    for section in re.split(r"^\.text\.", disassembly, flags=re.MULTILINE)[1:]:
        symbol = section.partition(":")[0]
        code = re.findall(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9]*)", section)
        counts[symbol] = Counter(code)
    return counts


def parse(log: str, file: str, arch: str, ptx: str = "", disassembly: str = "") -> list[Kernel]:
    """Kernels in the order of ptxas' log. Functions that kernels call count as kernels."""
    threads, instructions = block_sizes(ptx), count_instructions(disassembly)
    found = re.findall(
        r"Function properties for (\S+)\n\s*(\d+) bytes stack frame, (\d+) bytes spill stores, "
        r"(\d+) bytes spill loads(?:\nptxas info\s*: Used (\d+) registers(.*))?",
        log,
    )
    kernels = []
    for name, (symbol, stack, stores, loads, registers, rest) in zip(
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
                resident_blocks(int(registers or 0), threads.get(symbol, 0), arch),
                dict(instructions.get(symbol, {})),
            )
        )
    return kernels


def disassemble(cubin: Path) -> str:
    """Nothing where there is no nvdisasm."""
    tool = find_tool("nvdisasm")
    if tool is None:
        return ""
    return subprocess.run([tool, "-c", cubin], capture_output=True, text=True, check=True).stdout


def compile_file(nvcc: str, source: Path, arch: str) -> tuple[list[Kernel], str]:
    """The kernels of a file on one architecture, and what is wrong with it, if anything."""
    torch = Path(find_spec("torch").origin).parent
    with tempfile.TemporaryDirectory() as folder:
        output = ["-c", source, "-o", f"{folder}/kernels.o", "--keep", "--keep-dir", folder]
        includes = ["-I", CSRC, "-isystem", torch / "include"]
        command = [nvcc, *FLAGS.split(), f"-gencode=arch=compute_{arch},code=sm_{arch}"]
        done = subprocess.run([*command, *includes, *output], capture_output=True, text=True)
        ptx = "".join(path.read_text() for path in Path(folder).glob("*.ptx"))
        disassembly = "".join(map(disassemble, Path(folder).glob("*.cubin")))
    log = done.stdout + done.stderr
    kernels = parse(log, source.name, arch, ptx, disassembly)
    problems = [] if done.returncode == 0 else [f"{source.name} sm_{arch}: nvcc failed\n{log}"]
    problems += [f"{source.name} sm_{arch}: {w}" for w in re.findall(r".*warning.*", log)]
    problems += [
        f"{source.name} sm_{arch}: {k.name} spills {k.spilled} bytes" for k in kernels if k.spilled
    ]
    return kernels, "\n".join(problems)


def print_table(kernels: list[Kernel]) -> None:
    """A row a kernel; a function without launch bounds has no blocks."""
    width = max((len(k.name) for k in kernels), default=6)
    columns = ("registers", "blocks", "shared", "stack", "spilled", *SHOWN)
    print(f"{'kernel':{width}}  {'arch':7} " + " ".join(f"{c:>7}" for c in columns))
    for k in kernels:
        facts = [k.registers, k.blocks or "-", k.shared, k.stack, k.spilled]
        facts += [k.instructions.get(name, 0) if k.instructions else "-" for name in SHOWN]
        cells = (f"{f:>{max(len(c), 7)}}" for c, f in zip(columns, facts, strict=True))
        print(f"{k.name:{width}}  {k.arch:7} " + " ".join(cells))


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

    print_table(sorted(kernels, key=lambda k: (k.file, k.name, int(k.arch[3:]))))
    print(f"\n{len(kernels)} kernels, {sum(k.spilled for k in kernels)} bytes spilled")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps([asdict(k) for k in kernels], indent=1) + "\n")
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
