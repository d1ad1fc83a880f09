"""What prediction's fast ways lose: scores on real test sets, against plain float32.

    python bench/fast_path.py --data ../shared/data --json bench/results/FILE.json
    python bench/fast_path.py --data ../shared/data --check     exit 1 where more than 0.001 is lost

STPM is trained on a set's good images, then its test images go three ways through the same
detector: plain float32, float32 fused and, where the processor has units for them, bfloat16 and
int16 fused, whether or not the check at the end of the training took them. Nothing is chosen on the
test images.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
from ratios import finish

import fastad
from fastad import _extension
from fastad.data import test_samples
from fastad.evaluation import evaluate
from fastad.training.precision import cpu_multiplies_in

SETS = {
    "bottle": ("mvtec_ad/bottle", 30),
    "tile": ("magnetic_tile/tile", 3),
    "kolektor": ("kolektor_sdd/commutator", 8),
}
IMAGENET = "weights/resnet18_imagenet_layers1-3_bnfolded.pth"
SCORES = ("image_auroc", "image_ap", "pixel_auroc", "aupro")
MOST_LOST = 0.001  # of image AUROC


def measure(data: Path, name: str, folder: str, epochs: int) -> dict[str, Any]:
    detector = fastad.Detector(
        "stpm", image_size=256, seed=0, device="cpu", teacher_weights=str(data / IMAGENET)
    )
    detector.fit(data / folder, epochs=epochs)
    predictor = detector._fitted()
    ways = {"plain float32": (torch.float32, False), "float32": (torch.float32, True)}
    if cpu_multiplies_in(torch.bfloat16):
        ways["bfloat16"] = (torch.bfloat16, True)
    if _extension.cpu_int16:
        ways["int16"] = (torch.int16, True)
    samples = test_samples(data / folder)
    row: dict[str, Any] = {
        "set": name,
        "epochs": epochs,
        "held_out": detector.training_record_["n_validation"],
        "test_images": len(samples),
        "served": detector.training_record_["notes"],
    }
    for way, (dtype, fused) in ways.items():
        found = evaluate(lambda x: predictor.run(x, dtype, fused), samples, (256, 256))  # noqa: B023
        row[way] = {score: found[score] for score in SCORES}
        row[way]["image_auroc_lost"] = row["plain float32"]["image_auroc"] - found["image_auroc"]
    return row


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the sets and weights")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--json", help="file to record the numbers in")
    parser.add_argument("--check", action="store_true", help="exit 1 where too much is lost")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows, missed = [], []
    for name in options.sets:
        rows.append(measure(options.data, name, *SETS[name]))
        print(rows[-1], flush=True)
        for way in ("float32", "bfloat16", "int16"):
            lost = rows[-1].get(way, {}).get("image_auroc_lost", 0.0)
            if lost > MOST_LOST:
                missed.append(f"{name}, {way}: image AUROC {lost:.4f} lower")
    return finish(options, rows, missed, torch=torch.__version__, fastad=_extension.build_info())


if __name__ == "__main__":
    sys.exit(main())
