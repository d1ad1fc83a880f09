"""Speed of the CUDA ops against the device's copy bandwidth and against plain PyTorch.

    python bench/cuda_ops.py [--batch 64] [--cases float32 ...] [--json FILE]

ResNet-18's pyramid at 256x256. For each op: its time, the bytes it must move (every input read
once, every result written once), the share of a measured device copy's bandwidth this makes, and
how many times as long the eager and the compiled reference take. The gradient of aggregate_maps is
measured against the eager one only. Candidates take turns in one process; a time is the median over
CUDA events, on inputs that rotate so that none stays in the L2 cache. Floors: 75 % of the copy's
bandwidth, 10 times eager, 2 times torch.compile. Prints JSON, and writes the file after every case.
Without a CUDA device it says so and ends with code 0.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pyramid import LEVELS, pyramid

from fastad import _extension, ops

SIZE = (256, 256)
CASES = {
    "float32": {},
    "float32 channels_last": {"channels_last": True},
    "bfloat16": {"dtype": torch.bfloat16},
    "bfloat16 channels_last": {"dtype": torch.bfloat16, "channels_last": True},
    "float16": {"dtype": torch.float16},
    "float16 channels_last": {"dtype": torch.float16, "channels_last": True},
}
MAPS = "float32 maps"  # the case of the ops that read maps, not features


def interleaved(candidates: dict[str, Callable[[int], Any]], repeats: int = 60) -> dict[str, float]:
    """Median milliseconds of candidate(i), i counting the calls, candidates taking turns."""
    for run in candidates.values():
        for i in range(5):
            run(i)
    times: dict[str, list[tuple]] = {name: [] for name in candidates}
    for i in range(repeats):
        for name, run in candidates.items():
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda._sleep(4_000_000)  # the host runs ahead: its time is not measured
            start.record()
            run(i)
            end.record()
            times[name].append((start, end))
    torch.cuda.synchronize()
    return {n: statistics.median(s.elapsed_time(e) for s, e in t) for n, t in times.items()}


def copy_bandwidth() -> float:
    """Bytes per second of a device-to-device copy, bytes read plus bytes written."""
    source = torch.empty(2**31, dtype=torch.uint8, device="cuda").fill_(1)
    target = torch.empty_like(source)
    milliseconds = interleaved({"copy": lambda i: target.copy_(source)}, 20)["copy"]
    return 2 * source.numel() / milliseconds * 1e3


def row(candidates: dict[str, Callable], moved: int, bandwidth: float) -> dict[str, float]:
    times = interleaved(candidates)
    fused = times["fused"]
    return {
        "fused_us": round(1e3 * fused, 1),
        "megabytes": round(moved / 1e6, 1),
        "of_copy_bandwidth": round(moved / (fused * 1e-3) / bandwidth, 3),
        **{name: round(t / fused, 2) for name, t in times.items() if name != "fused"},
    }


def measure(batch: int, bandwidth: float, **features: Any) -> dict[str, dict[str, float]]:
    """Rows of the three ops on one kind of features."""
    size = sum(batch * c * (256 // stride) ** 2 for c, stride in LEVELS)
    size *= torch.empty((), dtype=features.get("dtype")).element_size()
    maps = sum(4 * batch * (256 // stride) ** 2 for _, stride in LEVELS)
    sets = max(2, round(300e6 / size))
    teachers = [pyramid(batch, device="cuda", **features) for _ in range(sets)]
    students = [pyramid(batch, device="cuda", requires_grad=True, **features) for _ in range(sets)]
    one = torch.ones((), device="cuda")

    def candidates(function: Callable, plain: Callable) -> dict[str, Callable]:
        # dynamic=False and a fresh cache: each kind of features gets its own specialised code.
        torch._dynamo.reset()
        compiled = torch.compile(plain, dynamic=False)
        runs = {"fused": function, "eager": plain, "compile": compiled}

        def call(run: Callable) -> Callable[[int], Any]:
            return lambda i: run(teachers[i % sets], students[i % sets])

        return {name: call(run) for name, run in runs.items()}

    def loss_and_gradient(distillation_loss: Callable) -> Callable:
        def run(teacher: list, student: list) -> Any:
            return torch.autograd.grad(distillation_loss(teacher, student), student, one)

        return run

    rows = {}
    with torch.no_grad():
        pair = candidates(ops.distances, ops.reference.distances)
        rows["distances"] = row(pair, 2 * size + maps, bandwidth)
        pair = candidates(
            lambda t, s: ops.anomaly_map(t, s, SIZE),
            lambda t, s: ops.reference.anomaly_map(t, s, SIZE),
        )
        moved = 2 * size + 2 * maps + 4 * batch * SIZE[0] * SIZE[1]
        rows["anomaly_map"] = row(pair, moved, bandwidth)
        pair = candidates(
            lambda t, s: ops.anomaly_map(t, s, SIZE, smoothing=4.0),
            lambda t, s: ops.reference.anomaly_map(t, s, SIZE, smoothing=4.0),
        )
        moved += 2 * 4 * batch * SIZE[0] * SIZE[1]  # the joined map, once written and read
        rows["anomaly_map with smoothing 4"] = row(pair, moved, bandwidth)
    # Of flattened levels the norms come before the gradient, in a sweep of their own.
    for distance, tensors in (("cosine", 3), ("cosine_flat", 5)):
        torch._dynamo.reset()
        plain = partial(ops.reference.distillation_loss, distance=distance)
        losses = {"fused": partial(ops.distillation_loss, distance=distance), "eager": plain}
        losses["compile"] = torch.compile(plain, dynamic=False)
        runs = {name: loss_and_gradient(f) for name, f in losses.items()}
        calls = {
            name: lambda i, run=run: run(teachers[i % sets], students[i % sets])
            for name, run in runs.items()
        }
        name = "distillation_loss, forward and backward"
        name += "" if distance == "cosine" else f", {distance}"
        rows[name] = row(calls, tensors * size, bandwidth)
    return rows


def measure_maps(batch: int, bandwidth: float) -> dict[str, dict[str, float]]:
    """The row of the gradient of aggregate_maps, by itself: every graph is kept and run again."""
    sets = 20  # 18 MB each
    shapes = [(batch, 256 // stride, 256 // stride) for _, stride in LEVELS]
    maps = [[torch.rand(s, device="cuda", requires_grad=True) for s in shapes] for _ in range(sets)]
    upstream = [torch.randn(batch, *SIZE, device="cuda") for _ in range(sets)]

    def gradient(aggregate_maps: Callable) -> Callable[[int], Any]:
        joined = [aggregate_maps(levels, SIZE) for levels in maps]
        return lambda i: torch.autograd.grad(
            joined[i % sets], maps[i % sets], upstream[i % sets], retain_graph=True
        )

    functions = {"fused": ops.aggregate_maps, "eager": ops.reference.aggregate_maps}
    pair = {name: gradient(function) for name, function in functions.items()}
    moved = 4 * upstream[0].numel() + 2 * 4 * sum(m.numel() for m in maps[0])
    return {"aggregate_maps_backward": row(pair, moved, bandwidth)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--json", type=Path, help="write the result to this file, too")
    names = [*CASES, MAPS]
    parser.add_argument("--cases", nargs="+", choices=names, default=names)
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("skipped: there is no CUDA device", file=sys.stderr)
        return 0
    if _extension.cuda_obstacle is not None:
        print(f"skipped: the CUDA kernels are {_extension.cuda_obstacle}", file=sys.stderr)
        return 0
    bandwidth = copy_bandwidth()
    result: dict[str, Any] = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "batch": arguments.batch,
        "copy_terabytes_per_second": round(bandwidth / 1e12, 3),
        "rows": {},
    }
    for name in arguments.cases:
        if name == MAPS:
            result["rows"][name] = measure_maps(arguments.batch, bandwidth)
        else:
            result["rows"][name] = measure(arguments.batch, bandwidth, **CASES[name])
        if arguments.json is not None:
            arguments.json.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
