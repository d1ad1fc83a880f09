"""What an overview of the image costs beside the image alone, in turns.

    python bench/two_scales.py                      ratios of seconds and of memory
    python bench/two_scales.py --size 1024x1536 --tile 512

Models with the embedded teacher and nothing learned, an image of random bytes, precision "auto".
Minimum and median of the rounds. The numbers are those of docs/how-to/large-images.md.
"""

import argparse
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import torch
from large_images import peak_and_seconds

from fastad import models
from fastad.data import parse_size
from fastad.inference import Predictor
from fastad.models import PatchCore, Subspace

FACTORS = (0, 4, 2)


def predictor(name: str, overview: int, size: tuple[int, int], tile: int | None) -> Predictor:
    """A model that looks as long as a trained one."""
    torch.manual_seed(0)
    options: dict[str, Any] = {"subspace": False} if name == "stpm" else {}
    model = models.build(
        name, backbone="resnet18", teacher_weights="embedded", overview=overview, **options
    )
    if isinstance(model, PatchCore):
        for memory in model.memories:
            memory.vectors.normal_()
    if isinstance(model, Subspace):
        for residual in model.residuals:  # as many directions as components leave, about
            width = residual.directions.shape[1]
            residual.directions, residual.offset = (
                torch.randn(width // 3, width),
                torch.randn(width // 3),
            )
    return Predictor(model.eval(), size, tile=tile)


def peak(name: str, overview: int, size: tuple[int, int], tile: int | None) -> float:
    """MiB that the first prediction takes, with the networks' folded weights."""
    torch.set_num_threads(1)
    one = predictor(name, overview, size, tile)
    one.tiling()
    image = torch.randint(0, 256, (1, 3, *size), dtype=torch.uint8)
    return peak_and_seconds(lambda: one.predict_batch(image))[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", default="256", help="pixels of the image (default: 256)")
    parser.add_argument("--tile", type=int, help="predict in such tiles")
    parser.add_argument("--rounds", type=int, default=11)
    arguments = parser.parse_args()
    size = parse_size(arguments.size)
    image = torch.randint(0, 256, (1, 3, *size), dtype=torch.uint8)
    for name in ("stpm", "subspace", "patchcore"):
        made = {f: predictor(name, f, size, arguments.tile) for f in FACTORS}
        seconds: dict[int, list[float]] = {f: [] for f in FACTORS}
        with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as others:
            ways = [(name, factor, size, arguments.tile) for factor in FACTORS]
            peaks = dict(zip(FACTORS, others.map(peak, *zip(*ways, strict=True)), strict=True))
        for one in made.values():
            one.predict_batch(image)
        for _ in range(arguments.rounds):
            for factor, one in made.items():
                start = time.perf_counter()
                one.predict_batch(image)
                seconds[factor].append(time.perf_counter() - start)
        for factor, times in seconds.items():
            least, middle = min(times), statistics.median(times)
            ratios = least / min(seconds[0]), middle / statistics.median(seconds[0])
            tiling = made[factor].tiling()
            seen = "" if tiling is None else f", {tiling.halo:.2f} pixels seen for each one"
            print(
                f"{name} {size[0]}x{size[1]}, tile {arguments.tile}, overview {factor}: "
                f"{1e3 * least:.1f} ms, x {ratios[0]:.2f} (medians x {ratios[1]:.2f}), "
                f"{peaks[factor]:.0f} MiB{seen}",
                flush=True,
            )


if __name__ == "__main__":
    main()
