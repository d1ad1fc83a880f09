"""Several processes at one work while some are killed: is the result that of an undisturbed run?

    python bench/faults.py --kills 50 --work predict evaluate
    python bench/faults.py --kills 20 --work train

torchrun starts two ranks, which predict, evaluate or train a tiny detector. At random moments a
rank, the agent of torchrun or the host of the rendezvous is killed by SIGKILL, or a rank is stopped
for a moment by SIGSTOP. torchrun starts ranks again that die. Where torchrun itself ends, the same
command starts it again, until the work is done. Then every file is compared with those of one
process (predict, evaluate), or every number of the detector with those of an undisturbed training
by two ranks. Parts and steps are slowed by a sleep, so that faults come in the middle of the work.
Exits with 1 where a result differs or does not come.
"""

import argparse
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

KILLED = ("rank", "agent", "rendezvous")
STOPPED = "stopped rank"
RANKS = 2
SLEEP = 0.2  # seconds that a part, or a step, takes longer
STARTS = 20  # of one work, until it counts as failed
PATIENCE = 900.0  # seconds until a start counts as hanging

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
        _run_alone([*map(str, words), "--quiet"])
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


def _files(folder: Path) -> Result:
    """The content of every file, hidden ones too."""
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def _parts(folder: Path) -> int:
    return sum(path.suffix != ".lock" for path in folder.glob(".*.parts-*/[!.]*"))


def _trained(folder: Path) -> Result:
    """Every number of a detector but seconds, and the names of all files."""
    from fastad import load

    detector = load(folder / "cap.fastad")
    record = detector.training_record_
    weights = {k: v.numpy().tobytes() for k, v in detector.model_.trained_state().items()}
    stages = [[s["losses"], s["validation_scores"], s["best_epoch"]] for s in record["stages"]]
    return {
        "files": sorted(_files(folder)),
        "weights": weights,
        "stages": stages,
        "threshold": detector.threshold_,
        "held out": detector.calibration_scores_.tolist(),
        "self-check": record["self_check"],
    }


def _epochs(folder: Path) -> int:
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
        _files,
        _parts,
        alone=True,
    ),
    "evaluate": Work(
        lambda desk, out: [
            *("evaluate", desk.detector, desk.product, "--json", out / "metrics.json"),
            *("--csv", out / "scores.csv", *_BATCH),
        ],
        _files,
        _parts,
        alone=True,
    ),
    "train": Work(
        lambda desk, out: [
            *("train", desk.product, "--model", "stpm", "--teacher-weights", "embedded"),
            *("--image-size", "32", "--epochs", "6", "--set", "batch_size=5", "--resume"),
            *("--device", "cpu", "--output", out / "cap.fastad", "--quiet"),
        ],
        _trained,
        _epochs,
        alone=False,
    ),
}


def _environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "GOMP_SPINCOUNT": "1000"}


def _run_alone(words: list[str]) -> None:
    # In the checkout its sources would hide the installed package.
    command = [sys.executable, "-m", "fastad", *words]
    subprocess.run(command, check=True, env=_environment(), cwd=tempfile.gettempdir())


class Rendezvous:
    """A process that hosts the store of torchrun's agents."""

    def __init__(self) -> None:
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            self.port = found.getsockname()[1]
        words = [sys.executable, __file__, "as-store", str(self.port)]
        self.process = subprocess.Popen(words, stdout=subprocess.PIPE, env=_environment())
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
                env=_environment(),
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


@dataclass
class Found:
    """What came of the faults.

    Attributes:
        faults: number of each kind.
        amid: of the kills, those when some of the work was done, and not all.
        starts: of torchrun.
        results: compared.
        wrong: sentences on what is not as it must be.
    """

    faults: Counter[str] = field(default_factory=Counter)
    amid: int = 0
    starts: int = 0
    results: int = 0
    wrong: list[str] = field(default_factory=list)

    @property
    def kills(self) -> int:
        return sum(self.faults[kind] for kind in KILLED)


@contextmanager
def _started(work: Work, desk: Desk, folder: Path, store: Rendezvous, log: Path) -> Iterator[Job]:
    job = Job(work.words(desk, folder), store, log)
    try:
        yield job
    finally:
        job.end()


def undisturbed(work: Work, desk: Desk, folder: Path) -> Result:
    """The result to compare with."""
    folder.mkdir(parents=True)
    log = folder.with_suffix(".log")
    if work.alone:
        _run_alone([str(word) for word in work.words(desk, folder)])
        return work.result(folder)
    store = Rendezvous()
    try:
        with _started(work, desk, folder, store, log) as job:
            if job.agent.wait(PATIENCE):
                raise RuntimeError(log.read_text())
    finally:
        store.kill()
    return work.result(folder)


