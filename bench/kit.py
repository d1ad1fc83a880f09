"""Missing, doubled and misplaced parts: the generated kit, with and without `composition`.

    python bench/kit.py --weights ../shared/data/weights/resnet18_imagenet_layers1-3_bnfolded.pth

Prints what docs/explanation/score.md shows: image AUROC, and the share called defective.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score

import fastad
from fastad.data.rendered.products import PRODUCTS, Counts, write_dataset

GOOD = "good"


def measure(folder: Path, weights: str, model: str, composition: bool, seed: int) -> None:
    """Train one detector, and print how it does on each kind of defect."""
    detector = fastad.Detector(
        model,
        seed=seed,
        image_size=256,
        device="cpu",
        backbone="resnet18",
        teacher_weights=weights,
        composition=composition,
        false_positive_rate=0.1,
    )
    detector.fit(folder / "train" / GOOD)
    parts = {kind: detector.predict(folder / "test" / kind) for kind in PRODUCTS["kit"].defects}
    good = detector.predict(folder / "test" / GOOD)
    print(f"{model}, composition={composition}: {good.is_anomalous.mean():.0%} false alarms")
    for kind, found in parts.items():
        labels = np.arange(len(good.score) + len(found.score)) >= len(good.score)
        auroc = roc_auc_score(labels, np.concatenate([good.score, found.score]))
        print(f"  {kind}: {auroc:.3f}, {found.is_anomalous.mean():.0%} found")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--weights", default="auto", help="of ResNet-18 (default: auto)")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_dataset(folder, "kit", Counts(96, 40, 20), seed=arguments.seed)
        for model in ("patchcore", "subspace"):
            for composition in (False, True):
                measure(Path(folder), arguments.weights, model, composition, arguments.seed)


if __name__ == "__main__":
    main()
