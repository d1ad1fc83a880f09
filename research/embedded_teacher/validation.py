"""How good a trunk is as a teacher, on generated products that its pretraining never sees.

    python -m research.embedded_teacher.validation FILE [--stpm] [--json FILE]

FILE is a weight file, or "random" for an untrained trunk. Pretrainings are chosen by this, never by
a test set of photographs. The nearest-neighbour detector is that of the photographs with a smaller
memory. STPM needs a training to its end to tell teachers apart (after 60 steps it put ImageNet's
teacher behind those that it is ahead of after 200), so that it gets fewer and smaller images, of a
product that is quiet enough for a student to learn: flanges as in `fastad demo`, of other seeds.
"""

import argparse
import copy
import functools
import json
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import fastad
from fastad import backbones
from fastad._files import write_atomically
from fastad.data import resize, resize_masks
from fastad.data.rendered.products import plan_dataset, render
from fastad.evaluation import image_auroc, pixel_auroc
from research.embedded_teacher.nearest_neighbour import NearestNeighbour
from research.embedded_teacher.products import NAMES, ProductSet, product_set

LAYERS = ("layer1", "layer2", "layer3")
SCORES = ("image_auroc", "pixel_auroc")
SIZE = 224  # of the images for the nearest-neighbour detector
MEMORY = 5_000  # of the 31,360 places that 40 images have
STPM_SIZE = 128
STPM_PRODUCT, STPM_SEEDS = "flange", (1, 2, 3, 4)  # 0 is the demo's own
STPM_TRAINING = {
    "epochs": 25,  # 250 steps with 48 images, a fifth held out
    "batch_size": 4,
    "optimizer": "adam",
    "learning_rate": 5e-3,
    "schedule": "cosine",
}

# Learns from good images (N, 3, H, W) uint8; what it gives turns images into scores and maps.
Fit = Callable[[Tensor], Callable[[Tensor], tuple[np.ndarray, np.ndarray]]]


class Deepest(nn.Module):
    """The last two of a backbone's feature maps, which the nearest-neighbour detector compares."""

    def __init__(self, backbone: nn.Module):
        super().__init__()
        self.backbone = backbone

    def forward(self, images: Tensor) -> list[Tensor]:
        return self.backbone(images)[-2:]


def stpm_sets() -> Iterator[ProductSet]:
    """The products on which STPM is trained, one after the other."""
    for seed in STPM_SEEDS:
        items = plan_dataset(STPM_PRODUCT, seed=seed)
        drawn = [render(STPM_PRODUCT, item.defect, item.seed) for item in items]
        learnt = sum(item.path.parts[0] == "train" for item in items)
        images, masks = (np.stack(part) for part in zip(*drawn, strict=True))
        name = f"{STPM_PRODUCT}, seed {seed}"
        yield ProductSet(name, images[:learnt], images[learnt:], masks[learnt:])


def validate(
    trunk: nn.Module,
    sets: Iterable[Any],
    stpm_sets: Iterable[Any] = (),
    standardize: str = "channels",
) -> dict[str, Any]:
    """Scores of detectors with a ResNet-18 trunk as their teacher; the trunk is not changed.

    trunk: returns the feature maps of layer1, layer2 and layer3, on the CPU. sets: each a
    `ProductSet`, for nearest neighbours; stpm_sets: for STPM, of whose options ``standardize`` is
    one. They may be generated one after the
    other. Returns for "nearest_neighbour" and "stpm", without one that has no sets, the keys of
    `SCORES`, their means over the products, "seconds", and "products": {name: its scores}.
    """
    trunk = copy.deepcopy(trunk).requires_grad_(False).eval()
    result: dict[str, Any] = {}
    for name, of, size, fit in (
        ("nearest_neighbour", sets, SIZE, _nearest_neighbour),
        ("stpm", stpm_sets, STPM_SIZE, functools.partial(_stpm, standardize)),
    ):
        start = time.perf_counter()
        rows = {p.name: _measure(functools.partial(fit, trunk), p, size) for p in of}
        if rows:
            result[name] = {
                score: float(np.mean([row[score] for row in rows.values()])) for score in SCORES
            }
            result[name] |= {"products": rows, "seconds": time.perf_counter() - start}
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


def _stpm(standardize: str, trunk: nn.Module, images: Tensor) -> Callable:
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
        standardize=standardize,
    )
    detector.fit(images, **STPM_TRAINING)

    def predict(images: Tensor) -> tuple[np.ndarray, np.ndarray]:
        result = detector.predict(images)
        return result.score, result.anomaly_map

    return predict


def table(result: dict[str, Any]) -> str:
    """Markdown: for every detector a row a product, image / pixel AUROC."""
    lines = []
    for name, found in result.items():
        lines += [f"| {name} | image / pixel AUROC |", "|---|---|"]
        for product, scores in [*found["products"].items(), ("mean", found)]:
            lines.append(f"| {product} | {' / '.join(f'{scores[key]:.4f}' for key in SCORES)} |")
        lines.append("")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("weights", help='a weight file, or "random"')
    parser.add_argument("--stpm", action="store_true", help="train STPM, too")
    parser.add_argument(
        "--standardize", choices=("channels", "none"), default="channels", help="of STPM"
    )
    parser.add_argument("--seed", type=int, default=0, help="of an untrained trunk")
    parser.add_argument("--products", type=int, default=len(NAMES), help="how many; the first")
    parser.add_argument("--json", type=Path, help="file to write the scores to")
    options = parser.parse_args(arguments)
    torch.manual_seed(options.seed)
    trunk = backbones.build("resnet18", LAYERS, options.weights)
    sets = map(product_set, range(options.products))
    result = validate(trunk, sets, stpm_sets() if options.stpm else (), options.standardize)
    print(table(result))
    print(", ".join(f"{name}: {found['seconds']:.0f} s" for name, found in result.items()))
    if options.json is not None:
        text = json.dumps(result, indent=1) + "\n"
        write_atomically(options.json, lambda path: path.write_text(text, encoding="utf-8"))


if __name__ == "__main__":
    main()
