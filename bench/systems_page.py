"""The tables of docs/models/index.md, from the record of systems.py."""

import statistics
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fastad import models
from fastad._files import write_atomically
from fastad.training import TrainingConfig

PAGE = Path(__file__).resolve().parents[1] / "docs" / "models" / "index.md"
BEGIN, END = "<!-- made by bench/systems.py -->", "<!-- end -->"
SCORES = ("image_auroc", "pixel_auroc", "pixel_ap", "aupro")
SUPERVISED = "prn, 10 defects"
Systems = Mapping[str, tuple[dict[str, Any], dict[str, Any]]]  # options of model and training
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


def table(record: dict[str, Any], sets: Iterable[str], systems: Systems) -> str:
    """The cells in Markdown; several seeds of one size and as many epochs as mean and standard
    deviation."""
    lines = [
        "| data set | model | size | image AUROC | pixel AUROC | pixel AP | AUPRO | epochs "
        "| minutes | seeds |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name in sets:
        for system in systems:
            alike: dict[tuple[str, str], list[dict[str, Any]]] = {}
            for cell in record["cells"]:
                if (cell["system"], cell["set"]) == (system, name):
                    key = (_size(cell), _epochs(system, systems, cell))
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
    for system in systems:
        cells = [cell for cell in record["cells"] if cell["system"] == system]
        if cells and system != models.AUTO:  # it is one of the others
            sizes = [f"{cells[0][k] / 1e6:.1f}" for k in ("parameters", "trained_parameters")]
            times = [str(timed[k].get(system, "-")) for k in ("milliseconds", "times_stpm")]
            lines.append(f"| {' | '.join([system, *sizes, *times])} |")
    return "\n".join(lines)


def _epochs(system: str, systems: Systems, cell: dict[str, Any]) -> str:
    """Of each stage, and those of its recipe where they were fewer; none of what trains nothing."""
    stages = cell["stages"]
    if system == models.AUTO:
        epochs = " + ".join(str(stage["epochs"]) for stage in stages if stage["epochs"])
        return f"{cell['kept']} {epochs}".rstrip()
    kind = models.model_class(system.partition(",")[0])
    if not kind.trains():
        return "-"
    usual = kind.training_defaults_for(kind.Config(**systems[system][0]))["epochs"]
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


def write_page(record: dict[str, Any], sets: Iterable[str], systems: Systems) -> None:
    """Put the tables between their marks."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    text = f"{before}{BEGIN}\n{table(record, sets, systems)}\n{END}{after}"
    write_atomically(PAGE, lambda path: path.write_text(text, encoding="utf-8"))
