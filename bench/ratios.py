"""Speed and memory of the CPU ops as ratios, measured interleaved in one process.

    python bench/ratios.py --json bench/results/FILE.json     measure and record
    python bench/ratios.py --check                            exit 1 where a floor is missed

On a shared machine only ratios mean something: the fused op, the eager reference and the compiled
reference take turns, so whatever else runs slows all of them alike. Every comparison is repeated;
the median over the repeats of the ratio of medians counts, the ratio of minima stands beside it.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pyramid import pyramid

from fastad import _extension, ops
from fastad.commands.timing import interleaved

CPU = torch.device("cpu")
SIZE = (256, 256)
BFLOAT16 = {"dtype": torch.bfloat16, "channels_last": True}


def compare(candidates: dict[str, Callable], seconds: float, repeats: int) -> dict[str, Any]:
    """Times of ``fused`` and how many times as long each other candidate takes."""
    rounds = [interleaved(candidates, CPU, seconds) for _ in range(repeats)]
    row: dict[str, Any] = {}
    for name in candidates:
        row[f"{name}_ms"] = round(min(min(r[name]) for r in rounds), 4)
        if name == "fused":
            continue
        medians = [statistics.median(r[name]) / statistics.median(r["fused"]) for r in rounds]
        row[name] = round(statistics.median(medians), 2)
        row[f"{name}_of_minima"] = round(row[f"{name}_ms"] / row["fused_ms"], 2)
    return row


def maps(batch: int, seconds: float, repeats: int, **features: Any) -> dict[str, Any]:
    teacher, student = pyramid(batch, **features), pyramid(batch, **features)
    compiled = torch.compile(ops.reference.anomaly_map)
    with torch.inference_mode():
        return compare(
            {
                "fused": lambda: ops.anomaly_map(teacher, student, SIZE),
                "eager": lambda: ops.reference.anomaly_map(teacher, student, SIZE),
                "compile": lambda: compiled(teacher, student, SIZE),
            },
            seconds,
            repeats,
        )


def loss(batch: int, seconds: float, repeats: int, **features: Any) -> dict[str, Any]:
    teacher, student = pyramid(batch, **features), pyramid(batch, requires_grad=True, **features)

    def step(function: Callable) -> Callable:
        return lambda: torch.autograd.grad(function(teacher, student), student)

    return compare(
        {
            "fused": step(ops.distillation_loss),
            "eager": step(ops.reference.distillation_loss),
            "compile": step(torch.compile(ops.reference.distillation_loss)),
        },
        seconds,
        repeats,
    )


def weighted(name: str, seconds: float, repeats: int, shared: bool) -> dict[str, Any]:
    """Times of an op with spatial weights of the images' size, against without and the reference.

    Weights are one mask for all images where ``shared``, else one each.
    """
    teacher, student = pyramid(8), pyramid(8, requires_grad=name == "distillation_loss")
    weights = torch.rand(SIZE if shared else (8, *SIZE))
    size = (SIZE,) if name == "anomaly_map" else ()

    def call(module: Any, **options: Any) -> Callable:
        function = partial(getattr(module, name), teacher, student, *size, **options)
        if name != "distillation_loss":
            return torch.inference_mode()(function)
        return lambda: torch.autograd.grad(function(), student)

    row = compare(
        {
            "fused": call(ops, weights=weights),
            "without": call(ops),
            "eager": call(ops.reference, weights=weights),
        },
        seconds,
        repeats,
    )
    row["times_of_without"] = round(1 / row["without"], 2)
    return row


def bandwidth(seconds: float, repeats: int, **features: Any) -> dict[str, Any]:
    """Share of the read bandwidth of one plain sum over the same bytes."""
    teacher, student = pyramid(32, **features), pyramid(32, **features)
    same_bytes = torch.cat([x.flatten() for x in (*teacher, *student)]).float()
    same_bytes = same_bytes[: sum(x.nbytes for x in (*teacher, *student)) // 4]
    with torch.inference_mode():
        row = compare(
            {
                "fused": lambda: ops.distances(teacher, student),
                "sum": lambda: same_bytes.sum(),
            },
            seconds,
            repeats,
        )
    row["gigabytes_per_second"] = round(same_bytes.nbytes / row["fused_ms"] / 1e6, 2)
    return row


PEAK = """
import sys, torch
sys.path.insert(0, {bench!r})
from pyramid import pyramid
from fastad import ops
loss = ops.distillation_loss if {fused} else ops.reference.distillation_loss
def high_water_mark():
    lines = open("/proc/self/status").read().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith("VmHWM")))
