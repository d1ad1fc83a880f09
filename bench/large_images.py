"""Thin scratches on large images: a detector of tiles beside one of squashed images.

    python bench/large_images.py --weights RESNET18.pth --model subspace

Renders plates of 4000x3000 pixels of brushed metal, and scratches 3 pixels wide on some. Trains one
detector at the usual size and one on tiles of half the resolution, and prints image AUROC, AUPRO
and the time of an image. The numbers are those of docs/how-to/large-images.md.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

import fastad

WIDTH, HEIGHT = 4000, 3000
SCRATCH = 3  # pixels wide
COUNTS = {"train/good": 16, "test/good": 12, "test/scratch": 12}


def plate(rng: np.random.Generator) -> Image.Image:
    """Brushed metal under uneven light, with the camera's grain."""
    lines = rng.normal(0, 1, (HEIGHT, WIDTH // 40)).astype(np.float32)
    brushed = np.asarray(Image.fromarray(lines).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))
    light = Image.fromarray(rng.normal(0, 1, (4, 5)).astype(np.float32))
    uneven = np.asarray(light.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))
    grain = rng.normal(0, 2, (HEIGHT, WIDTH)).astype(np.float32)
    levels = 140 + 9 * brushed + 6 * uneven + grain
    return Image.fromarray(np.clip(levels, 0, 255).astype(np.uint8))


def scratched(image: Image.Image, rng: np.random.Generator) -> tuple[Image.Image, Image.Image]:
    """The image with a scratch across the brushing, and its mask."""
    length, angle = rng.uniform(120, 400), rng.uniform(0.25, 0.75) * np.pi
    start = rng.uniform((450, 450), (WIDTH - 450, HEIGHT - 450))
    end = start + length * np.array([np.cos(angle), np.sin(angle)])
    mask = Image.new("L", image.size)
    ImageDraw.Draw(mask).line([*start, *end], 255, SCRATCH)
    shade = Image.new("L", image.size, int(rng.choice([90, 190])))
    soft = mask.filter(ImageFilter.GaussianBlur(0.7)).point(lambda level: int(0.7 * level))
    return Image.composite(shade, image, soft), mask


def write_plates(folder: Path, seed: int) -> None:
    """The data set in MVTec layout."""
    for part, (name, count) in enumerate(COUNTS.items()):
        place, masks = folder / name, folder / "ground_truth" / "scratch"
        place.mkdir(parents=True, exist_ok=True)
        masks.mkdir(parents=True, exist_ok=True)
        for number in range(count):
            rng = np.random.default_rng([seed, part, number])
            image = plate(rng)
            if name.endswith("scratch"):
                image, mask = scratched(image, rng)
                mask.save(masks / f"{number:03}_mask.png")
            image.save(place / f"{number:03}.png", compress_level=1)


def measure(folder: Path, model: str, weights: str, **how: Any) -> None:
    """Train one detector, and print how it does."""
    tile = how.pop("tile", None)
    detector = fastad.Detector(
        model, device="cpu", backbone="resnet18", teacher_weights=weights, **how
    )
    start = time.perf_counter()
    detector.fit(folder / "train" / "good", tile=tile)
    minutes = (time.perf_counter() - start) / 60
    paths = sorted((folder / "test" / "good").iterdir())[:4]
    start = time.perf_counter()
    detector.predict(paths)
    seconds = (time.perf_counter() - start) / len(paths)
    found = detector.evaluate(folder)
    height, width = detector.image_size_
    print(
        f"{model} at {height}x{width}, tile {tile}: image AUROC {found['image_auroc']:.3f}, "
        f"pixel AUROC {found['pixel_auroc']:.3f}, AUPRO {found['aupro']:.3f}, "
        f"trained in {minutes:.1f} min, {seconds:.2f} s an image with its reading",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--weights", default="auto", help="of ResNet-18 (default: auto)")
    parser.add_argument("--model", default="patchcore", choices=["patchcore", "subspace", "stpm"])
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_plates(folder, arguments.seed)
        model, weights = arguments.model, arguments.weights
        measure(folder, model, weights, image_size="auto")
        half = (HEIGHT // 2, WIDTH // 2)
        measure(folder, model, weights, image_size=half, tile=500)


if __name__ == "__main__":
    main()
