"""Are the metrics of a training by two processes those of one? STPM on bottle, over seeds.

    python bench/ranks.py --data ../shared/data --json bench/results/ranks.json
    python bench/ranks.py --data ../shared/data --image-size 128 --epochs 20 --check

Each seed is trained by one process and by two of torchrun, with the same command otherwise, and
measured by one process on the test images, which choose nothing. One thread a process. Detectors
stay in --work, so that the same command goes on where it stopped. `--check` exits with 1 where the
means of the two ways differ by more than the standard deviation over the seeds, or 0.001.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

SET, WEIGHTS = "mvtec_ad/bottle", "weights/resnet18_imagenet_layers1-3_bnfolded.pth"
WAYS = {"one process": 1, "two processes": 2}
SCORES = ("image_auroc", "pixel_auroc", "pixel_ap", "aupro")
LEAST = 0.001  # of a difference that counts where all seeds end alike


def run(processes: int, words: list[Any]) -> None:
    """A command of fastad, by so many processes."""
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
    start = [*torchrun, "--standalone"] if processes > 1 else []  # at a free port
    command = [sys.executable, *start, "-m", "fastad", *map(str, words), "--quiet"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    # In the checkout its sources would hide the installed package.
    subprocess.run(command, check=True, env=environment, cwd=tempfile.gettempdir())


def measure(data: Path, work: Path, way: str, seed: int, options: list[str]) -> dict[str, Any]:
    """Metrics of one training, and how many processes it had."""
    import fastad

    folder = work / f"{way.replace(' ', '-')}-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    detector, metrics = folder / "bottle.fastad", folder / "metrics.json"
    if not detector.is_file():
        words = ["train", data / SET, "--output", detector, "--model", "stpm", "--seed", seed]
        words += ["--set", "backbone=resnet18", "--teacher-weights", data / WEIGHTS, *options]
        begun = (folder / "bottle.fastad.checkpoint").is_file()
        run(WAYS[way], [*words, "--device", "cpu", *(["--resume"] if begun else [])])
    if not metrics.is_file():
        run(1, ["evaluate", detector, data / SET, "--json", metrics])
    record = fastad.load(detector).training_record_
    assert record["processes"] == WAYS[way]
    found = json.loads(metrics.read_text())
    stage = record["stages"][0]
    return {
        "way": way,
        "seed": seed,
        **{name: found[name] for name in SCORES},
        "last_loss": stage["losses"][-1],
        "best_epoch": stage["best_epoch"],
        "trained_in": record["precision"],
        "seconds": round(record["seconds"], 1),
    }


def compared(cells: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Means of both ways, and the larger deviation over seeds."""
    found = {}
    for name in SCORES:
        values = {way: [cell[name] for cell in cells if cell["way"] == way] for way in WAYS}
        one, two = (statistics.mean(own) for own in values.values())
        deviations = [statistics.stdev(own) if len(own) > 1 else 0.0 for own in values.values()]
        found[name] = {
            "one process": one,
            "two processes": two,
            "deviation": max(deviations),
            "difference": two - one,
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the sets and weights")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--image-size", default="256")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--precision", default="bfloat16", help="of the training")
    parser.add_argument("--work", type=Path, default=Path("ranks"))
    parser.add_argument("--json", type=Path, help="record")
    parser.add_argument("--check", action="store_true")
    own = parser.parse_args()
    if own.check and len(own.seeds) < 2:
        parser.error("--check compares with the deviation over seeds: it needs two at least")
    from ratios import cpu_name

    import fastad
    from fastad._files import write_atomically

    options = ["--image-size", own.image_size, "--epochs", str(own.epochs)]
    options += ["--precision", own.precision]
    data, work = own.data.resolve(), own.work.resolve() / "-".join(options).replace("--", "")
    cells = []
    for seed in own.seeds:
        for way in WAYS:
            cells.append(measure(data, work, way, seed, options))
            print(cells[-1], flush=True)
    found = compared(cells)
    print(json.dumps(found, indent=1))
    if own.json is not None:
        facts = {
            "command": f"python bench/ranks.py {' '.join(sys.argv[1:])}",
            "cpu": cpu_name(),
            "fastad": fastad.__version__,
            "date": date.today().isoformat(),
            "options": options,
            "cells": cells,
            "compared": found,
        }
        text = json.dumps(facts, indent=1) + "\n"
        write_atomically(own.json, lambda path: path.write_text(text))
    differs = [s for s in found.values() if abs(s["difference"]) > max(s["deviation"], LEAST)]
    sys.exit(own.check and bool(differs))


if __name__ == "__main__":
    main()
