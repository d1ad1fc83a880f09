"""What a teacher is worth: detectors with several teachers, on photographs and rendered products.

    python -m research.embedded_teacher.measure --weights FILE [--json RECORD]

Every combination of teacher, set and detector is a cell, written to the record as soon as it is
measured; a rerun measures what is missing, or was measured with another file or other options.
The test images choose nothing.
"""

import argparse
import hashlib
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import fastad
from fastad import backbones
from fastad._files import write_atomically
from fastad.data import ImageDataset, test_samples, training_images
from fastad.data.rendered.products import PRODUCTS, write_dataset
from fastad.evaluation import evaluate
from research.embedded_teacher.nearest_neighbour import NearestNeighbour
from research.embedded_teacher.summary import SCORES, summary, tables

DETECTORS = ("nn", "stpm")
TEACHERS = ("random", "embedded", "imagenet")
NN_SIZE, STPM_SIZE = 224, 256  # images are squashed to these squares
SEEDS = (0, 1, 2)  # of untrained teachers
IMAGENET = "weights/resnet18_imagenet_layers1-3_bnfolded.pth"
# Folder below the data (rendered sets have none), and STPM's epochs. Those of tile and Kolektor
# make as many steps as 45 of bottle's epochs: a training is as long as its steps, not its epochs.
SETS = {
    "bottle": ("mvtec_ad/bottle", 60),
    "tile": ("magnetic_tile/tile", 14),
    "kolektor": ("kolektor_sdd/commutator", 40),
    **{product: (None, 30) for product in PRODUCTS},
}


@dataclass(frozen=True)
class Teacher:
    """A source of weights as of `fastad.backbones.build`; of none, the seed of the initialisation.

    Attributes:
        digest: the first digits of the file's SHA-256.
    """

    name: str
    weights: str | None = None
    digest: str | None = None
    seed: int = 0


def teachers(weights: Path | None, imagenet: Path) -> list[Teacher]:
    """Untrained ones, that of the file ``weights`` as "embedded", and ImageNet's."""
    found = [Teacher(f"random {seed}", seed=seed) for seed in SEEDS]
    for name, path in (("embedded", weights), ("imagenet", imagenet)):
        if path is not None:
            digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
            found.append(Teacher(name, str(path), digest))
    return found


def nearest_neighbour(teacher: Teacher, data: Path) -> dict[str, Any]:
    """Scores of the nearest-neighbour detector, and how they came about."""
    torch.manual_seed(teacher.seed)
    # Untrained, batch norm keeps its initial statistics: a plain random network.
    backbone = backbones.build("resnet18", ("layer2", "layer3"), teacher.weights)
    images = ImageDataset(training_images(data).paths, NN_SIZE).images
    detector = NearestNeighbour(backbone).fit(images)

    def predict(images: Tensor) -> tuple:
        maps = detector.predict(images)
        return maps.amax((1, 2)).numpy(), maps.numpy()

    return {
        "size": [NN_SIZE, NN_SIZE],
        "good_images": len(images),
        "held_out": "nothing: no epoch and no threshold is chosen",
        **_scores(evaluate(predict, test_samples(data), (NN_SIZE, NN_SIZE))),
    }


def stpm(teacher: Teacher, data: Path, epochs: int) -> dict[str, Any]:
    """Scores of an STPM trained with the package's own defaults, and how they came about."""
    # The teacher is drawn with the detector's seed where there are no weights: seed 0's is the
    # same network as that of the nearest-neighbour detector.
    weights = teacher.weights or "random"
    # What "auto" is of the file in the package, for any file measured as that one.
    standardize = "channels" if teacher.name == "embedded" else "none"
    detector = fastad.Detector(
        "stpm",
        image_size=STPM_SIZE,
        seed=teacher.seed,
        teacher_weights=weights,
        standardize=standardize,
    )
    detector.fit(data, epochs=epochs)
    record = detector.training_record_
    good = record["n_train"] + record["n_validation"]
    return {
        "size": list(detector.image_size_),
        "good_images": good,
        "held_out": f"{record['n_validation']} of {good} good images, by seed {teacher.seed}: they "
        f"chose epoch {record['best_epoch']}",
        "standardize": standardize,
        "training_seconds": round(record["seconds"], 1),
        "precision": record["precision"],
        **_scores(detector.evaluate(data)),
    }


