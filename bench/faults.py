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
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from faults_work import (
    SLEEP,
    WORKS,
    Desk,
    Job,
    Rendezvous,
    Result,
    Work,
    epochs,
    parts_done,
    run_alone,
)

KILLED = ("rank", "agent", "rendezvous")
STOPPED = "stopped rank"
STARTS = 20  # of one work, until it counts as failed
PATIENCE = 900.0  # seconds until a start counts as hanging


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
        run_alone([str(word) for word in work.words(desk, folder)])
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
        if job.agent.returncode == 0 or (finished.exists() and parts_done(out) + epochs(out) == 0):
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
