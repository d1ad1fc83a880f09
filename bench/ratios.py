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
from pyramid import LEVELS, pyramid
from torch import Tensor

from fastad import _extension, ops
from fastad.commands.timing import interleaved

CPU = torch.device("cpu")
SIZE = (256, 256)
BFLOAT16 = {"dtype": torch.bfloat16, "channels_last": True}


def compare(candidates: dict[str, Callable], seconds: float, repeats: int) -> dict[str, Any]:
    """Times of ``fused`` and how many times as long each other candidate takes.

    The turns go round in both directions, each for half of the time. The mean of the two counts.
    Whoever follows the eager reference finds none of its inputs in the cache. In one direction
    alone the same op against itself came out at 1.15 times.
    """
    directions = (candidates, dict(reversed(candidates.items())))
    rounds = [
        [interleaved(turns, CPU, seconds / 2) for turns in directions] for _ in range(repeats)
    ]

    def mean_of(both: list[dict[str, list[float]]], name: str, of: Callable) -> float:
        return statistics.mean(of(times[name]) for times in both)

    row: dict[str, Any] = {}
    for name in candidates:
        row[f"{name}_ms"] = round(min(mean_of(both, name, min) for both in rounds), 4)
        if name == "fused":
            continue
        medians = [
            mean_of(both, name, statistics.median) / mean_of(both, "fused", statistics.median)
            for both in rounds
        ]
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


def with_option(
    name: str, seconds: float, repeats: int, both: bool = False, **options: Any
) -> dict[str, Any]:
    """Times of an op with options, against without and the reference.

    ``both``: with the gradient of the teacher, too.
    """
    teacher = pyramid(8, requires_grad=both)
    student = pyramid(8, requires_grad=name == "distillation_loss")
    size = (SIZE,) if name == "anomaly_map" else ()

    detached = [t.detach() for t in teacher]

    def call(module: Any, teacher: list[Tensor] = teacher, **options: Any) -> Callable:
        function = partial(getattr(module, name), teacher, student, *size, **options)
        if name != "distillation_loss":
            return torch.inference_mode()(function)
        of = [x for x in (*teacher, *student) if x.requires_grad]
        return lambda: torch.autograd.grad(function().sum(), of)

    row = compare(
        {
            "fused": call(ops, **options),
            "without": call(ops, detached),
            "eager": call(ops.reference, **options),
        },
        seconds,
        repeats,
    )
    row["times_of_without"] = round(1 / row["without"], 2)
    return row


def channel_statistics() -> dict[str, list[Tensor]]:
    """Mean and deviation of the teacher's channels."""
    channels = [shape[0] for shape in LEVELS]
    return {
        "mean": [torch.randn(c) for c in channels],
        "deviation": [torch.rand(c) + 0.5 for c in channels],
    }


def scores(score: str, seconds: float, repeats: int) -> dict[str, Any]:
    """Times of a map, its score and the score's gradient, against those of the map's mean."""
    teacher, student = pyramid(8), pyramid(8, requires_grad=True)

    def eager() -> Any:
        found = ops.reference.anomaly_map(teacher, student, SIZE)
        return torch.autograd.grad(ops.reference.score(found, score).sum(), student)

    def fused() -> Any:
        _, found = ops.anomaly_map(teacher, student, SIZE, score=score)
        return torch.autograd.grad(found.sum(), student)

    def without() -> Any:
        return torch.autograd.grad(ops.anomaly_map(teacher, student, SIZE).mean(), student)

    row = compare({"fused": fused, "without": without, "eager": eager}, seconds, repeats)
    row["times_of_without"] = round(1 / row["without"], 2)
    return row


