"""Instruction counts of the CPU inner loops: the speed gate that noise cannot break.

    python bench/instructions/count.py              print the counts beside the recorded ones
    python bench/instructions/count.py --record     record them for this compiler
    python bench/instructions/count.py --check      exit 1 where one grew by more than 2 %

Callgrind counts what a loop executes, the same number on every run, whatever else the machine
does. Valgrind offers AVX2 at most, so the loops for x86-64-v3 are counted. The count depends on the
compiler: counts are recorded per version of g++, and an unknown one is not judged.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RECORD = Path(__file__).with_name("counts.json")
TOLERANCE = 0.02
FLAGS = ["-O3", "-std=c++20", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"]
LOOPS = [
    *((loop, layout, dtype) for loop in ("stage", "gradient")
      for layout in ("planar", "interleaved") for dtype in ("float32", "bfloat16", "float16")),
    ("distance", "planar", "float32"),
    ("distance", "interleaved", "float32"),
    ("inverse_norms", "planar", "float32"),
    ("expand_row", "planar", "float32"),
    ("join_row", "planar", "float32"),
    ("maximum", "planar", "float32"),
    ("blur", "planar", "float32"),
]  # fmt: skip


def obstacle() -> str | None:
    """What keeps the counts from being taken here, or None."""
    for tool in ("g++", "valgrind"):
        if shutil.which(tool) is None:
            return f"{tool} is not installed"
    return None


def compiler() -> str:
    out = subprocess.run(["g++", "-dumpfullversion"], capture_output=True, text=True, check=True)
    return f"g++ {out.stdout.strip()}"


def count() -> dict[str, int]:
    """Instructions of one call of each loop, by name."""
    with tempfile.TemporaryDirectory() as folder:
        driver = Path(folder) / "driver"
        sources = [
            "bench/instructions/driver.cpp",
            "csrc/cpu/distance_loops.cpp",
            "csrc/cpu/smoothing_loops.cpp",
            "csrc/cpu/upsampling_loops.cpp",
        ]
        command = ["g++", *FLAGS, "-Wno-psabi", "-Icsrc", *sources, "-o", str(driver)]
        subprocess.run(command, cwd=ROOT, check=True)
        counts = {}
        for arguments in LOOPS:
            out = Path(folder) / "callgrind.out"
            command = ["valgrind", "--tool=callgrind", "--toggle-collect=measured"]
            command += [f"--callgrind-out-file={out}", str(driver), *arguments]
            subprocess.run(command, check=True, capture_output=True)
            summary = re.search(r"^(?:summary|totals): (\d+)", out.read_text(), re.MULTILINE)
            counts[" ".join(arguments)] = int(summary[1])
        return counts


def grown(counts: dict[str, int], recorded: dict[str, int]) -> list[str]:
    """Loops that execute more than they did, or that nobody has recorded."""
    return [
        f"{name}: {n} instructions, recorded {recorded.get(name)}"
        for name, n in counts.items()
        if n > recorded.get(name, 0) * (1 + TOLERANCE)
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    if obstacle():
        print(f"cannot count: {obstacle()}", file=sys.stderr)
        return 1
    counts, records = count(), json.loads(RECORD.read_text()) if RECORD.is_file() else {}
    recorded = records.get(compiler(), {})
    for name, n in counts.items():
        print(f"{name:32} {n:9}   recorded {recorded.get(name, '-')}")
    if options.record:
        RECORD.write_text(json.dumps({**records, compiler(): counts}, indent=1) + "\n")
    failures = grown(counts, recorded) if options.check else []
    for failure in failures:
        print(f"grown: {failure}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
