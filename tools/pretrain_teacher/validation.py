"""How good a trunk is as a teacher, on generated products that its pretraining never sees.

    python -m tools.pretrain_teacher.validation FILE [--stpm] [--json FILE]

FILE is a weight file, or "random" for an untrained trunk. Pretrainings are chosen by this, never by
a test set of photographs. The nearest-neighbour detector is that of the photographs with a smaller
memory; STPM is trained on smaller images and for fewer steps than there: its numbers compare trunks
and say nothing by themselves.
"""

import argparse
import copy
import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import fastad
from fastad import backbones
from fastad._files import write_atomically
from fastad.data import resize, resize_masks
from fastad.evaluation import image_auroc, pixel_auroc
from tools.pretrain_teacher.nearest_neighbour import NearestNeighbour

LAYERS = ("layer1", "layer2", "layer3")
SCORES = ("image_auroc", "pixel_auroc")
SIZE = 224  # of the images for the nearest-neighbour detector
MEMORY = 5_000  # of the 31,360 places that 40 images have
STPM_SIZE = 128
STPM_TRAINING = {"epochs": 15, "batch_size": 8}  # 60 steps with 40 images, a fifth held out

# Learns from good images (N, 3, H, W) uint8; what it gives turns images into scores and maps.
Fit = Callable[[Tensor], Callable[[Tensor], tuple[np.ndarray, np.ndarray]]]


class Deepest(nn.Module):
    """The last two of a backbone's feature maps, which the nearest-neighbour detector compares."""

    def __init__(self, backbone: nn.Module):
        super().__init__()
        self.backbone = backbone

    def forward(self, images: Tensor) -> list[Tensor]:
        return self.backbone(images)[-2:]


def validate(trunk: nn.Module, sets: Iterable[Any], stpm: bool = False) -> dict[str, Any]:
    """Scores of detectors with a ResNet-18 trunk as their teacher; the trunk is not changed.

    trunk: returns the feature maps of layer1, layer2 and layer3, on the CPU. sets: each a
    `ProductSet`; they may be generated one after the other. Returns for "nearest_neighbour", and
    with ``stpm`` for "stpm", the keys of `SCORES`, their means over the products, "seconds", and
    "products": {name: the scores of this one}.
    """
    trunk = copy.deepcopy(trunk).requires_grad_(False).eval()
    detectors = {"nearest_neighbour": (SIZE, lambda images: _nearest_neighbour(trunk, images))}
    if stpm:
        detectors["stpm"] = (STPM_SIZE, lambda images: _stpm(trunk, images))
    result: dict[str, Any] = {name: {"products": {}, "seconds": 0.0} for name in detectors}
    for product in sets:
        for name, (size, fit) in detectors.items():
            start = time.perf_counter()
            result[name]["products"][product.name] = _measure(fit, product, size)
            result[name]["seconds"] += time.perf_counter() - start
    for found in result.values():
        rows = found["products"].values()
        found |= {score: float(np.mean([row[score] for row in rows])) for score in SCORES}
    return result


def _measure(fit: Fit, product: Any, size: int) -> dict[str, float]:
    train, test = (
        resize(torch.from_numpy(images).permute(0, 3, 1, 2), (size, size))
        for images in (product.train, product.test)
    )
    masks = torch.from_numpy(product.masks)
    scores, maps = fit(train)(test)
    return {
        "image_auroc": image_auroc(masks.flatten(1).any(1).numpy(), scores),
        "pixel_auroc": pixel_auroc(resize_masks(masks, (size, size)).numpy(), maps),
    }


def _nearest_neighbour(trunk: nn.Module, images: Tensor) -> Callable:
    detector = NearestNeighbour(Deepest(trunk), MEMORY).fit(images)

    def predict(images: Tensor) -> tuple[np.ndarray, np.ndarray]:
        maps = detector.predict(images)
        return maps.amax((1, 2)).numpy(), maps.numpy()

    return predict


def _stpm(trunk: nn.Module, images: Tensor) -> Callable:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # every trunk gets the same student
        student = backbones.build("resnet18", LAYERS)
    detector = fastad.Detector(
        "stpm",
        image_size=images.shape[-1],
        device="cpu",
        precision="float32",
        false_positive_rate=0.5,  # eight held-out images bear no lower one; it is not used
        backbone=copy.deepcopy(trunk),
        student=student,
    )
    detector.fit(images, **STPM_TRAINING)

    def predict(images: Tensor) -> tuple[np.ndarray, np.ndarray]:
        result = detector.predict(images)
        return result.score, result.anomaly_map

    return predict


def table(result: dict[str, Any]) -> str:
    """Markdown: a row a product, image / pixel AUROC of every detector."""
    names = list(result)
    products = result[names[0]]["products"]
    rows = {product: [result[name]["products"][product] for name in names] for product in products}
    rows["mean"] = [result[name] for name in names]
    lines = [f"| image / pixel AUROC | {' | '.join(names)} |", "|---" * (1 + len(names)) + "|"]
    for product, found in rows.items():
        cells = [" / ".join(f"{scores[score]:.4f}" for score in SCORES) for scores in found]
        lines.append(f"| {product} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    from tools.pretrain_teacher.products import NAMES, product_set

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("weights", help='a weight file, or "random"')
    parser.add_argument("--stpm", action="store_true", help="train STPM on every product, too")
    parser.add_argument("--seed", type=int, default=0, help="of an untrained trunk")
    parser.add_argument("--products", type=int, default=len(NAMES), help="how many; the first")
    parser.add_argument("--json", type=Path, help="file to write the scores to")
    options = parser.parse_args(arguments)
    torch.manual_seed(options.seed)
    trunk = backbones.build("resnet18", LAYERS, options.weights)
    result = validate(trunk, map(product_set, range(options.products)), options.stpm)
    print(table(result))
    print(", ".join(f"{name}: {found['seconds']:.0f} s" for name, found in result.items()))
    if options.json is not None:
        text = json.dumps(result, indent=1) + "\n"
        write_atomically(options.json, lambda path: path.write_text(text, encoding="utf-8"))


if __name__ == "__main__":
    main()
