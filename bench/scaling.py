"""What many processes would gain: rates of one, measured, and what is full first.

    python bench/scaling.py --json bench/results/scaling.json
    python bench/scaling.py --page                              write the tables of docs/scaling.md

Rates are seconds of the processor, the least of several repeats: other work on the machine adds
little to them. One thread. The tables divide what one process does by what others would do, with
the network and the disk as options say. Nothing of them was measured on several machines.
"""

import argparse
import io
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from ratios import cpu_name

import fastad
from fastad import _files, models
from fastad.data import read_image, resize
from fastad.evaluation.metrics import pixel_metrics
from fastad.inference import Predictor

ROOT = Path(__file__).resolve().parents[1]
RECORD, PAGE = ROOT / "bench" / "results" / "scaling.json", ROOT / "docs" / "scaling.md"
BEGIN, END = "<!-- made by bench/scaling.py -->", "<!-- end -->"
SIDE, SOURCE = 256, 1024  # pixels of the maps, and of the image files
BATCH = 32
DISK = 500e6  # bytes a second of a network folder
NETWORK = 10e9 / 8  # bytes a second between machines
PROCESSES = (1, 8, 64, 512)


def least(run: Callable[[], Any], repeats: int) -> float:
    """Seconds of the processor that a run takes, the least of so many."""
    run()
    times = []
    for _ in range(repeats):
        begin = time.process_time()
        run()
        times.append(time.process_time() - begin)
    return min(times)


def measure(repeats: int) -> dict[str, Any]:
    """Seconds and bytes an image of each step, of one process with one thread."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (SOURCE // 8, SOURCE // 8, 3), dtype=np.uint8))
    file = io.BytesIO()
    coarse.resize((SOURCE, SOURCE), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    content = file.getvalue()
    image = read_image(io.BytesIO(content))
    model = models.build("stpm", backbone="resnet18", teacher_weights=None)
    images = torch.randint(0, 256, (8, 3, SIDE, SIDE), dtype=torch.uint8)
    predictor = Predictor(model, SIDE, device="cpu")
    maps = rng.random((BATCH, SIDE, SIDE), dtype=np.float32)
    masks = np.zeros(maps.shape, bool)
    masks[::2, 100:130, 100:130] = True
    part = io.BytesIO()

    def write_part() -> None:
        part.seek(0)
        np.savez(part, maps=maps)

    batch = torch.rand(8, 3, SIDE, SIDE)
    with torch.no_grad():
        features = model.teacher_features(batch)

    def step() -> None:
        model.train()
        sum(model.loss({"image": batch, **features}).values()).backward()

    trained = [p for p in model.parameters() if p.requires_grad]
    return {
        "cpu": cpu_name(),
        "threads": 1,
        "repeats": repeats,
        "fastad": fastad.__version__,
        "torch": torch.__version__,
        "precision": str(predictor.dtype).removeprefix("torch."),
        "seconds": {
            "decode": least(lambda: read_image(io.BytesIO(content)), repeats),
            "resize": least(lambda: resize(image, (SIDE, SIDE)), repeats),
            "predict": least(lambda: predictor.predict_batch(images), repeats) / len(images),
            "metrics": least(lambda: pixel_metrics(masks, maps), repeats) / BATCH,
            "part": least(write_part, repeats) / BATCH,
            "train": least(step, repeats) / len(batch),
        },
        "bytes": {
            "file": len(content),
            "map": maps[0].nbytes,
            "gradients": sum(4 * p.numel() for p in trained),
        },
    }


def scoring(record: dict[str, Any], processes: int) -> dict[str, float]:
    """Images a second that each step would let through, of so many processes."""
    seconds, size = record["seconds"], record["bytes"]
    own = seconds["decode"] + seconds["resize"] + seconds["predict"]
    return {
        "predict": processes / own,
        "read from the folder": DISK / size["file"],
        "evaluate: maps through the folder": DISK / (2 * size["map"] + size["file"]),
        "evaluate: metrics of the first process": 1 / seconds["metrics"],
    }


def training(record: dict[str, Any], processes: int, batch: int = BATCH) -> float:
    """Seconds of a step: the largest share, and twice the gradients over the network in a ring."""
    share = -(-batch // processes)
    ring = 2 * (processes - 1) / processes * record["bytes"]["gradients"] / NETWORK
    return share * record["seconds"]["train"] + ring


def tables(record: dict[str, Any]) -> str:
    seconds, size = record["seconds"], record["bytes"]
    lines = [
        f"{record['cpu']}, one thread, STPM with ResNet-18 in {record['precision']}, maps of "
        f"{SIDE}x{SIDE}, files of {SOURCE}x{SOURCE} as JPEG.",
        "",
        "| step | milliseconds of the processor an image | bytes an image |",
        "|---|---|---|",
        f"| decode a file | {1e3 * seconds['decode']:.1f} | {size['file']:,} read |",
        f"| resize | {1e3 * seconds['resize']:.1f} | |",
        f"| predict | {1e3 * seconds['predict']:.1f} | |",
        f"| write the map to a part | {1e3 * seconds['part']:.2f} | {size['map']:,} written |",
        f"| exact pixel metrics | {1e3 * seconds['metrics']:.1f} | {size['map']:,} read |",
        f"| train: forward and backward | {1e3 * seconds['train']:.0f} "
        f"| {size['gradients']:,} a step sent |",
        "",
        "Images a second that each step would let through:",
        "",
        f"| processes | {' | '.join(scoring(record, 1))} |",
        "|---|---|---|---|---|",
    ]
    for processes in PROCESSES:
        rates = " | ".join(f"{rate:,.0f}" for rate in scoring(record, processes).values())
        lines.append(f"| {processes} | {rates} |")
    lines += ["", "| processes | one step of a batch of 32, s | gain |", "|---|---|---|"]
    alone = training(record, 1)
    for processes in (1, 2, 4, 8, 16, 32):
        own = training(record, processes)
        lines.append(f"| {processes} | {own:.2f} | {alone / own:.1f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, default=RECORD)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--page", action="store_true", help="measure nothing, write the tables")
    options = parser.parse_args()
    if not options.page:
        text = json.dumps(measure(options.repeats), indent=1) + "\n"
        _files.write_atomically(options.json, lambda path: path.write_text(text))
    record = json.loads(options.json.read_text())
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    page = f"{before}{BEGIN}\n{tables(record)}\n{END}{rest.partition(END)[2]}"
    _files.write_atomically(PAGE, lambda path: path.write_text(page, encoding="utf-8"))


if __name__ == "__main__":
    main()