def _scores(metrics: dict[str, Any]) -> dict[str, Any]:
    kept = (*SCORES, "image_auroc_interval", "counts")
    return {name: metrics[name] for name in kept}


def cells(
    of: Sequence[Teacher], sets: dict[str, int], detectors: Sequence[str]
) -> Iterator[tuple[Teacher, dict[str, Any]]]:
    """What to measure, quickest detector first: teachers and what identifies a cell."""
    for detector in detectors:
        for name, epochs in sets.items():
            for teacher in of:
                if detector == "nn" or teacher.seed == 0:  # one untrained teacher is enough there
                    yield (
                        teacher,
                        {
                            "detector": detector,
                            "set": name,
                            "teacher": teacher.name,
                            "weights": teacher.digest,
                            "epochs": epochs if detector == "stpm" else None,
                        },
                    )


def measure(
    of: Sequence[Teacher],
    sets: dict[str, int],
    detectors: Sequence[str],
    data: Path,
    record: Path,
    command: str,
) -> dict[str, Any]:
    """Measure the cells that ``record`` lacks, write each into it; returns its content."""
    content: dict[str, Any] = {"cells": []}
    if record.exists():
        content = json.loads(record.read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as rendered:
        for teacher, cell in cells(of, sets, detectors):
            if any(cell.items() <= found.items() for found in content["cells"]):
                continue
            folder, _ = SETS[cell["set"]]
            path = data / folder if folder else Path(rendered, cell["set"])
            if not folder and not path.exists():
                write_dataset(path, cell["set"])
            start = time.perf_counter()
            if cell["detector"] == "nn":
                found = nearest_neighbour(teacher, path)
            else:
                found = stpm(teacher, path, cell["epochs"])
            cell |= found | {"seconds": round(time.perf_counter() - start, 1)}
            cell |= {"threads": torch.get_num_threads(), "torch": torch.__version__}
            _replace(content["cells"], cell)
            commands = dict.fromkeys([*content.get("commands", ()), command])
            content = {
                "commands": list(commands),
                "summary": summary(content["cells"]),
                "cells": content["cells"],
            }
            text = json.dumps(content, indent=1) + "\n"
            write_atomically(record, lambda path, text=text: path.write_text(text, "utf-8"))
            print(
                f"{cell['detector']}, {cell['set']}, {cell['teacher']}: "
                f"{' / '.join(f'{cell[score]:.4f}' for score in SCORES)}, {cell['seconds']:.0f} s",
                flush=True,
            )
    return content


def _replace(cells: list[dict], cell: dict) -> None:
    """Put a cell in the place of that of the same detector, set and teacher, or at the end."""
    keys = ("detector", "set", "teacher")
    same = [i for i, old in enumerate(cells) if all(old[key] == cell[key] for key in keys)]
    if same:
        cells[same[0]] = cell
    else:
        cells.append(cell)


def _epochs(text: str) -> tuple[str, int]:
    name, _, number = text.partition("=")
    if name not in SETS or not number.isdecimal() or int(number) < 1:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not SET=NUMBER with one of {', '.join(SETS)}"
        )
    return name, int(number)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="the photographs")
    parser.add_argument("--weights", type=Path, help='the file measured as "embedded"')
    parser.add_argument("--imagenet", type=Path, help=f"default: {IMAGENET} in the data")
    parser.add_argument("--detectors", nargs="+", choices=DETECTORS, default=DETECTORS)
    parser.add_argument("--teachers", nargs="+", choices=TEACHERS, default=TEACHERS)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument(
        "--epochs", nargs="+", type=_epochs, default=[], metavar="SET=NUMBER", help="of STPM"
    )
    parser.add_argument(
        "--json",
        type=Path,
        default=Path(__file__).parent / "results" / "teachers.json",
        help="the record",
    )
    options = parser.parse_args(arguments)
    of = [
        teacher
        for teacher in teachers(options.weights, options.imagenet or options.data / IMAGENET)
        if teacher.name.partition(" ")[0] in options.teachers
    ]
    epochs = {name: SETS[name][1] for name in options.sets}
    epochs |= {name: number for name, number in options.epochs if name in epochs}
    words = sys.argv[1:] if arguments is None else arguments
    command = " ".join(["python -m research.embedded_teacher.measure", *words])
    content = measure(of, epochs, options.detectors, options.data, options.json, command)
    print(tables(content["cells"]))


if __name__ == "__main__":
    main()
