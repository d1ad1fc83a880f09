"""Thin scratches on large images: a detector of tiles beside one of squashed images.

    python bench/large_images.py --weights RESNET18.pth --model subspace
    python bench/large_images.py --data kolektor_sdd/commutator --image-size 1280x512 --tile 256
    python bench/large_images.py --model subspace --overview 4
    python bench/large_images.py --tiler 2048x3072

Renders plates of 4000x3000 pixels of brushed metal, and scratches 3 pixels wide on some, or takes a
folder in MVTec layout. Trains one detector at the usual size and one on tiles of half the
resolution, and prints image AUROC, AUPRO and the time of an image.

With ``--overview`` the plates have holes, and on some of them one is missing. Three detectors are
compared: one at the usual size, one on tiles, and one on tiles with an overview. The image AUROC of
each kind of defect is printed.

With ``--tiler`` nothing is trained. The tiles of one image go through STPM as anomalib's tiler cuts
and joins them, whose operations stand here in plain PyTorch, and as ours do. Time, memory and the
error of the map are printed. The numbers are those of docs/how-to/large-images.md.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFilter
from torch import Tensor

import fastad
from fastad import models
from fastad.data import parse_size
from fastad.inference import Predictor

WIDTH, HEIGHT = 4000, 3000
SCRATCH = 3  # pixels wide
COUNTS = {"train/good": 16, "test/good": 12, "test/scratch": 12}
HOLE = 130  # pixels across
PITCH = 500  # from hole to hole


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


def drilled(
    image: Image.Image, rng: np.random.Generator, *, misses: bool
) -> tuple[Image.Image, Image.Image]:
    """The plate with rows of holes, of which it misses one or none, and the mask of that."""
    centres = [
        (x, y) for y in range(PITCH // 2, HEIGHT, PITCH) for x in range(PITCH // 2, WIDTH, PITCH)
    ]
    inner = [
        i
        for i, (x, y) in enumerate(centres)
        if PITCH < x < WIDTH - PITCH and PITCH < y < HEIGHT - PITCH
    ]
    missing = int(rng.choice(inner)) if misses else None
    offset = rng.uniform(-40, 40, 2)  # the part lies a little elsewhere each time
    holes, mask = Image.new("L", image.size), Image.new("L", image.size)
    for index, centre in enumerate(centres):
        middle = centre + offset + rng.uniform(-4, 4, 2)
        box = [*(middle - HOLE / 2), *(middle + HOLE / 2)]
        ImageDraw.Draw(mask if index == missing else holes).ellipse(box, 255)
    dark = Image.new("L", image.size, 40)
    return Image.composite(dark, image, holes.filter(ImageFilter.GaussianBlur(1.5))), mask


def write_plates(folder: Path, seed: int, *, holes: bool = False) -> None:
    """The data set in MVTec layout."""
    counts = COUNTS | ({"test/missing": 12} if holes else {})
    for part, (name, count) in enumerate(counts.items()):
        place, masks = folder / name, folder / "ground_truth" / Path(name).name
        place.mkdir(parents=True, exist_ok=True)
        masks.mkdir(parents=True, exist_ok=True)
        for number in range(count):
            rng = np.random.default_rng([seed, part, number])
            image, mask = plate(rng), None
            if holes:
                image, mask = drilled(image, rng, misses=name.endswith("missing"))
            if name.endswith("scratch"):
                image, mask = scratched(image, rng)
            if mask is not None and not name.endswith("good"):
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
    scales = f", overview {detector.overview}" if how.get("overview") else ""
    print(
        f"{model} at {height}x{width}, tile {tile}{scales}: "
        f"image AUROC {found['image_auroc']:.3f}, pixel AUROC {found['pixel_auroc']:.3f}, "
        f"AUPRO {found['aupro']:.3f}, trained in {minutes:.1f} min, "
        f"{seconds:.2f} s an image with its reading",
        flush=True,
    )
    for kind, own in found["per_defect"].items():
        print(f"  {kind}: image AUROC {own['image_auroc']:.3f}, AUPRO {own['aupro']:.3f}")


def cut(images: Tensor, tile: int, stride: int) -> Tensor:
    """(1, C, H, W) -> (tiles, C, tile, tile). The image gets zeros, so that tiles fit."""
    more = [-(-max(side - tile, 0) // stride) * stride + tile - side for side in images.shape[-2:]]
    padded = F.pad(images, (0, more[1], 0, more[0]))
    tiles = padded.unfold(2, tile, stride).unfold(3, tile, stride)
    return tiles.permute(2, 3, 0, 1, 4, 5).flatten(0, 2).contiguous()


def joined(tiles: Tensor, size: tuple[int, int], stride: int) -> Tensor:
    """(tiles, h, w) -> (1, *size): where tiles overlap, their mean."""
    side = tiles.shape[-1]
    fits = tuple(-(-max(length - side, 0) // stride) * stride + side for length in size)
    columns = tiles.flatten(1).T[None]
    total = F.fold(columns, fits, side, stride=stride)
    count = F.fold(torch.ones_like(columns), fits, side, stride=stride)
    return (total / count)[:, 0, : size[0], : size[1]]


def peak_and_seconds(run: Callable[[], Any]) -> tuple[float, float, Any]:
    """The peak of the memory above that before, in MiB, the seconds, and the result."""
    before = _mebibytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    start = time.perf_counter()
    result = run()
    return _mebibytes("VmHWM") - before, time.perf_counter() - start, result


def _mebibytes(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024


def race(size: tuple[int, int], tile: int) -> None:
    """Print how anomalib's tiles and ours do on one image, with the same networks."""
    model = models.build("stpm", backbone="resnet18", teacher_weights="embedded", subspace=False)
    strides = 4, 8, 16
    plain = Predictor(model, size, tile=tile, precision="float32", fused=False)
    fused = Predictor(model, size, tile=tile, precision="float32")
    image = torch.randint(0, 256, (1, 3, *size), dtype=torch.uint8)

    @torch.inference_mode()
    def tiler(stride: int) -> np.ndarray:
        tiles = cut(image.float() / 255, tile, stride)  # all at once, as a batch
        levels = model.local_evidence({"image": tiles}).maps
        maps = [
            joined(level, (-(-size[0] // s), -(-size[1] // s)), stride // s)
            for level, s in zip(levels, strides, strict=True)
        ]
        return fastad.ops.aggregate_maps(maps, size).numpy()

    def ours(predictor: Predictor) -> Callable[[], np.ndarray]:
        return lambda: predictor.start(image, None, predictor.tiling())().anomaly_map

    def whole() -> np.ndarray:
        with torch.inference_mode():
            return model(image.float() / 255).anomaly_map.numpy()

    ways: dict[str, Callable[[], np.ndarray]] = {
        "whole image": whole,
        "anomalib's tiler, stride of a tile": lambda: tiler(tile),
        "anomalib's tiler, stride of half a tile": lambda: tiler(tile // 2),
        "tiles with a halo": ours(plain),
        "tiles with a halo, fused": ours(fused),
    }
    seen: dict[str, list[tuple[float, float, float]]] = {name: [] for name in ways}
    ours(fused)()
    for _ in range(3):
        expected = None
        for name, run in ways.items():
            peak, seconds, found = peak_and_seconds(run)
            expected = found if expected is None else expected
            error = float(np.abs(found - expected).max() / expected.max())
            seen[name].append((seconds, peak, error))
    print(f"{size[0]}x{size[1]}, tiles of {tile}, {torch.get_num_threads()} threads")
    for name, rows in seen.items():
        times, peaks, errors = zip(*rows, strict=True)
        seconds, peak, error = min(times), max(peaks), max(errors)  # memory may be at hand already
        print(f"{name}: {seconds:.2f} s, {peak:.0f} MiB, error of the map {error:.1e}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--weights", default="auto", help="of ResNet-18 (default: auto)")
    parser.add_argument("--model", default="patchcore", choices=["patchcore", "subspace", "stpm"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", help="folder in MVTec layout (default: rendered plates)")
    parser.add_argument(
        "--image-size",
        default=f"{HEIGHT // 2}x{WIDTH // 2}",
        help="with tiles (default: half; with --overview 1536x2048, which all strides divide)",
    )
    parser.add_argument("--tile", type=int, default=500)
    parser.add_argument("--overview", type=int, default=0, help="compare two scales, too: 2 or 4")
    parser.add_argument("--tiler", metavar="SIZE", help="race anomalib's tiler on such an image")
    arguments = parser.parse_args()
    if arguments.tiler is not None:
        race(parse_size(arguments.tiler), 512)
        return
    if arguments.overview and arguments.image_size == parser.get_default("image_size"):
        arguments.image_size, arguments.tile = "1536x2048", 512
    with tempfile.TemporaryDirectory() as name:
        folder = Path(arguments.data or name)
        if arguments.data is None:
            write_plates(folder, arguments.seed, holes=arguments.overview > 0)
        model, weights = arguments.model, arguments.weights
        measure(folder, model, weights, image_size="auto")
        size = parse_size(arguments.image_size)
        measure(folder, model, weights, image_size=size, tile=arguments.tile)
        if arguments.overview:
            how = {"tile": arguments.tile, "overview": arguments.overview}
            measure(folder, model, weights, image_size=size, **how)


if __name__ == "__main__":
    main()
