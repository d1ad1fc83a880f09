"""What the tests predict and evaluate, and in one process."""

import numpy as np
import pytest
from PIL import Image

from fastad import cli

BATCH = ["--batch-size", "3", "--precision", "float32", "--device", "cpu"]


def write(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def make_desk(root):
    """A product of 32x32 pixels with 14 test images, its detector, and a file that is no image."""
    rng = np.random.default_rng(0)

    def noise():
        return rng.integers(80, 120, (32, 32, 3), dtype=np.uint8)

    for i in range(10):
        write(root / f"cap/train/good/{i}.png", noise())
    for i in range(7):
        write(root / f"cap/test/good/{i}.png", noise())
        pixels, mask = noise(), np.zeros((32, 32), np.uint8)
        pixels[4:20, 10:24], mask[4:20, 10:24] = (250, 10, 10), 255
        write(root / f"cap/test/hole/{i}.png", pixels)
        write(root / f"cap/ground_truth/hole/{i}_mask.png", mask)
    (root / "cap/test/good/5.png").write_text("no image")
    options = ["--model", "subspace", "--set", "smoothing=1", "--teacher-weights", "embedded"]
    options += ["--image-size", "32", "--quiet", "--output", str(root / "cap.fastad")]
    with pytest.raises(SystemExit) as stop:
        cli.main(["train", str(root / "cap"), *options])
    assert stop.value.code == 0


def alone(*arguments):
    with pytest.raises(SystemExit) as stop:
        cli.main([str(a) for a in arguments])
    return stop.value.code


def prediction(desk, folder):
    """The command, with pictures, and the table of regions."""
    folder.mkdir(exist_ok=True)
    return [
        *("predict", desk / "cap.fastad", desk / "cap/test", "--output", folder / "out"),
        *("--heatmaps", "--masks", "--regions", folder / "regions.csv", "--json"),
        *(folder / "scores.json", "--skip-bad", "--quiet", *BATCH),
    ]


def files(folder):
    """Contents of all files of a folder; what names it must not differ."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
