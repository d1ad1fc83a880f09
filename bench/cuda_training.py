"""Seconds of an epoch of STPM and RSTPM on a GPU, and what they have learnt.

    python bench/cuda_training.py --json bench/results/FILE.json

Both learn from rendered images of one product of `fastad demo`, with the embedded teacher: no data
set and no network are needed. They have the models' own options but fewer epochs and synthesised
defects. An epoch lasts from the end of the one before to its own end, validation included. The
first of a stage is not counted: it computes the teachers' features and records the CUDA graphs. The
AUROC says that the training learns, and nothing about real images.
"""

import argparse
import statistics
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from ratios import finish

import fastad
from fastad import _extension
from fastad.data.rendered.products import Counts, write_dataset
from fastad.training import EpochProgress

PRODUCT = "flange"
# Options of the model, and of its training.
MODELS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "stpm": ({"teacher_weights": "embedded"}, {}),
    "rstpm": (
        {
            "teacher1": "resnet18",
            "teacher2": "resnet18",
            "teacher_weights": "embedded",
            "teacher2_weights": "embedded",
            "bottleneck": "learned",
        },
        {"pseudo_anomalies": 200, "stages": {"discriminator": {"epochs": 3}}},
    ),
}


class EpochTimes:
    """Listens to a training: seconds between the ends of the epochs of each stage."""

    def __init__(self) -> None:
        self.ends: dict[str, list[float]] = {}

    def __call__(self, event: EpochProgress) -> None:
        if event.losses is not None:
            self.ends.setdefault(event.stage, []).append(time.perf_counter())

    def median(self, stage: str) -> float | None:
        """Seconds of an epoch, without the first; None where there is no other."""
        seconds = [after - before for before, after in pairwise(self.ends[stage])]
        return round(statistics.median(seconds), 4) if seconds else None


def measure(name: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    of_model, of_training = MODELS[name]
    detector = fastad.Detector(
        name, image_size=options.image_size, device=options.device, seed=0, **of_model
    )
    times, start = EpochTimes(), time.perf_counter()
    detector.fit(folder, epochs=options.epochs, progress=times, **of_training)
    seconds = time.perf_counter() - start
    stages = {
        stage["name"]: {
            "images": stage["n_train"],
            "batch_size": stage["config"]["batch_size"],
            "epochs": stage["epochs"],
            "epoch_seconds": times.median(stage["name"]),
        }
        for stage in detector.training_record_["stages"]
    }
    return {
        "model": name,
        "stages": stages,
        "training_seconds": round(seconds, 1),
        "image_auroc": round(detector.evaluate(folder)["image_auroc"], 3),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", help="file to record the numbers in")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--device", default="cuda", help="cpu tries the bench without a GPU")
    parser.add_argument("--images", type=int, default=120, help="good ones to train on")
    parser.add_argument("--image-size", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=10)
    options = parser.parse_args()
    options.check = False
    if options.device == "cuda" and not torch.cuda.is_available():
        sys.exit("there is no CUDA device")
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / PRODUCT
        write_dataset(folder, PRODUCT, Counts(options.images, test_good=10, test_defect=3))
        for model in options.models:
            rows.append(measure(model, folder, options))
            print(rows[-1], flush=True)
    gpu = torch.cuda.get_device_name() if options.device == "cuda" else "none"
    facts = {"gpu": gpu, "images": options.images, "image_size": options.image_size}
    facts |= {"product": PRODUCT, "torch": torch.__version__, "fastad": _extension.build_info()}
    return finish(options, rows, [], **facts)


if __name__ == "__main__":
    sys.exit(main())
