"""What each option of a training is worth, by synthesised defects and other conditions.

    python bench/student_ablation.py --data ../shared/data                  what is not recorded yet
    python bench/student_ablation.py --data ../shared/data --models stpm --sets bottle --seeds 0
    python bench/student_ablation.py --data ../shared/data --test           test images, once
    python bench/student_ablation.py --page                                 write the table again

A cell is one model, way, set and seed, trained on some of the good images of the set. A third of
them is held out. Synthesised defects on these, and the same images under other conditions, are what
ways are compared by. The threshold lets a tenth of them pass over it. Test images choose nothing:
--test measures them once, beside the rest, at the same threshold. Cells go to
bench/results/student_ablation.json one by one. Those that are there are not measured again.
"""

import argparse
import json
import statistics
from datetime import date
from pathlib import Path
from typing import Any

import torch
from ratios import cpu_name
from systems import LITE0, RESNET18, SECOND, SETS, SYSTEMS, WEIGHTS

import fastad
from fastad import _files
from fastad.data import training_images

ROOT = Path(__file__).resolve().parents[1]
RECORD = ROOT / "bench" / "results" / "student_ablation.json"
PAGE = ROOT / "docs" / "ablations.md"
BEGIN, END = "<!-- made by bench/student_ablation.py -->", "<!-- end -->"

HELD_OUT = 1 / 3
RATE = 0.1
DEFECTS = 75
# The student by itself: neither the subspace nor the memory hides what it does.
ALONE: dict[str, Any] = {"subspace": False, "score_by": "maps", "hard": 0.0}
# Images of a set, in even distances; options of the model; options of the training. What follows a
# comma tells rows of a model apart.
MODELS: dict[str, tuple[int, dict[str, Any], dict[str, Any]]] = {
    "patchcore": (150, RESNET18, {}),
    "subspace": (150, RESNET18, {}),
    "stpm": (90, RESNET18 | ALONE, {"epochs": 40}),
    "stpm, lite0": (90, LITE0 | ALONE, {}),
    "rstpm": (90, SYSTEMS["rstpm"][0] | ALONE, {}),
}
# Likewise options of the model, and of the training.
WAYS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({}, {}),
    "variants": ({}, {"variants": 2}),
    "corrupt": ({}, {"corrupt": 0.5}),
    "foreign": ({}, {"foreign": True}),
    "hard": ({"hard": 0.9}, {}),
    "all but corrupt": ({"hard": 0.9}, {"foreign": True}),
    "all but foreign": ({"hard": 0.9}, {"corrupt": 0.5}),
    "all but hard": ({}, {"corrupt": 0.5, "foreign": True}),
    "all": ({"hard": 0.9}, {"corrupt": 0.5, "foreign": True}),
    "overview": ({"overview": 2}, {"variants": 2}),
    "no gates": ({"attention": False}, {}),
    "noisy bottleneck": ({"bottleneck_dropout": 0.2}, {}),
}
OF_STUDENTS = {"corrupt", "foreign", "hard", *(way for way in WAYS if way.startswith("all"))}
OF_RSTPM = {"no gates", "noisy bottleneck"}
SHOWN = ("light -10 %", "light +10 %", "light -20 %", "light +20 %", "shift -5 px", "shift +5 px")
SHOWN += ("mild blur", "mild noise")


