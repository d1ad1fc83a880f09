"""Small test images with hostile names, a stand-in for a detector, and the report on them."""

from pathlib import Path

import numpy as np
from PIL import Image

from fastad.data import test_samples as labelled
from fastad.evaluation import evaluate
from fastad.evaluation.report.report import Report

HOSTILE = "<img src=x onerror=\"document.title='broken'\"> & 'more'"
THRESHOLD, PIXEL_THRESHOLD = 0.5, 0.45


def brightness(images):
    """Scores the brightest pixel; the map is the image at half the size."""
    maps = images[:, 0].float().numpy()[:, ::2, ::2] / 255
    return maps.max(axis=(1, 2)), maps


def write(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def write_images(root: Path, size: tuple[int, int] = (32, 48)) -> None:
    """Six good images, one of them bright; eight defects of two types, two of them dark."""
    rng = np.random.default_rng(0)
    for i in range(6):
        pixels = rng.integers(30, 60 + 5 * i, size, dtype=np.uint8)
        pixels[:2, :2] = 200 if i == 3 else 60
        write(root / f"test/good/{i}.png", pixels)
    for i in range(8):
        kind = ("hole", HOSTILE)[i % 2]
        name = f"{i} {HOSTILE}" if i == 5 else str(i)
        pixels, mask = rng.integers(30, 60, size, dtype=np.uint8), np.zeros(size, np.uint8)
        mask[6 : 12 + i, 20:30] = 255
        pixels[mask > 0] = 100 if i in (2, 5) else 150 + 10 * i
        write(root / "test" / kind / f"{name}.png", pixels)
        write(root / "ground_truth" / kind / f"{name}_mask.png", mask)


def observed(root: Path, **changes) -> tuple[Report, dict]:
    """A report that has seen the images, and the metrics."""
    options = {
        "threshold": THRESHOLD,
        "pixel_threshold": PIXEL_THRESHOLD,
        "calibration": np.linspace(0.1, 0.5, 19),
        "false_positive_rate": 0.05,
    } | changes
    report = Report(**options)
    metrics = evaluate(
        brightness,
        labelled(root),
        (32, 48),
        threshold=options["threshold"],
        observe=report.observe,
        batch_size=5,
    )
    return report, metrics
