"""Speed of the pseudo-anomalies at 256x256: items, masks, textures and augmentations a second.

    python bench/synthesis.py --json bench/results/FILE.json     measure and record
    python bench/synthesis.py --check                            exit 1 where a floor is missed

On one core, in seconds of processor time; a row is of the same 32 seeds. Their share of a training
step is of seconds on the clock: items for a batch against a step of STPM on that batch, both on one
thread and in turns.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from PIL import Image
from ratios import CPU, finish, missed

from fastad import models
from fastad.commands.timing import interleaved
from fastad.data.synthesis import AUGMENTATIONS, FAMILIES, SHAPES, PseudoAnomalies, draw_mask

SIZE = (256, 256)
BATCH = 8
SEEDS = 32  # of a row


def rate(function: Callable[[int], Any], seconds: float) -> dict[str, float]:
    """Of ``function(seed)``: runs a second of processor time, and milliseconds of one."""
    function(0)
    times: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 5:
        start = time.process_time()
        for seed in range(SEEDS):
            function(seed)
        times.append(1e3 * (time.process_time() - start) / SEEDS)
    median = statistics.median(times)
    return {
        "per_second": round(1000 / median, 1),
        "ms": round(median, 3),
        "minimum_ms": round(min(times), 3),
    }


def items(seconds: float, dtype: torch.dtype = torch.uint8, **options: Any) -> dict[str, float]:
    images = torch.zeros(1, 3, *SIZE, dtype=dtype)
    data = PseudoAnomalies(images, [0] * SEEDS, **options)
    return rate(data.__getitem__, seconds)


def share_of_a_step(seconds: float) -> dict[str, float]:
    model = models.build("stpm", teacher_weights=None).train()
    model = model.to(memory_format=torch.channels_last)
    images = torch.rand(BATCH, 3, *SIZE).contiguous(memory_format=torch.channels_last)
    data = PseudoAnomalies(torch.zeros(1, 3, *SIZE, dtype=torch.uint8), [0] * SEEDS)

    def synthesis() -> None:
        for i in range(SEEDS):
            data[i]

    def step() -> None:
        model.zero_grad(set_to_none=True)
        model.loss({"image": images})["distillation"].backward()

    times = interleaved({"synthesis": synthesis, "step": step}, CPU, seconds)
    parts = BATCH / SEEDS  # of what was synthesised, for one batch
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {
        "share": round(parts * medians["synthesis"] / medians["step"], 4),
        "share_of_minima": round(parts * min(times["synthesis"]) / min(times["step"]), 4),
        "synthesis_ms": round(parts * medians["synthesis"], 1),
        "step_ms": round(medians["step"], 1),
    }


def work(textures: str | None) -> dict[str, tuple[Callable[[float], dict], dict[str, float]]]:
    """What is measured: its name, the function, and the floor of its numbers."""
    table: dict[str, tuple[Callable[[float], dict], dict[str, float]]] = {
        "items, half of them clean, uint8": (lambda s: items(s), {"per_second": 60}),
        "items, half of them clean, float32": (
            lambda s: items(s, dtype=torch.float32),
            {"per_second": 60},
        ),
        "items, all shapes": (lambda s: items(s, shapes=tuple(SHAPES)), {"per_second": 60}),
        f"items of a batch of {BATCH} against a training step of STPM": (
            share_of_a_step,
            {"max:share": 0.1},
        ),
    }
    if textures:
        table["items, textures of a folder"] = (
            lambda s: items(s, textures=textures),
            {"per_second": 60},
        )
    for name in SHAPES:
        table[f"mask: {name}"] = (
            lambda s, n=name: rate(lambda k: draw_mask(SIZE, np.random.default_rng(k), (n,)), s),
            {},
        )
    for name, family in FAMILIES.items():
        table[f"texture: {name}"] = (
            lambda s, f=family: rate(lambda k: f(np.random.default_rng(k), *SIZE), s),
            {},
        )
    picture = Image.fromarray(FAMILIES["cells"](np.random.default_rng(0), *SIZE))
    for name, change in AUGMENTATIONS.items():
        table[f"augmentation: {name}"] = (
            lambda s, f=change: rate(lambda k: f(picture, np.random.default_rng(k)), s),
            {},
        )
    return table


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", help="file to record the numbers in")
    parser.add_argument("--check", action="store_true", help="exit 1 where a floor is missed")
    parser.add_argument("--only", default="", help="work whose name contains this")
    parser.add_argument("--seconds", type=float, default=2, help="a row")
    parser.add_argument("--textures", help="folder of images to measure as well")
    options = parser.parse_args()
    torch.set_num_threads(1)

    rows, failures = [], []
    for name, (measure, floors) in work(options.textures).items():
        if options.only not in name:
            continue
        row = measure(options.seconds)
        short = missed(row, floors)
        failures += [f"{name}: {text}" for text in short]
        rows.append({"work": name, **row, "required": floors, "missed": short})
        print(f"{name}: {row}{'   MISSED ' + '; '.join(short) if short else ''}", flush=True)
    versions = {n: version(n) for n in ("torch", "numpy", "pillow")}
    return finish(options, rows, failures, versions=versions)


if __name__ == "__main__":
    sys.exit(main())
