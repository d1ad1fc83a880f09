"""Does anomalib's STFPM lose accuracy by its loss and its weight decay?

Its loss sums over the batch, where the authors' code averages with a factor of 2: 16 times as much
at a batch of 32, at the same learning rate of 0.4. Its weight decay is 1e-3, theirs 1e-4. Here one
loop trains the same student from the same start four times, by either loss with either decay.

    python bench/anomalib_recipe.py --data FOLDER --json recipe.json

FOLDER holds mvtec_ad/bottle and weights. Everything else is anomalib's and the authors' alike:
ResNet-18, three layers, SGD with momentum 0.9, batches of 32, no augmentation. A fifth of the good
images is held out. The mean of their maps chooses the epoch, as in the authors' code; anomalib
keeps the last one. Both are measured on the test images, which choose nothing. Features of the
teacher are computed once. Students are trained in bfloat16 where the processor multiplies in it,
and measured in float32.
"""

import argparse
import copy
import json
import math
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fastad import backbones, ops
from fastad._files import write_atomically
from fastad.backbones.base import IMAGENET_MEAN, IMAGENET_STD
from fastad.data import Sample, find_images, read_image, resize, test_samples
from fastad.evaluation import evaluate
from fastad.training.precision import cpu_multiplies_in

BATCH = 32
RECIPES = {  # factor of the mean over a batch of n, weight decay
    "authors": (lambda n: 2.0, 1e-4),
    "anomalib": (lambda n: float(n), 1e-3),
    "sum over the batch": (lambda n: float(n), 1e-4),
    "weight decay 1e-3": (lambda n: 2.0, 1e-3),
}


def main() -> None:
    """Train by each recipe, measure, print, and write the record after each."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--set", default="mvtec_ad/bottle", help="folder in it")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--size", type=int, default=256, help="pixels a side")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--json", type=Path, help="write the record here")
    given = parser.parse_args()
    torch.set_num_threads(1)
    folder, size = given.data / given.set, (given.size, given.size)
    samples = test_samples(folder)
    paths = find_images(folder / "train/good")
    good = normalized(torch.stack([resize(read_image(path), size) for path in paths]))
    teacher = backbones.build("resnet18", weights=given.data / "weights").eval()
    with torch.no_grad():
        known = [teacher(batch) for batch in good.split(BATCH)]
    features = [torch.cat(level) for level in zip(*known, strict=True)]
    record: dict[str, Any] = {
        "set": given.set,
        "epochs": given.epochs,
        "size": given.size,
        "processor": platform.machine(),
        "torch": torch.__version__,
        "trained_in": "bfloat16" if cpu_multiplies_in(torch.bfloat16) else "float32",
        "runs": [],
    }
    for seed in given.seeds:
        torch.manual_seed(seed)
        start = backbones.build("resnet18")
        order = torch.randperm(len(good))
        train, held_out = order[len(good) // 5 :], order[: len(good) // 5]
        for name, (factor, decay) in RECIPES.items():
            began = time.monotonic()
            kept = trained(
                copy.deepcopy(start),
                (good, features),
                train,
                held_out,
                factor,
                decay,
                given.epochs,
                seed,
            )
            run = {"recipe": name, "seed": seed, "seconds": time.monotonic() - began}
            for which, (epoch, student) in kept.items():
                run[which] = {"epoch": epoch, **measured(teacher, student, samples, size)}
            record["runs"].append(run)
            print(json.dumps(run), flush=True)
            if given.json:
                text = json.dumps(record, indent=1) + "\n"
                write_atomically(given.json, lambda path, text=text: path.write_text(text))


def normalized(images: Tensor) -> Tensor:
    """uint8 (N, 3, H, W) -> of ImageNet's mean and deviation."""
    mean, std = (torch.tensor(v)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
    return (images.float() / 255 - mean) / std


def trained(
    student: nn.Module,
    data: tuple[Tensor, list[Tensor]],
    train: Tensor,
    held_out: Tensor,
    factor: Callable[[int], float],
    decay: float,
    epochs: int,
    seed: int,
) -> dict[str, tuple[int, nn.Module]]:
    """The "last" student, and the one "chosen" by the held-out images, with their epochs."""
    images, features = data
    half = cpu_multiplies_in(torch.bfloat16)
    student = student.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.4, momentum=0.9, weight_decay=decay)
    draw = torch.Generator().manual_seed(seed)
    lowest, chosen = math.inf, (0, student)
    for epoch in range(1, epochs + 1):
        student.train()
        for batch in train[torch.randperm(len(train), generator=draw)].split(BATCH):
            known = [level[batch] for level in features]
            pixels = images[batch].contiguous(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16, half):
                found = [level.float() for level in student(pixels)]
            loss = factor(len(batch)) * ops.distillation_loss(known, found)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        student.eval()
        with torch.no_grad():
            known = [level[held_out] for level in features]
            size = (images.shape[-2], images.shape[-1])
            error = float(ops.anomaly_map(known, student(images[held_out]), size).mean())
        if error < lowest:
            lowest, chosen = error, (epoch, copy.deepcopy(student))
    return {"last": (epochs, student), "chosen": chosen}


def measured(
    teacher: nn.Module, student: nn.Module, samples: list[Sample], size: tuple[int, int]
) -> dict[str, float]:
    """AUROC of images and pixels, and AUPRO, on the test images."""

    @torch.no_grad()
    def predict(images: Tensor) -> tuple[np.ndarray, np.ndarray]:
        batch = normalized(images)
        maps, score = ops.anomaly_map(teacher(batch), student(batch), size, return_maximum=True)
        return score.numpy(), maps.numpy()

    metrics = evaluate(predict, samples, size, batch_size=BATCH)
    return {name: round(metrics[name], 4) for name in ("image_auroc", "pixel_auroc", "aupro")}


if __name__ == "__main__":
    main()
