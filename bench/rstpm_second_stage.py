"""The choices of RSTPM's second stage: its network, its loss, its synthesised defects.

    python bench/rstpm_second_stage.py DETECTOR.fastad DATA [--textures FOLDER] [--json FILE]

The students are those of a trained detector and stay as they are; the discriminative network is
trained anew for every variant, on the same images, held-out halves and seeds as in the detector's
own training. Every variant is validated on the same synthesised defects of held-out images: that is
what a choice is made by. The columns of the test set choose nothing.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import fastad
from fastad import models
from fastad.data import ImageDataset, training_images
from fastad.data import test_samples as samples_of
from fastad.data.folder import iterate_batches
from fastad.data.masks import read_ground_truth, resize_masks
from fastad.data.synthesis import SHAPES, PseudoAnomalies
from fastad.evaluation import image_metrics, pixel_metrics
from fastad.models import RSTPM
from fastad.training import TrainingConfig
from fastad.training.batches import split_indices
from fastad.training.schedule import rate_factor
from fastad.training.stages import StagePlan, plan_stages

# Options of the model, and the defects that it is trained on.
VARIANTS: dict[str, tuple[dict[str, Any], str]] = {
    "default": ({}, "perlin"),
    "gamma 4 + L1": ({"focal_gamma": 4.0, "l1_weight": 1.0}, "perlin"),
    "width 16": ({"discriminator_width": 16}, "perlin"),
    "128x128 (stride 2)": ({"discriminator_stride": 2}, "perlin"),
    "scaled by level": ({"scale_maps": "level"}, "perlin"),
    "perlin, strokes, spots": ({}, "all shapes"),
    "texture folder": ({}, "folder"),
}
# The same with the default's network: what follows it needs no training.
JOINED: dict[str, dict[str, Any]] = {
    "sum of the levels": {"aggregate": "sum"},
    "smoothed (sigma 4)": {"smoothing": 4.0},
    "score: maximum": {"pooling": 0.0},
    "score: highest 1 %": {"pooling": 0.01},
    "without the network": {"discriminator": False},
}

Maps = tuple[list[Tensor], Tensor]  # six distances (N, H_l, W_l), and masks (N, H, W)


@torch.no_grad()
def distances(model: RSTPM, items: Sequence[Mapping[str, Tensor]], batch: int = 8) -> Maps:
    """Of images with their masks."""
    found: list[list[Tensor]] = []
    masks = []
    for start in range(0, len(items), batch):
        chosen = [items[i] for i in range(start, min(start + batch, len(items)))]
        images = torch.stack([item["image"] for item in chosen]).float() / 255
        found.append(model.distances(images.contiguous(memory_format=torch.channels_last)))
        masks.append(torch.stack([item["mask"] for item in chosen]))
    return [torch.cat(maps) for maps in zip(*found, strict=True)], torch.cat(masks)


def as_batch(maps: Maps, indices: Tensor) -> dict[str, Any]:
    """What RSTPM's second stage takes."""
    return {"distances": [d[indices][:, None] for d in maps[0]], "mask": maps[1][indices]}