warm = pyramid(1, size=32, requires_grad=True)
torch.autograd.grad(loss(pyramid(1, size=32), warm), warm)
teacher, student = pyramid(64), pyramid(64, requires_grad=True)
open("/proc/self/clear_refs", "w").write("5")  # the mark falls to what is resident now
before = high_water_mark()
gradients = torch.autograd.grad(loss(teacher, student), student)
print((high_water_mark() - before) / sum(g.nbytes for g in gradients))
"""


def memory() -> dict[str, float]:
    """Peak memory of loss and backward above its inputs, in multiples of the gradients' size.

    By the high-water mark of the resident set of a fresh process, set back after the inputs are
    made (Linux).
    """
    bench = str(Path(__file__).parent)
    row = {}
    for name, fused in (("fused", True), ("eager", False)):
        code = PEAK.format(bench=bench, fused=fused)
        out = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        row[name] = round(float(out.stdout), 3)
    return row


def import_time(repeats: int) -> dict[str, float]:
    """Seconds that an import takes after `import torch`, in fresh processes."""
    row = {}
    for name in ("fastad", "fastad.ops"):
        code = f"import torch, time; t = time.time(); import {name}; print(time.time() - t)"
        command = [sys.executable, "-c", code]
        runs = [
            float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
            for _ in range(repeats)
        ]
        row[name] = round(statistics.median(runs), 4)
    return row


# work, what measures it, and the floor of each of its numbers ("max:" a ceiling)
WORK = {
    "anomaly_map float32, batch 1": (lambda s, r: maps(1, s, r), {"eager": 12, "compile": 2.5}),
    "anomaly_map float32, batch 8": (lambda s, r: maps(8, s, r), {"eager": 12, "compile": 2.5}),
    "anomaly_map bfloat16 channels_last, batch 1": (
        lambda s, r: maps(1, s, r, **BFLOAT16),
        {"eager": 5, "compile": 1.5},
    ),
    "anomaly_map bfloat16 channels_last, batch 8": (
        lambda s, r: maps(8, s, r, **BFLOAT16),
        {"eager": 5, "compile": 1.5},
    ),
    "distillation_loss float32, batch 8": (
        lambda s, r: loss(8, s, r),
        {"eager": 8, "compile": 2},
    ),
    "distillation_loss float32 channels_last, batch 8": (
        lambda s, r: loss(8, s, r, channels_last=True),
        {},
    ),
    **{
        f"{name} with weights {shape} float32, batch 8": (
            partial(lambda name, shared, s, r: weighted(name, s, r, shared), name, shared),
            {"eager": 8, "max:times_of_without": 1.25},
        )
        for name in ("distances", "anomaly_map", "distillation_loss")
        for shape, shared in (("(N, H, W)", False), ("(H, W)", True))
    },
    "distances float32, batch 32, against one sum over the same bytes": (
        bandwidth,
        {"sum": 0.6},
    ),
    "distances float32 channels_last, batch 32, against one sum over the same bytes": (
        lambda s, r: bandwidth(s, r, channels_last=True),
        {},
    ),
    "peak memory of distillation_loss forward + backward, in gradients": (
        lambda s, r: memory(),
        {"max:fused": 1.1},
    ),
    "seconds of an import beyond import torch": (
        lambda s, r: import_time(5),
        {"max:fastad": 0.3, "max:fastad.ops": 0.3},
    ),
}


def missed(row: dict[str, float], floors: dict[str, float]) -> list[str]:
    result = []
    for name, floor in floors.items():
        if name.startswith("max:"):
            if row[name[4:]] > floor:
                result.append(f"{name[4:]} {row[name[4:]]} above {floor}")
        elif row[name] < floor:
            result.append(f"{name} {row[name]} below {floor}")
    return result


def cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def finish(options: argparse.Namespace, rows: list[dict], failures: list[str], **facts: Any) -> int:
    """Record the rows where ``options.json`` says so, name what was missed; the exit status."""
    if options.json:
        result = {
            "command": " ".join(["python", *sys.argv]),
            "cpu": cpu_name(),
            "threads": torch.get_num_threads(),
            **facts,
            "rows": rows,
        }
        Path(options.json).write_text(json.dumps(result, indent=1) + "\n")
    for failure in failures:
        print(f"missed: {failure}", file=sys.stderr)
    return 1 if options.check and failures else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", help="file to record the numbers in")
    parser.add_argument("--check", action="store_true", help="exit 1 where a floor is missed")
    parser.add_argument("--seconds", type=float, default=4, help="a comparison and repeat")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    rows, failures = [], []
    for work, (measure, floors) in WORK.items():
        row = measure(options.seconds, options.repeats)
        short = missed(row, floors)
        failures += [f"{work}: {text}" for text in short]
        rows.append({"work": work, **row, "required": floors, "missed": short})
        print(f"{work}: {row}{'   MISSED ' + '; '.join(short) if short else ''}", flush=True)
    capability = torch.backends.cpu.get_cpu_capability()
    facts = {"torch_cpu_capability": capability, "fastad": _extension.build_info()}
    return finish(options, rows, failures, torch=torch.__version__, **facts)


if __name__ == "__main__":
    sys.exit(main())