def measure(
    data: Path, model: str, way: str, name: str, seed: int, size: int | str, test: bool
) -> dict[str, Any]:
    """Train one cell and try it."""
    found = training_images(data / SETS[name]).paths
    most, options, training = MODELS[model]
    of_model, of_training = WAYS[way]
    count = min(most, len(found))
    paths = [found[i * len(found) // count] for i in range(count)]
    weights = {} if LITE0["backbone"] in options.values() else {"teacher_weights": data / WEIGHTS}
    weights |= {"teacher2_weights": data / SECOND} if model == "rstpm" else {}
    detector = fastad.Detector(
        model.partition(",")[0],
        seed=seed,
        image_size=size,
        device="cpu",
        **{name: str(path) for name, path in weights.items()},
        **(options | of_model),
    )
    training = training | {"variants": 0} | of_training
    detector.fit(paths, validation_fraction=HELD_OUT, self_check=False, **training)
    detector.set_threshold(false_positive_rate=RATE)
    result = detector.check(paths, count=DEFECTS, seed=seed + 100)
    record = detector.training_record_
    cell = {
        "model": model,
        "way": way,
        "set": name,
        "seed": seed,
        "training": training,
        "images": len(paths),
        "held_out": record["n_validation"],
        "pixels": list(detector.image_size_),
        "found": result.total.rate,
        "image_auroc": result.image_auroc,
        "aupro": result.aupro,
        "by_kind": {kind: share.rate for kind, share in result.by_kind.items()},
        "false_alarms": {name: share.rate for name, share in result.disturbed.items()},
        "minutes": round(record["seconds"] / 60, 2),
        "trained_in": record["precision"],
        "cpu": cpu_name(),
        "threads": record["threads"],
        "torch": torch.__version__,
        "date": date.today().isoformat(),
    }
    if test:
        cell["test"] = _on_test_images(detector, data / SETS[name])
    return cell


def _on_test_images(detector: fastad.Detector, folder: Path) -> dict[str, Any]:
    """Accuracy on the test images, and false alarms of the good ones under other conditions."""
    metrics = detector.evaluate(folder)
    good = sorted((folder / "test" / "good").iterdir())
    tried = detector.check(good, count=15)
    scores = {key: metrics[key] for key in ("image_auroc", "pixel_auroc", "aupro")}
    return scores | {"false_alarms": {n: share.rate for n, share in tried.disturbed.items()}}


def recorded() -> list[dict[str, Any]]:
    """The cells that were measured."""
    return json.loads(RECORD.read_text()) if RECORD.is_file() else []


def _suits(model: str, way: str) -> bool:
    """Whether a model has the options of a way."""
    name = model.partition(",")[0]
    if way in OF_RSTPM:
        return name == "rstpm"
    return way not in OF_STUDENTS or name in ("stpm", "rstpm")


def table(cells: list[dict[str, Any]]) -> str:
    """Markdown, a row for each model, set and way."""
    head = ("model", "set", "way", "seeds", "found", "image AUROC", "AUPRO", "as they are", *SHOWN)
    head += ("test: image AUROC", "test: AUPRO", "test: as they are", "test: light -10 %")
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for model in MODELS:
        for name in SETS:
            for way in WAYS:
                key = (model, name, way)
                own = [c for c in cells if (c["model"], c["set"], c["way"]) == key]
                if not own:
                    continue
                row = [*key, ", ".join(str(c["seed"]) for c in own)]
                row += [_cell([c["found"] for c in own], "{:.0%}")]
                row += [_cell([c[n] for c in own]) for n in ("image_auroc", "aupro")]
                shares = [c["false_alarms"] for c in own]
                row += [_cell([s[n] for s in shares], "{:.0%}") for n in ("undisturbed", *SHOWN)]
                tests = [c["test"] for c in own if "test" in c]
                row += [_cell([t[n] for t in tests]) for n in ("image_auroc", "aupro")]
                row += [
                    _cell([t["false_alarms"][n] for t in tests], "{:.0%}")
                    for n in ("undisturbed", "light -10 %")
                ]
                lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def _cell(values: list[float], form: str = "{:.3f}") -> str:
    if not values:
        return "-"
    mean = form.format(statistics.mean(values))
    spread = f" ± {form.format(statistics.stdev(values))}" if len(values) > 1 else ""
    return mean + spread


def write_page(cells: list[dict[str, Any]]) -> None:
    """Put the table between its marks in `PAGE`."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    _write(PAGE, f"{before}{BEGIN}\n{table(cells)}\n{END}{after}")


def _write(path: Path, text: str) -> None:
    _files.write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, help="folder of the sets and weights")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument(
        "--size",
        type=lambda text: text if text == "auto" else int(text),
        default="auto",
        help="pixels a side (default: auto)",
    )
    parser.add_argument("--test", action="store_true", help="measure the test images, too")
    parser.add_argument("--page", action="store_true", help="write the table of docs/ablations.md")
    arguments = parser.parse_args()
    keys = ("model", "way", "set", "seed")
    wanted = [
        (model, way, name, seed)
        for seed in arguments.seeds
        for model in arguments.models
        for name in arguments.sets
        for way in arguments.ways
        if _suits(model, way)
    ]
    for cell in wanted if arguments.data is not None else []:
        if cell in [tuple(c[key] for key in keys) for c in recorded()]:
            continue
        found = measure(arguments.data, *cell, arguments.size, arguments.test)
        _write(RECORD, json.dumps([*recorded(), found], indent=2) + "\n")  # another run may write
        print(*cell, found["image_auroc"], found["false_alarms"], flush=True)
    if arguments.page:
        write_page(recorded())


if __name__ == "__main__":
    main()
