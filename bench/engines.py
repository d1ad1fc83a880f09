"""The race of CPU engines: fastad, OpenVINO, ONNX Runtime, torch.compile and eager PyTorch.

    python bench/engines.py --processor "AMD EPYC (Zen 5)"      times, on an idle machine
    python bench/engines.py --processor ... --data ../shared/data --detectors FOLDER     accuracy
    python bench/engines.py --check RECORD                      exit 1 where a floor is missed
    python bench/engines.py --page                              write docs/engines.md again

From a uint8 image at the size of the networks to score and map, each engine in each of its
precisions, as `competitors.py` sets them up. A cell of the times is a detector, an image size, a
number of images at once and a number of threads. Its competitors take turns in one process. In a
turn a short run comes after one that is not timed, and after a pause in which the threads of others
stop spinning. Weights are random: they change no time.

A cell of the accuracy is a trained detector and a set: image AUROC, and the largest difference of a
score from eager float32, as a share of that score. 8-bit networks are calibrated on good images of
the training. The test images choose nothing.

Cells go to bench/results/engines_PROCESSOR.json one by one. Those that are there are not measured
again without --again. After --minutes no new cell begins, and the next call goes on.
"""

import argparse
import json
import os
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from fastad.commands.processors import share_processors

share_processors()  # threads wait as the command line's do; before torch is imported

import numpy as np  # noqa: E402
import torch  # noqa: E402
from competitors import PRECISE, Competitors  # noqa: E402
from engines_page import RESULTS, missed, write_page  # noqa: E402
from ratios import cpu_name  # noqa: E402
from sklearn.metrics import roc_auc_score  # noqa: E402
from systems import SETS, SYSTEMS  # noqa: E402
from torch import Tensor  # noqa: E402

import fastad  # noqa: E402
from fastad import _extension, _files, models  # noqa: E402
from fastad.data import read_image, resize, test_samples, training_images  # noqa: E402

DETECTORS = ("stpm", "stpm, lite0", "rstpm")
SIZES = ((256, 256), (640, 256))
AT_ONCE = (1, 8)
THREADS = (1, 2)
GOOD = 16  # images that 8-bit networks are calibrated on
SHORT = 0.1  # seconds of a run that another one comes before
PAUSE = 0.02  # seconds before a turn: ONNX Runtime's threads spin for about that long
ROUNDS = 3  # at least
UNITS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_int8", "amx_bf16")
PACKAGES = ("torch", "openvino", "nncf", "onnxruntime")


class Record:
    """The file of a processor's cells, written whole after each."""

    def __init__(self, path: Path, processor: str) -> None:
        self.path = path
        self.content: dict[str, Any] = {"processor": processor, "speed": [], "accuracy": []}
        if path.exists():
            self.content |= json.loads(path.read_text(encoding="utf-8"))

    def has(self, part: str, cell: dict[str, Any]) -> bool:
        return any(cell.items() <= _plain(row).items() for row in self.content[part])

    def add(self, part: str, cell: dict[str, Any], found: dict[str, Any]) -> None:
        rows = [r for r in self.content[part] if not cell.items() <= _plain(r).items()]
        self.content[part] = [*rows, {**cell, **found}]
        self.content |= facts()
        text = json.dumps(self.content, indent=1) + "\n"
        _files.write_atomically(self.path, lambda place: place.write_text(text, encoding="utf-8"))


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if not isinstance(value, (dict, list))}


def facts() -> dict[str, Any]:
    """What the numbers depend on."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    flags: set[str] = set()
    if Path("/proc/cpuinfo").is_file():
        found = re.search(r"^flags\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.M)
        flags = set(found[1].split()) if found else set()
    return {
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "units": [unit for unit in UNITS if unit in flags],
        "versions": versions,
        "fastad": _extension.build_info(),
    }


def untrained(detector: str) -> models.AnomalyModel:
    """A model of a detector, with random weights."""
    name = detector.partition(",")[0]
    torch.manual_seed(0)
    return models.build(name, **models.without_weights(name) | SYSTEMS[detector][0]).eval()


def in_turns(
    runs: dict[str, Callable[[], Any]], seconds: float, rounds: int
) -> dict[str, list[float]]:
    """Milliseconds of each, for so many seconds and at least so many rounds."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    last: dict[str, float] = {}
    for name, run in runs.items():
        run()
        last[name] = _seconds(run)
    end = time.perf_counter() + seconds
    done = 0
    while done < rounds or time.perf_counter() < end:
        for name, run in runs.items():
            time.sleep(PAUSE)
            if last[name] < SHORT:
                run()
            last[name] = _seconds(run)
            times[name].append(1e3 * last[name])
        done += 1
    return times


