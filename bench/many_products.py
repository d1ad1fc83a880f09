"""What `fastad train ROOT --each` costs beside bare trainings of the same products.

    python bench/many_products.py --json bench/results/many_products.json

Many products of few small images, with a model that trains in a moment: the worst case. Three ways
in turn: `Detector.fit` and `save` for each product in one process, `--each` in one process, and
`--each` by two processes of torchrun. Compared are seconds of the processor, of all processes
together with their starts: other work on the machine adds little to them. One thread a process.
`--check` exits with 1 where `--each` takes over 10 % more than the bare trainings.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

LIMIT = 1.10
SIDE = 64  # pixels of the images, and of the detectors
MODEL, OPTIONS = "subspace", {"teacher_weights": "embedded", "smoothing": 1.0}


def make_products(root: Path, products: int, images: int) -> None:
    """Folders of good images: a colour and a coarse pattern of each product, and noise."""
    rng = np.random.default_rng(0)
    for number in range(products):
        folder = root / f"product_{number:03d}"
        folder.mkdir(parents=True)
        colour = rng.integers(60, 180, (8, 8, 3)).repeat(SIDE // 8, 0).repeat(SIDE // 8, 1)
        for i in range(images):
            pixels = colour + rng.integers(-20, 21, (SIDE, SIDE, 3))
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i:02d}.png")


def train_bare(root: Path, output: Path) -> None:
    """What a loop of one's own would do."""
    import fastad

    output.mkdir()
    for folder in sorted(root.iterdir()):
        detector = fastad.Detector(MODEL, image_size=SIDE, device="cpu", **OPTIONS)
        detector.fit(folder)
        detector.save(output / f"{folder.name}.fastad")


def measured(words: list[str], output: Path) -> dict[str, Any]:
    """Seconds of a command, of the processor and of the clock; how many detectors it left."""
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GOMP_SPINCOUNT": "1000"}
    # In the checkout its sources would hide the installed package.
    elsewhere = tempfile.gettempdir()
    subprocess.run([sys.executable, *words], check=True, env=environment, cwd=elsewhere)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    own = [getattr(after, name) - getattr(before, name) for name in ("ru_utime", "ru_stime")]
    trained = len(list(output.glob("*.fastad")))
    shutil.rmtree(output)
    return {"processor_s": sum(own), "clock_s": time.monotonic() - begin, "detectors": trained}


def measure(products: int, images: int) -> dict[str, Any]:
    from ratios import cpu_name

    import fastad

    settings = [f"smoothing={OPTIONS['smoothing']}"]
    with tempfile.TemporaryDirectory() as folder:
        root, output = Path(folder, "root"), Path(folder, "output")
        make_products(root, products, images)
        each = ["-m", "fastad", "train", str(root), "--each", "--output", str(output)]
        each += ["--model", MODEL, "--set", *settings, "--image-size", str(SIDE), "--quiet"]
        each += ["--teacher-weights", OPTIONS["teacher_weights"], "--device", "cpu"]
        torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "0"]
        ways = {
            "bare": measured([__file__, "--bare", str(root), str(output)], output),
            "each": measured(each, output),
            "each, two processes": measured([*torchrun, *each], output),
        }
    bare = ways["bare"]["processor_s"]
    return {
        "cpu": cpu_name(),
        "fastad": fastad.__version__,
        "products": products,
        "images": images,
        "model": MODEL,
        "side": SIDE,
        "ways": ways,
        "of_bare": {name: way["processor_s"] / bare for name, way in ways.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--products", type=int, default=200)
    parser.add_argument("--images", type=int, default=20, help="of each product")
    parser.add_argument("--json", type=Path, help="record")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--bare", nargs=2, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.bare:
        train_bare(*options.bare)
        return
    record = measure(options.products, options.images)
    text = json.dumps(record, indent=1) + "\n"
    print(text)
    if options.json is not None:
        from fastad._files import write_atomically

        write_atomically(options.json, lambda path: path.write_text(text))
    whole = all(way["detectors"] == options.products for way in record["ways"].values())
    missed = not whole or max(record["of_bare"].values()) > LIMIT
    sys.exit(options.check and missed)


if __name__ == "__main__":
    main()
