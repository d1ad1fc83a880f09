"""Every system on every labelled set, and the table of docs/models/index.md.

    python bench/systems.py --data ../shared/data --speed          all that is not recorded yet
    python bench/systems.py --data ../shared/data --systems prn --sets bottle --seeds 0 --threads 1
    python bench/systems.py --speed                                one image, of what was trained
    python bench/systems.py --page                                 write the table again

A cell is one system, set and seed: trained on the set's good images by the system's own recipe (or
less: SHORTER), measured once on the test images, which choose nothing: a fifth of the good images
is held out and chooses the epoch. Images have about 256x256 pixels in area and keep their aspect
ratio (--size auto). Cells go to bench/results/systems.json one by one. Those that are there are not
measured again, except where they have another --size: the new one replaces them. Detectors are kept
in --detectors, for --speed, which times all systems in turns once the cells are there. The rows of
"lite0" need `pip install ".[imagenet]"`.
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

import fastad
from fastad import _files, models
from fastad.commands.timing import interleaved
from fastad.training import TrainingConfig

ROOT = Path(__file__).resolve().parents[1]
RECORD = ROOT / "bench" / "results" / "systems.json"
PAGE = ROOT / "docs" / "models" / "index.md"
COMMAND = "python bench/systems.py --data ../shared/data --speed"
BEGIN, END = "<!-- made by bench/systems.py -->", "<!-- end -->"

SETS = {
    "bottle": "mvtec_ad/bottle",
    "magnetic_tile": "magnetic_tile/tile",
    "kolektor_sdd": "kolektor_sdd/commutator",
}
WEIGHTS = "weights/resnet18_imagenet_layers1-3_bnfolded.pth"
SECOND = "weights/resnet50_caffe_imagenet_layers1-3.pth"
SUPERVISED = "prn, 10 defects"
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
SCORES = ("image_auroc", "pixel_auroc", "pixel_ap", "aupro")
# As far as published: image AUROC / pixel AUROC / AUPRO on bottle, those over all 15 products of
# MVTec AD (for PRN pixel AP, too), and why ours may differ.
PUBLISHED = {
    "stpm": (
        "1.000 / 0.988 / 0.959",
        "0.955 / 0.970 / 0.928",
        "other images are held out",
    ),
    "rstpm": (
        "-",
        "0.987 / 0.985 / 0.951",
        "the paper leaves out most training options and the second student. Here ResNet-50 is the "
        "Caffe one, and the bottleneck is learned",
    ),
    "gtrans": (
        "-",
        "0.990 / 0.979 / -",
        "ResNet-18 instead of ResNet-34, no crop to 224x224, the index is of each image instead of "
        "the batch",
    ),
    SUPERVISED: (
        "1.000 / 0.994 / -",
        "0.994 / 0.990 / 0.961, pixel AP 0.786",
        "12,000 training images in all instead of 700 epochs of batches of 48, no layer4, ten "
        "defects are left out of the test set",
    ),
    "utad": ("-", "-", "no numbers of it were found"),
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
    detector.fit(data / SETS[name], **training)
    detectors.mkdir(parents=True, exist_ok=True)
    detector.save(detectors / _file(system, name, seed))
    metrics, record = detector.evaluate(data / SETS[name]), detector.training_record_
    own = detector.model_.student_parameters()
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
        "trained_parameters": sum(p.numel() for p in own),
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


def table(record: dict[str, Any]) -> str:
    """The cells in Markdown; several seeds of one size and as many epochs as mean and standard
    deviation."""
    lines = [
        "| data set | model | size | image AUROC | pixel AUROC | pixel AP | AUPRO | epochs "
        "| minutes | seeds |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name in SETS:
        for system in SYSTEMS:
            alike: dict[tuple[str, str], list[dict[str, Any]]] = {}
            for cell in record["cells"]:
                if (cell["system"], cell["set"]) == (system, name):
                    key = (_size(cell), _epochs(system, cell))
                    alike.setdefault(key, []).append(cell)
            for (size, epochs), cells in alike.items():
                shown = [_shown([cell[score] for cell in cells]) for score in SCORES]
                minutes = _shown([cell["training_minutes"] for cell in cells], 1, deviation=False)
                seeds = ", ".join(str(cell["seed"]) for cell in cells)
                row = [name, system, size, *shown, epochs, minutes, seeds]
                lines.append(f"| {' | '.join(row)} |")
    lines += ["", *_beside_published(record["cells"])]
    lines += ["", "| model | parameters, millions | trained | one image, ms | times STPM |"]
    lines.append("|---|---|---|---|---|")
    timed = record.get("speed", {"milliseconds": {}, "times_stpm": {}})
    for system in SYSTEMS:
        cells = [cell for cell in record["cells"] if cell["system"] == system]
        if cells and system != models.AUTO:  # it is one of the others
            sizes = [f"{cells[0][k] / 1e6:.1f}" for k in ("parameters", "trained_parameters")]
            times = [str(timed[k].get(system, "-")) for k in ("milliseconds", "times_stpm")]
            lines.append(f"| {' | '.join([system, *sizes, *times])} |")
    return "\n".join(lines)


def _epochs(system: str, cell: dict[str, Any]) -> str:
    """Of each stage, and those of its recipe where they were fewer; none of what trains nothing."""
    stages = cell["stages"]
    if system == models.AUTO:
        epochs = " + ".join(str(stage["epochs"]) for stage in stages if stage["epochs"])
        return f"{cell['kept']} {epochs}".rstrip()
    kind = models.model_class(system.partition(",")[0])
    if not kind.trains():
        return "-"
    usual = kind.training_defaults_for(kind.Config(**SYSTEMS[system][0]))["epochs"]
    config, found = TrainingConfig.for_model(kind, epochs=usual), []
    for own, stage in zip(kind.stages, stages, strict=True):
        recipe = config.for_stage(kind, own).epochs
        whole = stage["epochs"] == recipe
        found.append(str(recipe) if whole else f"{stage['epochs']} of {recipe}")
    return " + ".join(found)


def _size(cell: dict[str, Any]) -> str:
    """Height x width; what was not asked for by "auto" has a note."""
    # All images had one size before there was this entry.
    size, pixels = cell.get("size", "256"), cell.get("pixels", (256, 256))
    text = "x".join(map(str, pixels))
    return text if size == "auto" else f"{text} (given)"


def _beside_published(cells: list[dict[str, Any]]) -> list[str]:
    lines = [
        "| model | here, bottle: image AUROC / pixel AUROC / AUPRO | published, bottle "
        "| published, 15 products | why ours may differ |",
        "|---|---|---|---|---|",
    ]
    for system, texts in PUBLISHED.items():
        own = [cell for cell in cells if (cell["system"], cell["set"]) == (system, "bottle")]
        if own:
            scores = ("image_auroc", "pixel_auroc", "aupro")
            here = " / ".join(_shown([c[s] for c in own], deviation=False) for s in scores)
            lines.append(f"| {' | '.join([system, here, *texts])} |")
    return lines


def _shown(values: list[float], digits: int = 3, deviation: bool = True) -> str:
    text = f"{statistics.mean(values):.{digits}f}"
    if deviation and len(values) > 1:
        text += f" ± {statistics.stdev(values):.{digits}f}"
    return text


def write_page(record: dict[str, Any]) -> None:
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    text = f"{before}{BEGIN}\n{table(record)}\n{END}{after}"
    _write(PAGE, text)


def _write(path: Path, text: str) -> None:
    _files.write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


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
    record = json.loads(RECORD.read_text()) if RECORD.is_file() else {}
    record = {"command": COMMAND, "cells": []} | record

    def save() -> None:
        _write(RECORD, json.dumps(record, indent=1) + "\n")
        write_page(record)

    if options.page:
        write_page(record)
    elif options.data is None and not options.speed:
        parser.error("--data is needed to train")
    if options.data is not None:
        order = [(s, n, k) for k in options.seeds for n in options.sets for s in options.systems]
        for key in order:
            cells = {(c["system"], c["set"], c["seed"]): c for c in record["cells"]}
            is_there = key in cells and cells[key].get("size", "256") == options.size
            if is_there and not options.again:
                continue
            cells[key] = measure(options.data, options.detectors, options.size, *key)
            print({k: v for k, v in cells[key].items() if k != "per_defect"}, flush=True)
            record["cells"] = [cells[k] for k in sorted(cells)]
            save()
    if options.speed:
        record["speed"] = speed(options.detectors, options.seconds, options.repeats)
        print(record["speed"])
        save()
    return 0


if __name__ == "__main__":
    sys.exit(main())
