"""Every system on every labelled set, and the table of docs/models/index.md.

    python bench/systems.py --data ../shared/data --speed          all that is not recorded yet
    python bench/systems.py --data ../shared/data --systems prn --sets bottle --seeds 0 --threads 1
    python bench/systems.py --speed                                one image, of what was trained
    python bench/systems.py --page                                 write the table again

A cell is one system, set and seed: trained on the set's good images by the system's own recipe (or
less: SHORTER), measured once on the test images, which choose nothing: a fifth of the good images
is held out and chooses the epoch. Images have about 256x256 pixels in area and keep their aspect
ratio (--size auto). Cells go to bench/results/systems.json one by one. Those that are there are not
measured again, except where they have another --size: the new one replaces them. A training that
was stopped goes on after its last epoch.

Several processes share the cells as those of `--each` share products: start the command twice, or
`torchrun --nproc-per-node 2 bench/systems.py --threads 1 ...`. `--each` itself has one recipe for
all products. Here some sets have a shorter one, and PRN learns defects of its own set.

Detectors are kept in --detectors, for --speed, which times all systems in turns once the cells are
there. The rows of "lite0" need `pip install ".[imagenet]"`.
"""

import argparse
import json
import statistics
import sys
from datetime import date
from pathlib import Path
from typing import Any

import torch
from ratios import cpu_name
from systems_page import SCORES, SUPERVISED, write_page

import fastad
from fastad._files import remove_left, write_atomically
from fastad.commands.timing import interleaved
from fastad.distributed import claim_each, claimed, this_rank

ROOT = Path(__file__).resolve().parents[1]
RECORD = ROOT / "bench" / "results" / "systems.json"
Key = tuple[str, str, int]  # system, set, seed
COMMAND = "python bench/systems.py --data ../shared/data --speed"

SETS = {
    "bottle": "mvtec_ad/bottle",
    "magnetic_tile": "magnetic_tile/tile",
    "kolektor_sdd": "kolektor_sdd/commutator",
}
WEIGHTS = "weights/resnet18_imagenet_layers1-3_bnfolded.pth"
SECOND = "weights/resnet50_caffe_imagenet_layers1-3.pth"
RESNET18, LITE0 = {"backbone": "resnet18"}, {"backbone": "efficientnet_lite0"}
# Options of the model, options of the training. What follows a comma tells rows of a model apart.
SYSTEMS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "auto": ({}, {}),
    "stpm": (RESNET18, {}),
    "stpm, lite0": (LITE0, {}),
    "rstpm": (
        {"teacher1": "resnet18", "teacher2": "resnet50_caffe", "bottleneck": "learned"},
        {},
    ),
    "rstpm, lite0": (
        {"teacher1": LITE0["backbone"], "teacher2": LITE0["backbone"], "bottleneck": "layer4"},
        {},
    ),
    "gtrans": (RESNET18, {}),
    "gtrans, lite0": (LITE0, {}),
    "prn": (RESNET18, {}),
    "prn, lite0": (LITE0, {}),
    SUPERVISED: (RESNET18, {"defect_images": 10}),
    "utad": (RESNET18, {}),
    "patchcore": (RESNET18, {}),
    "patchcore, lite0": (LITE0, {}),
    "subspace": (RESNET18, {}),
    "subspace, lite0": (LITE0, {}),
}
# Less than the recipe on the set with the most images, so that a cell takes half an hour at most.
SHORTER: dict[tuple[str, str], dict[str, Any]] = {
    ("auto", "magnetic_tile"): {"epochs": 6},
    ("stpm", "magnetic_tile"): {"epochs": 20},
    ("rstpm", "magnetic_tile"): {"epochs": 6},
    ("rstpm, lite0", "magnetic_tile"): {"epochs": 6},
    ("gtrans", "magnetic_tile"): {"epochs": 30},
    ("gtrans, lite0", "magnetic_tile"): {"epochs": 30},
    ("utad", "magnetic_tile"): {"epochs": 4, "stages": {"expert": {"epochs": 3}}},
}