def stack(seconds: float, repeats: int) -> dict[str, Any]:
    """Times of the levels' maps upsampled side by side."""
    maps = [torch.rand(8, SIZE[0] // stride, SIZE[1] // stride) for _, stride in LEVELS]

    def call(module: Any) -> Callable:
        function = partial(module.aggregate_maps, maps, SIZE, aggregate="stack")
        return torch.inference_mode()(function)

    return compare({"fused": call(ops), "eager": call(ops.reference)}, seconds, repeats)


def smoothing(seconds: float, repeats: int) -> dict[str, Any]:
    """Times of joining maps under a Gaussian, against joining alone and a pass of its own.

    ``matrices``: the pass as two products with matrices, the fastest way in plain PyTorch.
    """
    maps = [torch.rand(8, SIZE[0] // stride, SIZE[1] // stride) for _, stride in LEVELS]
    down, across = (ops.reference.smoothed(torch.eye(n)[:, None], 4.0)[:, 0] for n in SIZE)

    def call(module: Any, **options: Any) -> Callable:
        return torch.inference_mode()(partial(module.aggregate_maps, maps, SIZE, **options))

    @torch.inference_mode()
    def matrices() -> Tensor:
        return down.T @ ops.aggregate_maps(maps, SIZE) @ across

    row = compare(
        {
            "fused": call(ops, smoothing=4.0),
            "without": call(ops),
            "matrices": matrices,
            "eager": call(ops.reference, smoothing=4.0),
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


# Times as fast as eager PyTorch that an option must be, where bytes do not allow 8: half of what
# bench/traffic.py counts for it. A reference that is fast leaves less to win.
EAGER = {
    ("distances", "distance l2"): 1.5,
    ("distances", "distance l2_standardized"): 2.5,
    ("anomaly_map", "distance l2"): 1.7,
    ("anomaly_map", "distance l2_standardized"): 2.6,
    ("distillation_loss", "distance l2"): 2.6,
    ("distillation_loss", "distance l2_standardized"): 3.3,
}

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
        f"{name} with weights {axes} float32, batch 8": (
            partial(
                lambda name, shape, s, r: with_option(name, s, r, weights=torch.rand(shape)),
                name,
                shape,
            ),
            {"eager": 8, "max:times_of_without": 1.25},
        )
        for name in ("distances", "anomaly_map", "distillation_loss")
        for axes, shape in (("(N, H, W)", (8, *SIZE)), ("(H, W)", SIZE))
    },
    **{
        f"{name} with {text} float32, batch 8": (
            partial(
                lambda name, options, s, r: with_option(name, s, r, **options()), name, options
            ),
            {"eager": EAGER.get((name, text), 8), "max:times_of_without": 1.25},
        )
        for name in ("distances", "anomaly_map", "distillation_loss")
        for text, options in (
            ("distance l2", lambda: {"distance": "l2"}),
            (
                "distance l2_standardized",
                lambda: {"distance": "l2_standardized", **channel_statistics()},
            ),
            ("a standardised teacher", channel_statistics),
        )
    },
    # A level's norms come before its gradient, which reads it from the cache.
    "distillation_loss with distance cosine_flat float32, batch 8": (
        lambda s, r: with_option("distillation_loss", s, r, distance="cosine_flat"),
        {"eager": 8, "max:times_of_without": 1.25},
    ),
    "anomaly_map with align_corners float32, batch 8": (
        lambda s, r: with_option("anomaly_map", s, r, align_corners=True),
        {"eager": 8, "max:times_of_without": 1.25},
    ),
    # 26 multiplications and 48 additions a pixel, in the cache: at least 13 us an image on an AMD
    # EPYC (Zen 5) at 4.1 GHz. It takes 28, a sixth of reading features.
    "anomaly_map with smoothing 4 float32, batch 8": (
        lambda s, r: with_option("anomaly_map", s, r, smoothing=4.0),
        {"eager": 8, "max:times_of_without": 1.25},
    ),
    # The same work beside a dozen multiply-adds a pixel.
    "aggregate_maps with smoothing 4, batch 8": (lambda s, r: smoothing(s, r), {"eager": 8}),
    **{
        f"anomaly_map in {dtype}, of float32, batch 8": (
            partial(
                lambda dtype, s, r: with_option("anomaly_map", s, r, dtype=dtype),
                getattr(torch, dtype),
            ),
            {"eager": 8, "max:times_of_without": 1.25},
        )
        for dtype in ("float16", "bfloat16")
    },
    # The gradient waits for the images' factors: 5 tensors of features in place of 3.
    "distillation_loss of images float32, batch 8": (
        lambda s, r: with_option("distillation_loss", s, r, reduction="image"),
        {"max:times_of_without": 1.75},
    ),
    "a stack of maps, batch 8": (lambda s, r: stack(s, r), {"eager": 2}),
    # A third of the bytes more: 4 tensors of features in place of 3.
    "distillation_loss with both gradients, float32, batch 8": (
        lambda s, r: with_option("distillation_loss", s, r, both=True),
        {"eager": 8, "max:times_of_without": 1.5},
    ),
    **{
        f"anomaly_map with score {score!r} and its gradient, float32, batch 8": (
            partial(scores, score),
            {"eager": 8, "max:times_of_without": 1.25},
        )
        for score in ("maximum", "top_share")
    },
    "distillation_loss of the hardest 1 %, float32, batch 8": (
        lambda s, r: with_option("distillation_loss", s, r, hard=0.99),
        {"eager": 8, "max:times_of_without": 1.25},
    ),
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
    parser.add_argument("--only", nargs="*", default=[""], help="texts of the works to measure")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    rows, failures = [], []
    for work, (measure, floors) in WORK.items():
        if not any(text in work for text in options.only):
            continue
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
