"""What faults.py lets several processes do: the works, torchrun, the host of its rendezvous."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

RANKS = 2
SLEEP = 0.2  # seconds that a part, or a step, takes longer

Result = dict[str, Any]


def as_rank(arguments: list[str]) -> None:
    """Run the command line with small parts, each of which takes a moment; so does each step."""
    from fastad.commands.processors import end_with_agent

    end_with_agent()  # as the command line does, before torch is imported
    from fastad import cli
    from fastad.commands import evaluate_shared, predict
    from fastad.distributed import parts
    from fastad.training.shares import Shares

    predict.SHARED = evaluate_shared.SHARED = 1
    parts.atomic_path = _slowed(parts.atomic_path)
    Shares.add_gradients = _slowed(Shares.add_gradients)
    cli.main(arguments)


def _slowed(function: Callable[..., Any]) -> Callable[..., Any]:
    def slow(*arguments: Any) -> Any:
        time.sleep(SLEEP)
        return function(*arguments)

    return slow


def as_store(port: int) -> None:
    """Host the rendezvous until the end."""
    from torch.distributed import TCPStore

    _store = TCPStore("127.0.0.1", port, is_master=True, timeout=timedelta(seconds=60))
    print("ready", flush=True)
    signal.pause()


@dataclass
class Desk:
    """A product of images of 32x32 pixels, and its detector."""

    folder: Path

    @property
    def product(self) -> Path:
        return self.folder / "cap"

    @property
    def detector(self) -> Path:
        return self.folder / "cap.fastad"

    def make(self) -> "Desk":
        import numpy as np
        from PIL import Image

        rng = np.random.default_rng(0)

        def write(name: str, pixels: np.ndarray) -> None:
            path = self.product / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)

        def noise() -> np.ndarray:
            return rng.integers(80, 120, (32, 32, 3), dtype=np.uint8)

        for i in range(12):
            write(f"train/good/{i}.png", noise())
        for i in range(10):
            write(f"test/good/{i}.png", noise())
            pixels, mask = noise(), np.zeros((32, 32), np.uint8)
            pixels[4:20, 10:24], mask[4:20, 10:24] = (250, 10, 10), 255
            write(f"test/hole/{i}.png", pixels)
            write(f"ground_truth/hole/{i}_mask.png", mask)
        options = ["--model", "subspace", "--set", "smoothing=1", "--teacher-weights", "embedded"]
        words = ["train", self.product, *options, "--image-size", "32", "--output", self.detector]
        run_alone([*map(str, words), "--quiet"])
        return self


@dataclass(frozen=True)
class Work:
    """A command, and how to read what it came to.

    Attributes:
        words: of the command for a folder of results.
        result: what must be equal, of that folder.
        done: how much of it is done.
        alone: whether one process is what it is compared with.
    """

    words: Callable[[Desk, Path], list[Any]]
    result: Callable[[Path], Result]
    done: Callable[[Path], int]
    alone: bool


def files(folder: Path) -> Result:
    """The content of every file, hidden ones too."""
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def parts_done(folder: Path) -> int:
    return sum(path.suffix != ".lock" for path in folder.glob(".*.parts-*/[!.]*"))


def trained(folder: Path) -> Result:
    """Every number of a detector but seconds, and the names of all files."""
    from fastad import load

    detector = load(folder / "cap.fastad")
    record = detector.training_record_
    weights = {k: v.numpy().tobytes() for k, v in detector.model_.trained_state().items()}
    stages = [[s["losses"], s["validation_scores"], s["best_epoch"]] for s in record["stages"]]
    return {
        "files": sorted(files(folder)),
        "weights": weights,
        "stages": stages,
        "threshold": detector.threshold_,
        "held out": detector.calibration_scores_.tolist(),
        "self-check": record["self_check"],
    }


def epochs(folder: Path) -> int:
    from fastad.training import load_checkpoint

    with suppress(FileNotFoundError):
        return load_checkpoint(folder / "cap.fastad.checkpoint").record.epochs
    return 0


_BATCH = ["--batch-size", "2", "--precision", "float32", "--device", "cpu", "--quiet"]
WORKS = {
    "predict": Work(
        lambda desk, out: [
            *("predict", desk.detector, desk.product / "test", "--output", out / "pictures"),
            *("--heatmaps", "--masks", "--json", out / "scores.json"),
            *("--regions", out / "regions.csv", *_BATCH),
        ],
        files,
        parts_done,
        alone=True,
    ),
    "evaluate": Work(
        lambda desk, out: [
            *("evaluate", desk.detector, desk.product, "--json", out / "metrics.json"),
            *("--csv", out / "scores.csv", *_BATCH),
        ],
        files,
        parts_done,
        alone=True,
    ),
    "train": Work(
        lambda desk, out: [
            *("train", desk.product, "--model", "stpm", "--teacher-weights", "embedded"),
            *("--image-size", "32", "--epochs", "6", "--set", "batch_size=5", "--resume"),
            *("--device", "cpu", "--output", out / "cap.fastad", "--quiet"),
        ],
        trained,
        epochs,
        alone=False,
    ),
}


def environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "GOMP_SPINCOUNT": "1000"}


def run_alone(words: list[str]) -> None:
    # In the checkout its sources would hide the installed package.
    command = [sys.executable, "-m", "fastad", *words]
    subprocess.run(command, check=True, env=environment(), cwd=tempfile.gettempdir())


class Rendezvous:
    """A process that hosts the store of torchrun's agents."""

    def __init__(self) -> None:
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            self.port = found.getsockname()[1]
        words = [sys.executable, __file__, "as-store", str(self.port)]
        self.process = subprocess.Popen(words, stdout=subprocess.PIPE, env=environment())
        assert self.process.stdout is not None
        self.process.stdout.readline()  # it is ready

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()


class Job:
    """torchrun at a work."""

    def __init__(self, words: list[Any], rendezvous: Rendezvous, log: Path):
        self._name = f"{time.monotonic_ns()}"
        torchrun = ["--nproc-per-node", str(RANKS), "--max-restarts", "3"]
        torchrun += ["--rdzv-backend", "c10d", "--rdzv-id", self._name, "--rdzv-conf", "is_host=0"]
        torchrun += ["--rdzv-endpoint", f"127.0.0.1:{rendezvous.port}", __file__, "as-rank"]
        with open(log, "ab") as said:
            self.agent = subprocess.Popen(
                [sys.executable, "-m", "torch.distributed.run", *torchrun, *map(str, words)],
                stdout=said,
                stderr=said,
                env=environment(),
            )

    def ranks(self) -> list[int]:
        """Their processes, those of a dead agent, too."""
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                names = (path / "environ").read_bytes().split(b"\0")
                if b"TORCHELASTIC_RUN_ID=" + self._name.encode() in names:
                    found.append(int(path.name))
        return sorted(found)

    def end(self) -> None:
        """Kill what is left of it."""
        with suppress(ProcessLookupError):
            self.agent.kill()
        self.agent.wait()
        for rank in self.ranks():
            with suppress(ProcessLookupError):
                os.kill(rank, signal.SIGKILL)


if __name__ == "__main__":
    if sys.argv[1] == "as-rank":
        as_rank(sys.argv[2:])
    else:
        as_store(int(sys.argv[2]))