def measure(
    data: Path, detectors: Path, size: str, system: str, name: str, seed: int
) -> dict[str, Any]:
    """Train and evaluate one cell."""
    options, training = SYSTEMS[system]
    options, training = dict(options), dict(training)
    if LITE0["backbone"] not in options.values():  # pip brings those
        options["teacher_weights"] = str(data / WEIGHTS)
    if system == "auto":
        options["teacher_weights"] = str(data / "weights")
    if system == "rstpm":
        options["teacher2_weights"] = str(data / SECOND)
    training |= SHORTER.get((system, name), {})
    if system == SUPERVISED:
        training["defects"] = str(data / SETS[name])
    model = system.partition(",")[0]
    detector = fastad.Detector(model, image_size=size, seed=seed, device="cpu", **options)
    file = detectors / _file(system, name, seed)
    checkpoint = detectors / f"{file.stem}-{size}.checkpoint"
    own = {"checkpoint": checkpoint, "resume": checkpoint.is_file()}
    detector.fit(data / SETS[name], **training, **own)
    detector.save(file)
    checkpoint.unlink(missing_ok=True)
    remove_left([file, checkpoint])
    metrics, record = detector.evaluate(data / SETS[name]), detector.training_record_
    trained = record.get("candidates", [record])
    return {
        "system": system,
        "set": name,
        "seed": seed,
        "size": size,
        "pixels": list(detector.image_size_),
        **{score: metrics[score] for score in SCORES},
        "per_defect": {
            kind: {score: row[score] for score in SCORES}
            for kind, row in metrics["per_defect"].items()
        },
        "candidates": record.get("candidates"),
        "kept": detector.model_.name,
        "counts": metrics["counts"],
        "supervision": metrics["supervision"],
        "held_out": record["n_validation"],
        "stages": [
            {key: stage[key] for key in ("name", "epochs", "best_epoch")}
            for stage in record["stages"]
        ],
        "training_minutes": round(sum(one["seconds"] for one in trained) / 60, 1),
        "trained_in": record["precision"],
        "served_in": str(detector._fitted().dtype).removeprefix("torch."),
        "parameters": sum(p.numel() for p in detector.model_.parameters()),
        "trained_parameters": sum(p.numel() for p in detector.model_.student_parameters()),
        "threads": record["threads"],
        "cpu": cpu_name(),
        "fastad": fastad.__version__,
        "torch": torch.__version__,
        "date": date.today().isoformat(),
    }


def speed(detectors: Path, seconds: float, repeats: int) -> dict[str, Any]:
    """Milliseconds of one image of 256x256 as bytes, all systems in turns, in float32.

    Of every system the first detector that there is.
    """
    found: dict[str, Path] = {}
    for system in SYSTEMS:
        own = [detectors / _file(system, name, seed) for name in SETS for seed in range(10)]
        path = next((path for path in own if path.is_file()), None)
        if path is not None:
            found[system] = path
    images = torch.randint(0, 256, (1, 3, 256, 256)).to(torch.uint8)
    runs = {}
    for system, path in found.items():
        predictor = fastad.load(path, device="cpu", precision="float32")._fitted()
        runs[system] = lambda p=predictor: p.predict_batch(images)
    rounds = [interleaved(runs, torch.device("cpu"), seconds) for _ in range(repeats)]
    medians = {s: [statistics.median(times[s]) for times in rounds] for s in runs}
    return {
        "cpu": cpu_name(),
        "threads": torch.get_num_threads(),
        "precision": "float32",
        "milliseconds": {s: round(statistics.median(m), 2) for s, m in medians.items()},
        "times_stpm": {
            s: round(statistics.median(a / b for a, b in zip(m, medians["stpm"], strict=True)), 2)
            for s, m in medians.items()
            if "stpm" in medians
        },
    }


def recorded() -> dict[str, Any]:
    """What is known."""
    record = json.loads(RECORD.read_text()) if RECORD.is_file() else {}
    return {"command": COMMAND, "cells": []} | record


def cells_of(record: dict[str, Any]) -> dict[Key, dict[str, Any]]:
    return {(cell["system"], cell["set"], cell["seed"]): cell for cell in record["cells"]}


def add(folder: Path, key: Key | None, value: dict[str, Any]) -> None:
    """Put a cell, or the speeds for None, into the record, which several processes may do."""
    with claimed(folder / "record.lock", wait=True):
        record = recorded()
        if key is None:
            record["speed"] = value
        else:
            cells = cells_of(record) | {key: value}
            record["cells"] = [cells[key] for key in sorted(cells)]
        text = json.dumps(record, indent=1) + "\n"
        write_atomically(RECORD, lambda path: path.write_text(text, encoding="utf-8"))
        write_page(record, SETS, SYSTEMS)


def _file(system: str, name: str, seed: int) -> str:
    return f"{system.replace(', ', '-').replace(' ', '-')}-{name}-{seed}.fastad"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of the sets and weights")
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--size", default="auto", help="auto, 256, or 640x256 (height x width)")
    parser.add_argument("--detectors", type=Path, default=Path("systems"))
    parser.add_argument("--again", action="store_true", help="measure recorded cells again")
    parser.add_argument("--speed", action="store_true", help="time the detectors that there are")
    parser.add_argument("--page", action="store_true", help="measure nothing, write the table")
    parser.add_argument("--seconds", type=float, default=10, help="of --speed, a repeat")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    folder, size = options.detectors, options.size
    if options.page:
        write_page(recorded(), SETS, SYSTEMS)
    elif options.data is None and not options.speed:
        parser.error("--data is needed to train")
    before = cells_of(recorded())

    def one(key: Key) -> None:
        cell = cells_of(recorded()).get(key, {})
        is_there = cell.get("size", "256") == size and not options.again
        if cell and (is_there or cell != before.get(key)):  # another process did it just now
            return
        cell = measure(options.data, folder, size, *key)
        print({k: v for k, v in cell.items() if k != "per_defect"}, flush=True)
        add(folder, key, cell)

    if options.data is not None or options.speed:
        folder.mkdir(parents=True, exist_ok=True)
    if options.data is not None:
        order = [(s, n, k) for k in options.seeds for n in options.sets for s in options.systems]
        claim_each(order, lambda key: folder / f"{_file(*key)}.lock", one)
    if options.speed and this_rank().is_first:
        found = speed(folder, options.seconds, options.repeats)
        print(found)
        add(folder, None, found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
