"""One student for several products against one for each, on the labelled sets.

    python bench/together.py --data ../shared/data
    python bench/together.py --data ../shared/data --seeds 0 --image-size 64 --epochs 1

Each product has a detector either way, calibrated on its own good images, by `fastad train --each`
and `--together`. All else is the same: images of 256x256 pixels, the model's own recipe, the seed.
The student of all has the epochs of a single one, so as many steps as those of all products
together. The test images choose nothing. Folders of detectors and reports stay in --work, so that
the same command goes on where it stopped.
"""

import argparse
import json
import subprocess
import sys
import time
from datetime import date
from pathlib import Path
from typing import Any

import torch
from ratios import cpu_name
from systems import LITE0, SETS

import fastad
from fastad import _files

ROOT = Path(__file__).resolve().parents[1]
RECORD = ROOT / "bench" / "results" / "together.json"
WAYS = ("each", "together")
NUMBERS = ("image_auroc", "pixel_auroc", "aupro")


def fastad_command(*arguments: object) -> float:
    """Run a command; the seconds that it took."""
    begin = time.monotonic()
    command = [sys.executable, "-m", "fastad", *map(str, arguments), "--quiet"]
    subprocess.run(command, check=True)
    return time.monotonic() - begin


def measure(root: Path, work: Path, way: str, seed: int, options: list[str]) -> dict[str, Any]:
    """Train the detectors of all products one way and measure them."""
    folder = work / f"{way}-{seed}"
    detectors, report = folder / "detectors", folder / "report"
    folder.mkdir(parents=True, exist_ok=True)
    minutes = folder / "minutes.json"  # of all calls that were needed
    before = json.loads(minutes.read_text()) if minutes.is_file() else 0.0
    train = ("train", root, f"--{way}", "--output", detectors, "--model", "stpm", "--seed", seed)
    spent = before + fastad_command(*train, *options) / 60
    minutes.write_text(json.dumps(spent))
    fastad_command("evaluate", detectors, root, "--each", "--report", report)
    products = {}
    for product in sorted(path.name for path in root.iterdir()):
        row = json.loads((report / f"{product}.json").read_text())
        size = (detectors / f"{product}.fastad").stat().st_size
        products[product] = {name: row[name] for name in NUMBERS} | {
            "found": [row["defects_found"], row["defects"]],
            "alarms": [row["false_alarms"], row["good"]],
            "promised": row["promised"],
            "megabytes": round(size / 1e6, 1),
        }
    return {"way": way, "seed": seed, "minutes": round(spent, 1), "products": products}


def show(cells: list[dict[str, Any]]) -> None:
    """The table: a line a product and way, means over the seeds."""
    print("product        students    image AUROC  pixel AUROC  AUPRO  found    false alarms")
    for product in cells[0]["products"]:
        for way in WAYS:
            rows = [cell["products"][product] for cell in cells if cell["way"] == way]
            if not rows:
                continue
            means = [sum(row[name] for row in rows) / len(rows) for name in NUMBERS]
            found, alarms = (
                "/".join(str(sum(row[key][i] for row in rows)) for i in range(2))
                for key in ("found", "alarms")
            )
            numbers = "  ".join(f"{mean:.3f}".rjust(11) for mean in means[:2])
            who = "its own" if way == "each" else "shared"
            print(f"{product:<14} {who:<10} {numbers}  {means[2]:.3f}  {found:<7}  {alarms}")
    for way in WAYS:
        minutes = [cell["minutes"] for cell in cells if cell["way"] == way]
        if minutes:
            print(f"{way}: {sum(minutes) / len(minutes):.0f} minutes of training a seed")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the sets")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--image-size", default="256")
    parser.add_argument("--backbone", default=LITE0["backbone"])
    parser.add_argument("--epochs", type=int, help="default: the model's own")
    parser.add_argument("--work", type=Path, default=Path("together"))
    parser.add_argument("--record", type=Path, default=RECORD)
    own = parser.parse_args()
    root = own.work / "products"
    root.mkdir(parents=True, exist_ok=True)
    for name in own.sets:
        if not (root / name).exists():
            (root / name).symlink_to((own.data / SETS[name]).resolve())
    options = ["--image-size", own.image_size, "--set", f"backbone={own.backbone}"]
    options += [] if own.epochs is None else ["--epochs", str(own.epochs)]
    cells = []
    for seed in own.seeds:
        for way in WAYS:
            cells.append(measure(root, own.work, way, seed, options))
            facts = {
                "command": f"python bench/together.py {' '.join(sys.argv[1:])}",
                "options": options,
                "cpu": cpu_name(),
                "threads": torch.get_num_threads(),
                "fastad": fastad.__version__,
                "torch": torch.__version__,
                "date": date.today().isoformat(),
                "cells": cells,
            }
            text = json.dumps(facts, indent=1) + "\n"
            _files.write_atomically(own.record, lambda path, text=text: path.write_text(text))
    show(cells)
    return 0


if __name__ == "__main__":
    sys.exit(main())
