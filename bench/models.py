"""Inference time of other models as multiples of STPM's, measured interleaved in one process.

    python bench/models.py --json bench/results/FILE.json     measure and record
    python bench/models.py --check                            exit 1 where one is too slow

Beside the times stand the multiplications and additions of a batch, in multiples of STPM's: what a
ratio would be if all operations took the same time. Weights are random: they change no time.
"""

import argparse
import statistics
import sys
from typing import Any

import torch
from ratios import finish
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from fastad import _extension, models
from fastad.commands.timing import interleaved

BASELINE = "stpm"
# Name, options, and the ratio that is not to be exceeded at batch 1.
CANDIDATES: dict[str, tuple[str, dict[str, Any], float]] = {
    "rstpm": ("rstpm", {}, 5.0),
    "rstpm, teacher2=resnet18": ("rstpm", {"teacher2": "resnet18"}, 3.0),
    "rstpm, teacher2=resnet18, bottleneck=learned": (
        "rstpm",
        {"teacher2": "resnet18", "bottleneck": "learned"},
        3.0,
    ),
    "gtrans": ("gtrans", {"backbone": "resnet34"}, 3.0),
    "gtrans, backbone=resnet18": ("gtrans", {"backbone": "resnet18"}, 3.0),
    "prn": ("prn", {}, 6.0),
}


def build(name: str, **options: Any) -> nn.Module:
    model = models.build(name, **models.without_weights(name), **options).eval()
    return model.to(memory_format=torch.channels_last)


def operations(model: nn.Module, images: Tensor) -> int:
    with FlopCounterMode(display=False) as counter:
        model(images)
    return counter.get_total_flops()


def measure(batch: int, size: int, seconds: float, repeats: int) -> list[dict[str, Any]]:
    images = torch.rand(batch, 3, size, size).contiguous(memory_format=torch.channels_last)
    networks = {BASELINE: build(BASELINE)}
    networks |= {key: build(name, **options) for key, (name, options, _) in CANDIDATES.items()}
    with torch.inference_mode():
        work = {key: operations(model, images) for key, model in networks.items()}
        runs = {key: lambda model=model: model(images) for key, model in networks.items()}
        rounds = [interleaved(runs, torch.device("cpu"), seconds) for _ in range(repeats)]
    fastest = {key: min(min(times[key]) for times in rounds) for key in networks}
    rows = []
    for key, (_, _, limit) in CANDIDATES.items():
        ratios = [statistics.median(t[key]) / statistics.median(t[BASELINE]) for t in rounds]
        row = {
            "model": key,
            "batch_size": batch,
            "ratio": round(statistics.median(ratios), 2),
            "ratio_of_each_repeat": [round(ratio, 2) for ratio in ratios],
            "ratio_of_minima": round(fastest[key] / fastest[BASELINE], 2),
            "ratio_of_operations": round(work[key] / work[BASELINE], 2),
            "fastest_ms": round(fastest[key], 2),
            f"{BASELINE}_fastest_ms": round(fastest[BASELINE], 2),
        }
        rows.append(row | ({"required": limit} if batch == 1 else {}))
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", help="file to record the numbers in")
    parser.add_argument("--check", action="store_true", help="exit 1 where a model is too slow")
    parser.add_argument("--batch-size", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--image-size", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=8, help="a batch size and repeat")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    rows, missed = [], []
    for batch in options.batch_size:
        for row in measure(batch, options.image_size, options.seconds, options.repeats):
            rows.append(row)
            print(row, flush=True)
            if row["ratio"] > row.get("required", float("inf")):
                missed.append(f"{row['model']}: {row['ratio']} above {row['required']}")
    facts = {"image_size": options.image_size, "fastad": _extension.build_info()}
    return finish(options, rows, missed, torch=torch.__version__, **facts)


if __name__ == "__main__":
    sys.exit(main())
