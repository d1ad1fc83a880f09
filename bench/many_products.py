"""What `fastad train ROOT --each` costs beside bare trainings of the same products.

    python bench/many_products.py --json bench/results/many_products.json
    python bench/many_products.py --json RECORD --ways bare each      some ways of a record

Many products of few small images, with a model that trains in a moment: the worst case. Four ways:
`Detector.fit` and `save` for each product in a loop, `--each`, and either by two processes at once.
`--each` is compared with the loops of as many processes: two trainings at once share caches and
memory, and each process imports torch once, with fastad's command or without it. What is left is
torchrun's agent, the claims, the rows, the page and the wait for the last product.

Compared are seconds of the processor, of all processes together with their starts: other work on
the machine adds little to them. One thread a process. A way that the record has of the same machine
and version is not measured again. `--check` exits with 1 where `--each` takes over 10 % more.
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
TWO = ", two processes"
BARE, EACH = "bare", "each"
WAYS = (BARE, EACH, BARE + TWO, EACH + TWO)


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


def train_bare(root: Path, output: Path, first: int, step: int) -> None:
    """What a loop of one's own would do, on every so many-th product."""
    import fastad

    output.mkdir(exist_ok=True)
    for folder in sorted(root.iterdir())[first::step]:
        detector = fastad.Detector(MODEL, image_size=SIDE, device="cpu", **OPTIONS)
        detector.fit(folder)
        detector.save(output / f"{folder.name}.fastad")


def commands(way: str, root: Path, output: Path) -> list[list[str]]:
    """What runs at once."""
    if way.startswith(BARE):
        count = 2 if way.endswith(TWO) else 1
        return [
            [__file__, "--bare", str(root), str(output), str(i), str(count)] for i in range(count)
        ]
    each = ["-m", "fastad", "train", str(root), "--each", "--output", str(output)]
    each += ["--model", MODEL, "--set", f"smoothing={OPTIONS['smoothing']}", "--quiet"]
    each += ["--image-size", str(SIDE), "--teacher-weights", str(OPTIONS["teacher_weights"])]
    each += ["--device", "cpu"]
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "0"]
    return [[*torchrun, *each] if way.endswith(TWO) else each]


def measured(way: str, root: Path, output: Path) -> dict[str, Any]:
    """Seconds of a way, of the processor and of the clock; how many detectors it left."""
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GOMP_SPINCOUNT": "1000"}
    # In the checkout its sources would hide the installed package.
    elsewhere = tempfile.gettempdir()
    started = [
        subprocess.Popen([sys.executable, *words], env=environment, cwd=elsewhere)
        for words in commands(way, root, output)
    ]
    codes = [process.wait() for process in started]
    seconds = time.monotonic() - begin
    if any(codes):
        raise RuntimeError(f"{way} ended with {codes}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    own = [getattr(after, name) - getattr(before, name) for name in ("ru_utime", "ru_stime")]
    trained = len(list(output.glob("*.fastad")))
    shutil.rmtree(output)
    return {
        "processor_s": round(sum(own), 2),
        "clock_s": round(seconds, 2),
        "detectors": trained,
    }


def of_bare(ways: dict[str, dict[str, Any]]) -> dict[str, float]:
    """How many times the seconds of as many bare processes `--each` takes."""
    return {
        EACH + kind: ways[EACH + kind]["processor_s"] / ways[BARE + kind]["processor_s"]
        for kind in ("", TWO)
        if BARE + kind in ways and EACH + kind in ways
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--products", type=int, default=200)
    parser.add_argument("--images", type=int, default=20, help="of each product")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--json", type=Path, help="record, which is gone on with")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--bare", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.bare:
        root, output, *numbers = options.bare
        train_bare(Path(root), Path(output), *map(int, numbers))
        return
    from ratios import cpu_name

    import fastad
    from fastad._files import write_atomically

    setup = {
        "cpu": cpu_name(),
        "fastad": fastad.__version__,
        "products": options.products,
        "images": options.images,
        "model": MODEL,
        "side": SIDE,
    }
    ways: dict[str, dict[str, Any]] = {}
    if options.json is not None and options.json.is_file():
        before = json.loads(options.json.read_text())
        if setup.items() <= before.items():
            ways = before["ways"]
    with tempfile.TemporaryDirectory() as folder:
        root, output = Path(folder, "root"), Path(folder, "output")
        make_products(root, options.products, options.images)
        for way in options.ways:
            if way in ways:
                continue
            ways[way] = measured(way, root, output)
            print(f"{way}: {ways[way]}", flush=True)
            record = setup | {"ways": ways, "of_bare": of_bare(ways)}
            text = json.dumps(record, indent=1) + "\n"
            if options.json is not None:
                write_atomically(options.json, lambda path, text=text: path.write_text(text))
    found = of_bare(ways)
    print(found)
    whole = all(way["detectors"] == options.products for way in ways.values())
    sys.exit(options.check and not (whole and max(found.values(), default=2 * LIMIT) <= LIMIT))


if __name__ == "__main__":
    main()
