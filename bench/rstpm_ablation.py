"""What each part of a trained RSTPM is worth, on a test set: one row a variant.

    python bench/rstpm_ablation.py DETECTOR.fastad DATA [--json FILE]

The networks run once; the variants differ in how their maps are joined and pooled, so that they
share the training and its held-out images. Nothing here chooses anything for a detector.
"""

import argparse
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

import fastad
from fastad import ops
from fastad.data import resize_masks, test_samples
from fastad.data.folder import iterate_batches
from fastad.data.masks import read_ground_truth
from fastad.evaluation import Evaluation, image_metrics
from fastad.models import RSTPM
from fastad.models.maps import mean_of_highest

SCORES = ("image_auroc", "image_ap", "pixel_auroc", "pixel_ap", "aupro")
POOLINGS = {"max": 0.0, "top 0.1 %": 0.001, "top 0.3 %": 0.003, "top 1 %": 0.01}


def variants(model: RSTPM, images: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Names and anomaly maps (N, H, W) of images (N, 3, H, W)."""
    size = (images.shape[-2], images.shape[-1])
    distances = model.distances(images)
    scaled = model.scaled(distances, "position")
    summed = model.summed_maps(scaled)
    defect = model.discriminate(model.inputs(distances))

    def product(*maps: Tensor) -> Tensor:
        return ops.aggregate_maps(list(maps), size)

    yield "pair 1, not scaled (STPM)", product(*distances[:3])
    yield "pair 2, not scaled", product(*distances[3:])
    yield "pairs, not scaled", product(*model.summed_maps(distances))
    yield "pairs, scaled by level", product(*model.summed_maps(model.scaled(distances, "level")))
    yield "pair 1", product(*scaled[:3])
    yield "pair 2", product(*scaled[3:])
    yield "pairs", product(*summed)
    yield "discriminative map alone", product(defect)
    yield "full", product(*summed, defect)
    levels = ops.aggregate_maps(summed, size, aggregate="sum")
    yield "full, sum of the levels", product(levels, defect)
    smoothed = gaussian_filter(product(*summed, defect).numpy(), (0, 4, 4), mode="nearest")
    yield "full, smoothed", torch.from_numpy(smoothed)
    yield "full, pair 2 only", product(*scaled[3:], defect)


@torch.inference_mode()
def ablation(detector: fastad.Detector, data: str | Path) -> dict[str, dict[str, Any]]:
    """Scores of every variant, by name; image scores by every pooling."""
    model, samples = detector.model_, test_samples(data)
    evaluations: dict[str, Evaluation] = {}
    scores: dict[str, dict[str, list[np.ndarray]]] = {}
    totals: dict[str, list[list[float]]] = {}
    labels = np.array([sample.label for sample in samples])
    for positions, batch in iterate_batches([s.path for s in samples], detector.image_size_, 8):
        chosen = [samples[position] for position in positions]
        size = tuple(batch.shape[-2:])
        masks = torch.stack([_mask(sample.mask_paths, size) for sample in chosen])
        for name, maps in variants(model, batch.float() / 255):
            by_pooling = {p: mean_of_highest(maps, share).numpy() for p, share in POOLINGS.items()}
            for pooling, values in by_pooling.items():
                scores.setdefault(name, {}).setdefault(pooling, []).append(values)
            evaluations.setdefault(name, Evaluation()).update(
                masks.numpy(),
                maps.numpy(),
                labels[list(positions)],
                by_pooling["max"],
                [sample.defect_type for sample in chosen],
            )
            normal, defect = maps[~masks], maps[masks]
            sums = [normal.double().sum().item(), defect.double().sum().item()]
            totals.setdefault(name, []).append([*sums, normal.numel(), defect.numel()])
    rows = {}
    for name, evaluation in evaluations.items():
        found = evaluation.compute()
        normal, defect, normals, defects = np.sum(totals[name], axis=0)
        rows[name] = {score: found[score] for score in SCORES}
        rows[name]["image_auroc_by_pooling"] = {
            pooling: image_metrics(labels, np.concatenate(values))["image_auroc"]
            for pooling, values in scores[name].items()
        }
        rows[name]["normal_over_defect"] = (normal / normals) / (defect / defects)
        rows[name]["per_defect"] = {
            kind: {score: values[score] for score in SCORES}
            for kind, values in found["per_defect"].items()
        }
    return rows


def _mask(paths: tuple[Path, ...], size: tuple[int, int]) -> Tensor:
    if not paths:
        return torch.zeros(size, dtype=torch.bool)
    return resize_masks(read_ground_truth(paths), size)


def _table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    lines = ["| | " + " | ".join(SCORES) + " | " + " | ".join(POOLINGS) + " | normal / defect |"]
    lines.append("|---" * (2 + len(SCORES) + len(POOLINGS)) + "|")
    for name, row in rows.items():
        numbers = [row[score] for score in SCORES]
        numbers += [row["image_auroc_by_pooling"][pooling] for pooling in POOLINGS]
        numbers.append(row["normal_over_defect"])
        lines.append(f"| {name} | " + " | ".join(f"{number:.3f}" for number in numbers) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("detector", help="a file written by fastad train --model rstpm")
    parser.add_argument("data", help="a data set with test images")
    parser.add_argument("--json", type=Path, help="file to write the rows to")
    arguments = parser.parse_args()
    detector = fastad.load(arguments.detector)
    rows = ablation(detector, arguments.data)
    print(_table(rows))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