def disturbed(work: Work, desk: Desk, folder: Path, kills: int, seed: int) -> Found:
    """Do the work again and again, until so many kills have come and it is done."""
    expected = undisturbed(work, desk, folder / "undisturbed")
    rng, found, store = random.Random(seed), Found(), Rendezvous()
    try:
        while found.kills < kills and not found.wrong:
            out = folder / f"out_{found.results}"
            out.mkdir()
            store = _until_done(work, desk, out, kills, store, rng, found)
            if not found.wrong:
                found.results += 1
                _compare(work.result(out), expected, found)
    finally:
        store.kill()
    return found


def _until_done(
    work: Work,
    desk: Desk,
    out: Path,
    kills: int,
    store: Rendezvous,
    rng: random.Random,
    found: Found,
) -> Rendezvous:
    """Start the work until it ends by itself; gives the rendezvous that is alive then."""
    log = out.with_suffix(".log")
    for _ in range(STARTS):
        found.starts += 1
        with _started(work, desk, out, store, log) as job:
            begin = time.monotonic()
            while job.agent.poll() is None and time.monotonic() - begin < PATIENCE:
                _wait(work, out, job, rng)
                if job.agent.poll() is None and found.kills < kills:
                    _strike(work, out, job, store, rng, found)
            if job.agent.poll() is None:
                found.wrong.append(f"hangs for {PATIENCE:g} s: {log.read_text()[-2000:]}")
                return store
            deadline = time.monotonic() + 5
            while job.ranks() and time.monotonic() < deadline:
                time.sleep(0.1)
            if left := job.ranks():
                found.wrong.append(f"{len(left)} ranks are left of an agent that is gone")
        if store.process.poll() is not None:
            store = Rendezvous()
        finished = out / "cap.fastad"
        if job.agent.returncode == 0 or (finished.exists() and _parts(out) + _epochs(out) == 0):
            return store
    found.wrong.append(f"not done after {STARTS} starts: {log.read_text()[-2000:]}")
    return store


def _wait(work: Work, out: Path, job: Job, rng: random.Random) -> None:
    """Until a random moment, at the start of the ranks or some parts or epochs later."""
    before, more = work.done(out), rng.choice((0, 1, 2, 4))
    while job.agent.poll() is None and (not job.ranks() or work.done(out) < before + more):
        time.sleep(0.1)
    time.sleep(rng.uniform(0.0, SLEEP if more else 4.0))


def _strike(
    work: Work, out: Path, job: Job, store: Rendezvous, rng: random.Random, found: Found
) -> None:
    """A fault of a random kind."""
    kind, ranks = rng.choice((*KILLED, "rank", STOPPED)), job.ranks()
    if kind in ("rank", STOPPED) and not ranks:
        return
    if kind == "rendezvous" and store.process.poll() is not None:
        return
    found.faults[kind] += 1
    found.amid += kind != STOPPED and work.done(out) > 0
    with suppress(ProcessLookupError):
        if kind == "agent":
            job.agent.kill()
            job.agent.wait()
        elif kind == "rendezvous":
            store.kill()
        elif kind == "rank":
            os.kill(rng.choice(ranks), signal.SIGKILL)
        else:
            stopped = rng.choice(ranks)
            os.kill(stopped, signal.SIGSTOP)
            time.sleep(rng.uniform(0.5, 3.0))
            os.kill(stopped, signal.SIGCONT)


def _compare(result: Result, expected: Result, found: Found) -> None:
    for name in sorted(result.keys() | expected.keys()):
        if name not in expected:
            found.wrong.append(f"{name} is left over")
        elif name not in result:
            found.wrong.append(f"{name} is missing")
        elif result[name] != expected[name]:
            found.wrong.append(f"{name} differs")


def main() -> None:
    if sys.argv[1:2] == ["as-rank"]:
        as_rank(sys.argv[2:])
    if sys.argv[1:2] == ["as-store"]:
        as_store(int(sys.argv[2]))
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--work", nargs="+", choices=WORKS, default=list(WORKS))
    parser.add_argument("--kills", type=int, default=50, help="of each work (default: 50)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="add what was found to this record")
    options = parser.parse_args()
    wrong = False
    with tempfile.TemporaryDirectory() as folder:
        desk = Desk(Path(folder, "desk")).make()
        for name in options.work:
            out = Path(folder, name)
            found = disturbed(WORKS[name], desk, out, options.kills, options.seed)
            wrong |= bool(found.wrong)
            facts = vars(found) | {"kills": found.kills, "seed": options.seed}
            print(json.dumps({name: facts}, indent=1), flush=True)
            if options.json is not None:
                _record(options.json, name, facts)
    sys.exit(wrong)


def _record(path: Path, name: str, facts: dict[str, Any]) -> None:
    from ratios import cpu_name

    from fastad._files import write_atomically

    record = json.loads(path.read_text()) if path.exists() else {}
    record[name] = facts | {"cpu": cpu_name()}
    text = json.dumps(record, indent=1) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text))


if __name__ == "__main__":
    main()
