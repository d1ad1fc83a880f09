"""STPM's training against an eager loop of the same recipe, in turns in one process.

    python bench/training.py --json bench/results/FILE.json     measure and record
    python bench/training.py --check                            exit 1 where the floor is missed

The peer is the authors' loop in plain PyTorch, float32: teacher and student in every step, their
normalised features' distance by `torch.nn.functional`, SGD, and after an epoch the held-out images'
maps. Ours is `fastad.training.Trainer` with its defaults. Both have all images in memory as bytes.
The images are random: they change no time.
"""

import argparse
import statistics
import sys
import time
from itertools import pairwise

import torch
import torch.nn.functional as F
from ratios import finish
from torch import Tensor

from fastad import _extension, backbones, models
from fastad.engine.fast_copy import FastCopy
from fastad.training import Trainer, TrainingConfig
from fastad.training.precision import cpu_multiplies_in, has_amx

LAYERS = ("layer1", "layer2", "layer3")
MEAN = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
DEVIATION = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
BATCH = 32
LEAST = 5.0  # on processors with AMX


class Peer:
    """The eager loop, one epoch a call."""

    def __init__(self) -> None:
        self.teacher = backbones.build("resnet18", LAYERS).eval().requires_grad_(False)
        self.student = backbones.build("resnet18", LAYERS)
        self.optimizer = torch.optim.SGD(
            self.student.parameters(), lr=0.4, momentum=0.9, weight_decay=1e-4
        )

    def distances(self, images: Tensor) -> list[Tensor]:
        images = (images.float() / 255 - MEAN) / DEVIATION
        with torch.no_grad():
            teacher = self.teacher(images)
        return [
            (F.normalize(t) - F.normalize(s)).square().sum(dim=1, keepdim=True) / 2
            for t, s in zip(teacher, self.student(images), strict=True)
        ]

    def epoch(self, train: Tensor, held_out: Tensor) -> float:
        start = time.perf_counter()
        self.student.train()
        for indices in torch.randperm(len(train)).split(BATCH):
            loss = sum(2 * distance.mean() for distance in self.distances(train[indices]))
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
        self.student.eval()
        with torch.no_grad():
            for images in held_out.split(BATCH):
                joined = torch.ones(len(images), 1, *images.shape[-2:])
                for distance in self.distances(images):
                    joined *= F.interpolate(distance, images.shape[-2:], mode="bilinear")
                joined.mean((1, 2, 3))
        return time.perf_counter() - start


def ours(images: Tensor, epochs: int, precision: str) -> tuple[list[float], float]:
    """Seconds of each epoch but the first, and of the first, which has the teacher's share."""
    model = models.build("stpm", hard=0.0, **models.without_weights("stpm"))
    config = TrainingConfig.for_model(model, epochs=epochs, precision=precision, device="cpu")
    ends = [time.perf_counter()]

    def progress(event) -> None:
        if event.losses is not None:
            ends.append(time.perf_counter())

    Trainer(model, config, progress, fast_copy=FastCopy(precision)).fit(images)
    seconds = [after - before for before, after in pairwise(ends)]
    return seconds[1:], seconds[0]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", help="file to record the numbers in")
    parser.add_argument("--check", action="store_true", help="exit 1 where the floor is missed")
    parser.add_argument("--images", type=int, default=209, help="a fifth of them held out")
    parser.add_argument("--image-size", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=3, help="of ours in each repeat")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    size = options.image_size
    images = torch.randint(0, 256, (options.images, 3, size, size), dtype=torch.uint8)
    held_out, train = images.split([options.images // 5, options.images - options.images // 5])
    peer, rows, missed = Peer(), [], []
    times: dict[str, list[float]] = {"peer": [], "auto": [], "float32": []}
    first: dict[str, list[float]] = {"auto": [], "float32": []}
    peer.epoch(train[:BATCH], held_out[:BATCH])  # libraries choose their kernels
    for _ in range(options.repeats):
        times["peer"].append(peer.epoch(train, held_out))
        for precision in first:
            seconds, begin = ours(images, options.epochs, precision)
            times[precision] += seconds
            first[precision].append(begin)
    for precision in first:
        ratio = statistics.median(times["peer"]) / statistics.median(times[precision])
        rows.append(
            {
                "work": f"an epoch of STPM, precision {precision}",
                "ratio": round(ratio, 2),
                "ratio_of_minima": round(min(times["peer"]) / min(times[precision]), 2),
                "peer_seconds": [round(value, 2) for value in times["peer"]],
                "seconds": [round(value, 2) for value in times[precision]],
                "first_epoch_seconds": [round(value, 2) for value in first[precision]],
            }
        )
        print(rows[-1], flush=True)
    if has_amx() and rows[0]["ratio"] < LEAST:
        missed.append(f"an epoch of STPM: {rows[0]['ratio']} times the eager loop, below {LEAST}")
    facts = {"images": options.images, "image_size": size}
    facts |= {"bfloat16_units": cpu_multiplies_in(torch.bfloat16), "amx": has_amx()}
    facts |= {"torch": torch.__version__, "fastad": _extension.build_info()}
    return finish(options, rows, missed, **facts)


if __name__ == "__main__":
    sys.exit(main())