def _seconds(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def speed_cells(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The most telling first: where the minutes end, the rest is left to the next call."""
    for height, width in options.sizes:
        for detector in options.detector:
            for batch in AT_ONCE:
                for threads in reversed(THREADS):
                    size = {"height": height, "width": width}
                    yield {"detector": detector, **size, "batch": batch, "threads": threads}


def measure_speed(cell: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    size, batch = (cell["height"], cell["width"]), cell["batch"]
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(
        0, 256, (max(batch, GOOD), 3, *size), dtype=torch.uint8, generator=generator
    )
    model = untrained(cell["detector"])
    competitors = Competitors(model, size, images[:GOOD], options.work)
    # A compilation of the larger ones takes minutes.
    compiled = not options.quick and size == SIZES[0] and cell["detector"] != "rstpm"
    made = competitors.at(batch, cell["threads"], int8=not options.quick, compiled=compiled)
    batch_images = images[:batch]
    runs = {name: lambda run=run: run(batch_images) for name, run in made.items()}
    times = in_turns(runs, options.seconds, options.rounds)
    return {
        "rounds": len(times[PRECISE]),
        "load_average": round(os.getloadavg()[0], 1),
        "median_ms": {name: round(statistics.median(t), 2) for name, t in times.items()},
        "fastest_ms": {name: round(min(t), 2) for name, t in times.items()},
    }


def accuracy_cells(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    for name in SETS:
        for detector in options.detector:
            if _file(options.detectors, detector, name).is_file():
                yield {"detector": detector, "set": name}


def measure_accuracy(cell: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    folder = options.data / SETS[cell["set"]]
    artifact = fastad.inference.load(_file(options.detectors, cell["detector"], cell["set"]))
    size = artifact.image_size

    def read(path: Path) -> Tensor:
        return resize(read_image(path, artifact.pixel_range), size)

    paths = _spread(training_images(folder).paths, GOOD)
    good = torch.stack([read(path) for path in paths])
    samples = test_samples(folder)
    kept = [
        sample
        for label in (0, 1)
        for sample in _spread([s for s in samples if s.label == label], options.most)
    ]
    competitors = Competitors(artifact.model, size, good, options.work)
    runs = competitors.at(1, 1, int8=True, compiled=False)
    scores: dict[str, list[float]] = {name: [] for name in runs}
    for sample in kept:
        image = read(sample.path)[None]
        for name, run in runs.items():
            scores[name].append(float(run(image)[0]))
    labels = [sample.label for sample in kept]
    exact = np.array(scores[PRECISE])
    return {
        "pixels": list(size),
        "images": len(kept),
        "engines": {
            name: {
                "image_auroc": round(float(roc_auc_score(labels, found)), 4),
                "score_difference": float(f"{np.abs(found / exact - 1).max():.2g}"),
            }
            for name, found in scores.items()
        },
    }


def _spread(items: list[Any], most: int) -> list[Any]:
    """At most so many, evenly spaced."""
    if len(items) <= most:
        return items
    return [items[i * len(items) // most] for i in range(most)]


def _file(folder: Path, detector: str, name: str) -> Path:
    """As bench/systems.py names the detectors of seed 0."""
    return folder / f"{detector.replace(', ', '-').replace(' ', '')}-{name}-0.fastad"


def race(options: argparse.Namespace) -> dict[str, Any]:
    slug = re.sub(r"\W+", "_", options.processor.lower()).strip("_")
    record = Record(options.json or RESULTS / f"engines_{slug}.json", options.processor)
    record.content["command"] = " ".join(["python", *sys.argv])
    end = time.monotonic() + 60 * options.minutes
    parts = [("speed", speed_cells, measure_speed)]
    if options.detectors is not None and options.data is not None:
        parts = [("accuracy", accuracy_cells, measure_accuracy)]
    for part, cells, measure in parts:
        for cell in cells(options):
            if record.has(part, cell) and not options.again:
                continue
            if time.monotonic() > end:
                print("the minutes are over: the same command goes on with the next cell")
                return record.content
            found = measure(cell, options)
            record.add(part, cell, found)
            print(json.dumps({**cell, **found}), flush=True)
    return record.content


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processor", default=cpu_name(), help="its name in the record")
    parser.add_argument("--json", type=Path, help="another file for the record")
    parser.add_argument("--detector", nargs="+", choices=DETECTORS, default=list(DETECTORS))
    parser.add_argument("--sizes", nargs="+", type=_size, default=list(SIZES), metavar="HxW")
    parser.add_argument("--seconds", type=float, default=12, help="of a cell, at least")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="of a cell, at least")
    parser.add_argument("--minutes", type=float, default=12, help="after which no cell begins")
    parser.add_argument("--again", action="store_true", help="measure recorded cells, too")
    parser.add_argument("--work", type=Path, default=Path("build/engines"), help="for graphs")
    parser.add_argument("--data", type=Path, help="folder of the sets")
    parser.add_argument("--detectors", type=Path, help="folder of trained detectors")
    parser.add_argument("--most", type=int, default=100, help="test images, good and bad each")
    parser.add_argument("--quick", action="store_true", help="without int8 and torch.compile")
    parser.add_argument(
        "--check", type=Path, metavar="RECORD", help="exit 1 where a floor is missed"
    )
    parser.add_argument(
        "--page", action="store_true", help="write docs/engines.md from the records"
    )
    options = parser.parse_args()
    if options.page:
        write_page()
        return 0
    if (options.data is None) != (options.detectors is None):
        parser.error("--data and --detectors belong together")
    if options.check is None:
        record = race(options)
    else:
        record = json.loads(options.check.read_text(encoding="utf-8"))
    failures = missed(record)
    for failure in failures:
        print(f"missed: {failure}", file=sys.stderr)
    return 1 if options.check and failures else 0


def _size(text: str) -> tuple[int, int]:
    height, width = map(int, text.split("x"))
    return height, width


if __name__ == "__main__":
    sys.exit(main())