def train(model: RSTPM, plan: StagePlan, maps: Maps, unseen: Maps) -> None:
    """The second stage on known distances, by the same recipe as the trainer's."""
    config, torch_seed = plan.config, torch.Generator().manual_seed(plan.seed)
    model.enter_stage(plan.stage)
    model.eval().to(memory_format=torch.channels_last)
    with torch.no_grad():
        model.prepare_stage(None, lambda: iter([as_batch(unseen, torch.arange(len(unseen[1])))]))
    model.train()
    optimizer = torch.optim.Adam(
        model.discriminator.parameters(), config.learning_rate, betas=config.betas
    )
    count = len(maps[1])
    steps, done = config.epochs * -(-count // config.batch_size), 0
    for _ in range(config.epochs):
        for indices in torch.randperm(count, generator=torch_seed).split(config.batch_size):
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate * rate_factor(config.schedule, done, steps)
            optimizer.zero_grad()
            sum(model.loss(as_batch(maps, indices)).values()).backward()
            optimizer.step()
            done += 1
    model.eval()


@torch.inference_mode()
def measure(model: RSTPM, maps: Maps) -> dict[str, float]:
    """Scores of what the model makes of these distances."""
    found = model.answer(as_batch(maps, torch.arange(len(maps[1]))))
    labels = maps[1].flatten(1).any(1).numpy()
    pixels = pixel_metrics(maps[1].numpy(), found.anomaly_map.numpy())
    images = image_metrics(labels, found.score.numpy())
    names = ("image_auroc", "image_ap", "pixel_auroc", "pixel_ap", "aupro")
    return {name: (images | pixels)[name] for name in names}


class TestImages(Sequence):
    """Test images with their ground truth."""

    def __init__(self, data: Path, size: tuple[int, int]):
        self.samples = samples_of(data)
        batches = iterate_batches([s.path for s in self.samples], size, 16)
        self.images = torch.cat([batch for _, batch in batches])

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        image, paths = self.images[index], self.samples[index].mask_paths
        if not paths:
            return {"image": image, "mask": torch.zeros(image.shape[1:], dtype=torch.bool)}
        return {"image": image, "mask": resize_masks(read_ground_truth(paths), image.shape[1:])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("detector", help="a file written by fastad train --model rstpm")
    parser.add_argument("data", type=Path, help="the data set that it was trained on")
    parser.add_argument("--items", type=int, help="synthesised images; as in the training")
    parser.add_argument("--textures", help="folder for the variant with a texture folder")
    parser.add_argument("--only", nargs="+", choices=VARIANTS, help="some of the variants")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()

    detector = fastad.load(arguments.detector)
    model, record = detector.model_, detector.training_record_
    config = TrainingConfig(**record["config"])
    if arguments.items is not None:
        config = replace(config, pseudo_anomalies=arguments.items)
    images = ImageDataset(training_images(arguments.data).paths, detector.image_size_)
    split = split_indices(len(images), config.validation_fraction, config.seed)
    plan = plan_stages(model, config, images, *split)[1]
    assert plan.held_out.tolist() == record["held_out"], "the data are not those of the training"

    @cache
    def defects(source: str) -> Maps:
        options: dict[str, Any] = {"shapes": SHAPES} if source == "all shapes" else {}
        if source == "folder":
            options["textures"] = arguments.textures
        chosen = plan.train_set
        return distances(
            model, PseudoAnomalies(images, chosen.indices, seed=chosen.seed, **options)
        )

    clean = PseudoAnomalies(images, plan.unseen.tolist(), clean_share=1.0)
    unseen, validation = distances(model, clean), distances(model, plan.validation_set)
    test = distances(model, TestImages(arguments.data, detector.image_size_))
    rows = {}
    for name, (options, source) in VARIANTS.items():
        if arguments.only and name not in arguments.only:
            continue
        if source == "folder" and arguments.textures is None:
            continue
        torch.manual_seed(plan.seed)
        own = models.build("rstpm", **_options(model) | options)
        train(own, plan, defects(source), unseen)
        trained = own.config
        for title, change in [(name, {}), *(JOINED.items() if name == "default" else ())]:
            own.config = replace(trained, **change)
            row = {"validation": measure(own, validation), "test": measure(own, test)}
            print(title, {k: _rounded(scores) for k, scores in row.items()}, flush=True)
            rows[title] = row
    if arguments.json is not None:
        found = {
            "command": " ".join(["python", *sys.argv]),
            "data": arguments.data.name,
            "items": config.pseudo_anomalies,
            "epochs": plan.config.epochs,
            "seed": config.seed,
            "held_out": len(plan.held_out),
            "variants": rows,
        }
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")


def _rounded(scores: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in scores.items()}


def _options(model: RSTPM) -> dict[str, Any]:
    """The model's options, without its teachers and a subspace of them: the maps are known."""
    names = [field for field in vars(model.config) if field != "student1"]
    options = {name: getattr(model.config, name) for name in names}
    return options | models.without_weights("rstpm") | {"subspace": False}


if __name__ == "__main__":
    main()
