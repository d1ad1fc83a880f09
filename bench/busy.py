"""Latency of one image on a machine that has other work, against other ways to run the networks.

    python bench/busy.py --json bench/results/FILE.json     measure and record
    python bench/busy.py --check                            exit 1 where a floor is missed

STPM with ResNet-18 at 256x256, random weights, beside 0, 1, 2 and 4 processes that do nothing but
count. Each competitor is a process of its own, because libgomp reads how long its threads spin when
it is loaded. They take turns. "fastad" spins as the command line does, "fastad, ..." in other ways.
"eager" are the operations of anomalib's STFPM in plain PyTorch, "onnxruntime" and "openvino" a
detector exported to them, in float32, with the resize in its graph. Without a busy loop the numbers
mean an idle machine only where the load average, which stands in every row, says so.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from fastad.commands.processors import CHOICES, SPIN_COUNT

SIZE = (256, 256)
LOOP = "n = 0\nwhile True:\n    n += 1"
PEERS = ("eager", "onnxruntime", "openvino")
IDLE_GROWTH = 1.03  # of the median on an idle machine, over torch's own way to wait
BUSY_GROWTH = (
    1.25  # of the median beside busy loops, where nothing in the environment says how to wait
)


def settings() -> dict[str, dict[str, str]]:
    """Each competitor's environment."""
    installed = [name for name in PEERS[1:] if importlib.util.find_spec(name) is not None]
    return {
        "fastad": {"GOMP_SPINCOUNT": SPIN_COUNT},
        "fastad, torch's own": {},
        "fastad, 1000 spins": {"GOMP_SPINCOUNT": "1000"},
        "fastad, passive": {"OMP_WAIT_POLICY": "PASSIVE"},
        **{name: {} for name in (PEERS[0], *installed)},
    }


def competitor(name: str, threads: int) -> Callable[[], Any]:
    """What runs one image."""
    import numpy as np
    import torch

    torch.set_num_threads(threads)
    if name == "eager":
        from serving import Peer

        peer, image = Peer(), torch.rand(1, 3, *SIZE)
        return lambda: peer(image)
    from fastad import models

    model = models.build("stpm", **models.without_weights("stpm")).eval()
    if name == "fastad":
        from fastad.inference import Predictor

        predictor = Predictor(model, SIZE, device="cpu")
        bytes_ = torch.randint(0, 256, (1, 3, *SIZE), dtype=torch.uint8)
        return lambda: predictor.predict_batch(bytes_)
    from fastad.export.export import trace
    from fastad.export.formats import FORMATS, INPUT
    from fastad.inference.artifact import Artifact

    kind = FORMATS["onnx" if name == "onnxruntime" else name]
    images = {INPUT: np.random.default_rng(0).integers(0, 256, (1, *SIZE, 3), dtype=np.uint8)}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"detector{kind.suffix}"
        kind.write(trace(Artifact(model, SIZE, np.empty(0), 0.01, None, {})), path, "{}")
        if name == "onnxruntime":
            import onnxruntime

            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = threads
            session = onnxruntime.InferenceSession(path, options)
            return lambda: session.run(None, images)
        import openvino

        options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
        compiled = openvino.Core().compile_model(path, "CPU", options)
        return lambda: compiled(images)


def serve(name: str, threads: int) -> None:
    """In a process of its own: for every number of seconds on stdin, milliseconds of each run."""
    run = competitor(name, threads)
    for _ in range(3):
        run()
    print("ready", flush=True)
    for line in sys.stdin:
        times: list[float] = []
        end = time.perf_counter() + float(line)
        while time.perf_counter() < end or len(times) < 3:
            start = time.perf_counter()
            run()
            times.append(1e3 * (time.perf_counter() - start))
        print(json.dumps(times), flush=True)


class Competitor:
    """Such a process, from outside."""

    def __init__(self, name: str, environment: dict[str, str], threads: int):
        kept = {key: value for key, value in os.environ.items() if key not in CHOICES}
        command = [sys.executable, __file__, "--serve", name.split(",")[0]]
        self._process = subprocess.Popen(
            [*command, "--threads", str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**kept, **environment, "OMP_NUM_THREADS": str(threads)},
        )
        self._answer("ready")

    def times(self, seconds: float) -> list[float]:
        assert self._process.stdin is not None
        print(seconds, file=self._process.stdin, flush=True)
        return json.loads(self._answer("["))

    def _answer(self, beginning: str) -> str:
        assert self._process.stdout is not None
        for line in self._process.stdout:  # converters print, too
            if line.startswith(beginning):
                return line
        raise RuntimeError(f"a competitor ended: {self._process.args}")

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


@contextlib.contextmanager
def busy_loops(number: int) -> Iterator[None]:
    loops = [subprocess.Popen([sys.executable, "-c", LOOP]) for _ in range(number)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def measure(competitors: dict[str, Competitor], loops: int, options: Any) -> dict[str, Any]:
    times: dict[str, list[float]] = {name: [] for name in competitors}
    loads = []
    with busy_loops(loops):
        for _ in range(options.repeats):
            for name, one in competitors.items():
                times[name] += one.times(options.seconds)
            loads.append(os.getloadavg()[0])
    medians = {name: statistics.median(found) for name, found in times.items()}
    return {
        "busy_loops": loops,
        "load_average": round(statistics.mean(loads), 1),
        "median_ms": {name: round(value, 1) for name, value in medians.items()},
        "of_fastad": {name: round(value / medians["fastad"], 2) for name, value in medians.items()},
    }


def missed(rows: list[dict[str, Any]]) -> list[str]:
    found = []
    for row in rows:
        of_fastad, loops = row["of_fastad"], row["busy_loops"]
        own = of_fastad["fastad, torch's own"]
        if loops == 0 and own * IDLE_GROWTH < 1:
            found.append(f"idle: torch's own way takes {own} of the time")
        if loops > 0 and own > BUSY_GROWTH:
            found.append(f"{loops} busy loops: torch's own way takes {own} of the time")
        if loops == 1:
            faster = {name: of_fastad[name] for name in PEERS if of_fastad.get(name, 1) < 1}
            found += [f"one busy loop: {n} takes {r} of the time" for n, r in faster.items()]
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", help="file to record the numbers in")
    parser.add_argument("--check", action="store_true", help="exit 1 where a floor is missed")
    parser.add_argument("--loops", type=int, nargs="+", default=[0, 1, 2, 4])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=3, help="of a competitor in a turn")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve, options.threads)
        return 0
    competitors: dict[str, Competitor] = {}
    rows = []
    try:
        for name, environment in settings().items():
            competitors[name] = Competitor(name, environment, options.threads)
        for loops in options.loops:
            rows.append(measure(competitors, loops, options))
            print(rows[-1], flush=True)
    finally:
        for one in competitors.values():
            one.close()
    import torch
    from ratios import finish

    from fastad import _extension

    facts = {"torch": torch.__version__, "processors": os.cpu_count()}
    facts |= {"threads_of_each": options.threads, "fastad": _extension.build_info()}
    return finish(options, rows, missed(rows), **facts)


if __name__ == "__main__":
    sys.exit(main())
