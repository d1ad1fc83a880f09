"""Which share of a map's pixels should make RSTPM's image score: measured without a test image.

    python bench/rstpm_pooling.py DETECTOR.fastad DATA [--items 160]

On the held-out images of a detector's training, half of the items with a synthesised defect of one
shape: image AUROC, and d', the distance of the means of the logarithms of the scores of both
classes in their mean deviation, which tells poolings apart where the AUROC is 1 for all of them.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from rstpm_second_stage import distances

import fastad
from fastad.data import ImageDataset, training_images
from fastad.data.synthesis import SHAPES, PseudoAnomalies
from fastad.evaluation import image_metrics
from fastad.models.maps import mean_of_highest

SHARES = (0.0, 0.001, 0.003, 0.01)
SEED = 777  # not that of any training


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("detector", help="a file written by fastad train --model rstpm")
    parser.add_argument("data", type=Path, help="the data set that it was trained on")
    parser.add_argument("--items", type=int, default=160, help="of each shape")
    arguments = parser.parse_args()

    detector = fastad.load(arguments.detector)
    model, size = detector.model_.eval(), detector.image_size_
    images = ImageDataset(training_images(arguments.data).paths, size)
    held_out = detector.training_record_["held_out"]
    repeats = -(-arguments.items // len(held_out))
    indices = np.repeat(held_out, repeats)[: max(arguments.items, len(held_out))].tolist()
    print("| defects | share | image AUROC | d' |\n|---|---|---|---|")
    for shape in SHAPES:
        maps, masks = distances(model, PseudoAnomalies(images, indices, seed=SEED, shapes=[shape]))
        labels = masks.flatten(1).any(1).numpy()
        anomaly_maps = torch.cat(
            [
                model.join([level[start : start + 8] for level in maps], size).anomaly_map
                for start in range(0, len(labels), 8)
            ]
        )
        for share in SHARES:
            scores = mean_of_highest(anomaly_maps, share).double().log().numpy()
            bad, good = scores[labels], scores[~labels]
            distance = (bad.mean() - good.mean()) / np.sqrt((bad.var() + good.var()) / 2)
            auroc = image_metrics(labels, scores)["image_auroc"]
            print(f"| {shape} | {share:g} | {auroc:.4f} | {distance:.3f} |", flush=True)


if __name__ == "__main__":
    main()
