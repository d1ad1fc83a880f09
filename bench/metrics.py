"""Speed and memory of the pixel metrics, against adeval, scikit-learn and a plain AUPRO.

    python bench/metrics.py --json bench/results/FILE.json     measure and record
    python bench/metrics.py --check                            exit 1 where a floor is missed

adeval (pip install --no-deps adeval opencv-python-headless) approximates AUROC, the area under the
precision-recall curve and AUPRO by 1,000 thresholds; the others are exact. Candidates take turns,
so that whatever else the machine does slows all of them.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from ratios import finish, missed
from scipy import ndimage
from sklearn.metrics import average_precision_score, roc_auc_score

from fastad import _extension
from fastad.evaluation import pixel_metrics
from fastad.evaluation.pixels import MEMORY_BYTES, PixelScores


def detector_maps(images: int, size: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Masks with elliptic defects on two thirds of the images, and smooth maps that find most."""
    rng = np.random.default_rng(seed)
    generator = torch.Generator().manual_seed(seed)
    y, x = np.mgrid[:size, :size]
    masks = np.zeros((images, size, size), dtype=bool)
    for mask in masks[images // 3 :]:
        for _ in range(rng.integers(1, 4)):
            (cy, cx), (a, b) = rng.uniform(0, size, 2), rng.uniform(3, size / 8, 2)
            angle = rng.uniform(0, np.pi)
            u = (x - cx) * np.cos(angle) + (y - cy) * np.sin(angle)
            v = (y - cy) * np.cos(angle) - (x - cx) * np.sin(angle)
            mask |= (u / a) ** 2 + (v / b) ** 2 < 1
    coarse = torch.randn(images, 1, size // 8, size // 8, generator=generator)
    texture = F.interpolate(coarse, (size, size), mode="bilinear")
    defect = F.avg_pool2d(torch.from_numpy(masks).float()[:, None], 17, 1, 8)
    return masks, torch.exp(0.6 * texture + 2.5 * defect - 4)[:, 0].contiguous().numpy()


def plain_aupro(masks: np.ndarray, maps: np.ndarray, limit: float = 0.3) -> float:
    """AUPRO by one sort of all pixels and cumulative sums."""
    neighbours = np.zeros((3, 3, 3), bool)
    neighbours[1] = True
    regions, count = ndimage.label(masks, structure=neighbours)
    order = np.argsort(-maps, axis=None)
    values, region = maps.ravel()[order], regions.ravel()[order]
    ends = np.append(np.flatnonzero(values[1:] != values[:-1]), values.size - 1)
    share = 1 / (count * np.bincount(regions.ravel()).astype(float))
    share[0] = 0
    x = np.append(0, np.cumsum(region == 0)[ends] / (~masks).sum())
    y = np.append(0, np.cumsum(share[region])[ends])
    inside = x <= limit
    x, y = np.append(x[inside], limit), np.append(y[inside], np.interp(limit, x, y))
    return float(np.sum(np.diff(x) * (y[1:] + y[:-1]) / 2) / limit)


def exact_peers(masks: np.ndarray, maps: np.ndarray) -> tuple[float, float, float]:
    labels, scores = masks.ravel(), maps.ravel()
    return (
        roc_auc_score(labels, scores),
        average_precision_score(labels, scores),
        plain_aupro(masks, maps),
    )


def adeval_scores(masks: np.ndarray, maps: np.ndarray) -> tuple[float, float, float]:
    if not hasattr(np, "trapz"):  # gone from NumPy 2.4, and adeval needs it
        np.trapz = np.trapezoid
    from adeval import auroc_aupr_aupro

    return auroc_aupr_aupro(maps, masks.view(np.uint8))


def in_turns(candidates: dict[str, Callable], seconds: float) -> dict[str, list[float]]:
    """Milliseconds of each candidate's runs, in turns for ``seconds`` and at least 3 rounds."""
    times: dict[str, list[float]] = {name: [] for name in candidates}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times["fastad"]) < 3:
        for name, run in candidates.items():
            start = time.perf_counter()
            run()
            times[name].append(1e3 * (time.perf_counter() - start))
    return times


def scores(
    peer: str, measure: Callable, seconds: float, repeats: int, *, noise: bool = False
) -> dict[str, Any]:
    """How many times as long a peer takes for 100 maps, and how far its scores are from ours."""
    masks, maps = detector_maps(100, 256)
    if noise:
        maps = np.random.default_rng(0).random(maps.shape, dtype=np.float32)
    candidates = {"fastad": lambda: pixel_metrics(masks, maps), peer: lambda: measure(masks, maps)}
    ours, theirs = (run() for run in candidates.values())
    rounds = [in_turns(candidates, seconds) for _ in range(repeats)]
    row: dict[str, Any] = {"defect_pixels": round(float(masks.mean()), 4)}
    for name in candidates:
        row[f"{name}_ms"] = round(min(min(r[name]) for r in rounds), 2)
        row[f"{name}_median_ms"] = round(statistics.median(t for r in rounds for t in r[name]), 2)
    ratios = [statistics.median(r[peer]) / statistics.median(r["fastad"]) for r in rounds]
    row[peer] = round(statistics.median(ratios), 2)
    row[f"{peer}_of_minima"] = round(row[f"{peer}_ms"] / row["fastad_ms"], 2)
    for name, value in zip(("pixel_auroc", "pixel_ap", "aupro"), theirs, strict=True):
        row[f"{name}_difference"] = float(f"{abs(value - ours[name]):.2g}")
    return row


PEAK = """
import sys
sys.path.insert(0, {bench!r})
from metrics import detector_maps
from fastad.evaluation import Evaluation
def high_water_mark():
    lines = open("/proc/self/status").read().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith("VmHWM")))
masks, maps = detector_maps(20, 512)
labels, types = masks.any(axis=(1, 2)).astype(int), ["a", "b"] * 10
warm = Evaluation()
warm.update(masks[:, :32, :32], maps[:, :32, :32], labels | 1, maps[:, 0, 0])
warm.compute()
open("/proc/self/clear_refs", "w").write("5")  # the mark falls to what is resident now
before = high_water_mark()
evaluation = Evaluation({options})
for _ in range({images} // 20):
    evaluation.update(masks, maps, labels, maps.max(axis=(1, 2)), types)
evaluation.compute()
print((high_water_mark() - before) / 2**30)
"""


def memory(images: int, options: str = "") -> dict[str, float]:
    """Peak memory of an evaluation above one batch of 20 maps of 512x512, in GiB (Linux)."""
    code = PEAK.format(bench=str(Path(__file__).parent), images=images, options=options)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {"gib": round(float(done.stdout), 3)}


def on_disk(seconds: float) -> dict[str, Any]:
    """How many times as long 960 maps take by way of the disk as at once in memory, one thread."""
    masks, maps = detector_maps(240, 256)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # `PixelScores` uses one

    def streamed(memory_bytes: int) -> None:
        scores = PixelScores(memory_bytes)
        for _ in range(4):
            for mask, values in zip(masks, maps, strict=True):
                scores.update("defect", mask, values)
        scores.compute([["defect"]])

    candidates = {
        "fastad": lambda: pixel_metrics(np.tile(masks, (4, 1, 1)), np.tile(maps, (4, 1, 1))),
        "streamed": lambda: streamed(MEMORY_BYTES),
        "on_disk": lambda: streamed(64 * 2**20),
    }
    times = in_turns(candidates, seconds)
    torch.set_num_threads(threads)
    least = {name: min(values) for name, values in times.items()}
    row = {f"{name}_ms_a_map": round(value / 960, 3) for name, value in least.items()}
    row |= {name: round(least[name] / least["fastad"], 2) for name in ("streamed", "on_disk")}
    return row


# work, what measures it, and the floor of each of its numbers ("max:" a ceiling)
WORK: dict[str, tuple[Callable, dict[str, float]]] = {
    "adeval, 100 maps of 256x256": (
        lambda s, r: scores("adeval", adeval_scores, s, r),
        {"adeval": 1},
    ),
    "adeval, 100 maps of 256x256, noise": (
        lambda s, r: scores("adeval", adeval_scores, s, r, noise=True),
        {"adeval": 1},
    ),
    "scikit-learn AUROC and AP with a plain AUPRO, 100 maps of 256x256": (
        lambda s, r: scores("exact_peers", exact_peers, s, 1),
        {"exact_peers": 30, "max:pixel_auroc_difference": 1e-12, "max:pixel_ap_difference": 1e-12},
    ),
    "peak memory, 1,000 maps of 512x512 on disk": (lambda s, r: memory(1000), {"max:gib": 0.375}),
    "peak memory, 240 maps of 512x512 in memory": (lambda s, r: memory(240), {"max:gib": 0.375}),
    "960 maps of 256x256 one by one, on disk": (lambda s, r: on_disk(s), {"max:on_disk": 4}),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", help="file to record the numbers in")
    parser.add_argument("--check", action="store_true", help="exit 1 where a floor is missed")
    parser.add_argument(
        "--only", default="", help="work whose name contains this; other rows of the file stay"
    )
    parser.add_argument("--seconds", type=float, default=5, help="a comparison and repeat")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.filterwarnings("ignore", module="adeval")

    rows, failures = {}, []
    if options.json and options.only and Path(options.json).is_file():
        rows = {row["work"]: row for row in json.loads(Path(options.json).read_text())["rows"]}
    for work, (measure, floors) in WORK.items():
        if options.only not in work:
            continue
        row = measure(options.seconds, options.repeats)
        short = missed(row, floors)
        failures += [f"{work}: {text}" for text in short]
        command = " ".join(["python", *sys.argv])
        rows[work] = {"work": work, "command": command, **row, "required": floors, "missed": short}
        print(f"{work}: {row}{'   MISSED ' + '; '.join(short) if short else ''}", flush=True)
    versions = {n: version(n) for n in ("torch", "numpy", "scikit-learn", "adeval")}
    facts = {"versions": versions, "fastad": _extension.build_info()}
    return finish(options, list(rows.values()), failures, **facts)


if __name__ == "__main__":
    sys.exit(main())
