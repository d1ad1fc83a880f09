"""Load on `fastad serve`: how fast it answers, and whether a killed server loses an answer.

    python bench/serve_load.py DETECTOR IMAGES --wrk --seconds 600 --turns 6
    python bench/serve_load.py DETECTOR IMAGES --seconds 120 --kills 10

Clients send images one by one, each with a key of its own, and send them again until they are
answered. At the end the store must hold every answer once, as it was given, and nothing twice.
They are threads of this process, or with --wrk those of wrk, which Debian packages. wrk ends
without a wait for its last answers: the store may hold one more image of each client and turn.

The rate stands beside that of the detector alone in one process: the same files, decoded and
predicted in batches as large as those of the server were on average. Both take turns. The clients
take their processor time on the same cores, so the rate by the clock counts that, too. Processor
time of an image is the server's alone. Compare it on a busy machine: other programs change it less.
"""

import argparse
import http.client
import json
import os
import random
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

import numpy as np
import torch

import fastad

BATCH = 32


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


class Server:
    """A `fastad serve` that can be killed and started again."""

    def __init__(self, detector, folder):
        self.port = free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        self._command = [sys.executable, "-m", "fastad", "--quiet", "serve", detector]
        self._command += ["--store", str(Path(folder) / "line.db"), "--port", str(self.port)]
        self._command += ["--device", "cpu", "--batch-size", str(BATCH), "--rate", "100000"]
        self.start()

    def start(self):
        self.process = subprocess.Popen(self._command)
        while True:
            assert self.process.poll() is None, "the server did not start"
            try:
                urllib.request.urlopen(f"{self.address}/ready", timeout=5).close()
                return
            except OSError:
                time.sleep(0.1)

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def memory(self):
        """Resident megabytes."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(text.split("VmRSS:")[1].split()[0]) / 1024

    def seconds(self):
        """Processor time so far. Linux names the clock of a process so."""
        return time.clock_gettime((~self.process.pid << 3) | 2)

    def batches(self):
        """How many there were."""
        with urllib.request.urlopen(f"{self.address}/metrics", timeout=60) as answer:
            return float(re.search(r"batch_seconds_count (\S+)", answer.read().decode())[1])


def client(number, server, images, until, answers, seconds, refused):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    sent = sum(1 for answer in answers if answer[0] == number)
    while time.monotonic() < until:
        headers = {"Content-Type": "application/octet-stream"}
        headers["Idempotency-Key"] = key = f"{number}-{sent}"
        content = images[(number + sent) % len(images)] + key.encode()  # each image is new
        begin = time.monotonic()
        while True:
            try:
                connection.request("POST", f"/api/v1/predict?camera={number}", content, headers)
                answer = connection.getresponse()
                text = answer.read()
                if answer.status == 200:
                    [one] = json.loads(text)["results"]
                    break
                if answer.status != 503:
                    raise RuntimeError(f"{answer.status}: {text!r}")
                refused.append(key)
            except (OSError, ValueError, http.client.HTTPException):
                connection.close()  # it was killed
            time.sleep(0.1)
        seconds.append(time.monotonic() - begin)
        answers.append((number, sent, one["id"], one["score"]))
        sent += 1
    connection.close()


def bare(detector, images, size, seconds):
    """Images a second of the detector alone from the same bytes, and processor time of one."""
    loaded, done = fastad.load(detector, device="cpu", batch_size=BATCH), 0
    loaded.predict(images[:size])
    begin, before = time.monotonic(), time.process_time()
    while time.monotonic() - begin < seconds:
        loaded.predict([images[(done + i) % len(images)] for i in range(size)])
        done += size
    return done / (time.monotonic() - begin), (time.process_time() - before) / done


def stored(server):
    """All results by id: camera and score."""
    found, path = {}, "/api/v1/results?limit=500"
    while path:
        with urllib.request.urlopen(server.address + path, timeout=60) as answer:
            page = json.load(answer)
        found |= {one["id"]: (int(one["camera"]), one["score"]) for one in page["results"]}
        path = page["next"]
    return found


class Load:
    """What clients sent and were answered, in all turns."""

    def __init__(self, server, files, clients, folder):
        self.server, self.files, self.clients, self.folder = server, files, clients, Path(folder)
        self.images = [path.read_bytes() for path in files]
        self.answers, self.refused, self.memory = [], [], []
        self.waited = []  # milliseconds: median and 99th percentile of each turn
        self.unheard = 0  # answers that wrk did not wait for, at most

    def turn(self, seconds, kills, rng, with_wrk):
        """Load for so many seconds. The rate, images a batch, and processor time on both sides."""
        before, served, batches = len(self.answers), self.server.seconds(), self.server.batches()
        begin = time.monotonic()
        own = (self._wrk if with_wrk else self._threads)(begin + seconds, kills, rng)
        rate = (len(self.answers) - before) / (time.monotonic() - begin)
        count = max(len(self.answers) - before, 1)
        batch = count / max(self.server.batches() - batches, 1) if not kills else self.clients / 2
        return rate, batch, (self.server.seconds() - served) / count, own / count

    def _threads(self, until, kills, rng):
        begin, own, seconds = time.monotonic(), time.process_time(), []
        shared = (self.server, self.images, until, self.answers, seconds, self.refused)
        threads = [threading.Thread(target=client, args=(i, *shared)) for i in range(self.clients)]
        for thread in threads:
            thread.start()
        for moment in sorted(rng.uniform(0.02, 0.95) * (until - begin) for _ in range(kills)):
            time.sleep(max(0.0, begin + moment - time.monotonic()))
            self.server.kill()
            self.server.start()
        self._look(until)
        for thread in threads:
            thread.join()
        self.waited.append([1000 * float(q) for q in np.percentile(seconds, (50, 99))])
        return time.process_time() - own

    def _wrk(self, until, *_):
        sent = 2 + max((a[1] for a in self.answers), default=-2)  # one may be unheard
        (self.folder / "images.txt").write_text("".join(f"{path}\n" for path in self.files))
        command = ["wrk", "-t", str(self.clients), "-c", str(self.clients), "--timeout", "60s"]
        command += ["-d", f"{max(round(until - time.monotonic()), 1)}s"]
        command += ["-s", str(Path(__file__).with_suffix(".lua")), self.server.address]
        names = {"LOAD_FOLDER": str(self.folder), "LOAD_FROM": str(sent)}
        wrk = subprocess.Popen(command, env=os.environ | names, stdout=subprocess.DEVNULL)
        self._look(until)
        _, status, used = os.wait4(wrk.pid, 0)
        wrk.returncode = os.waitstatus_to_exitcode(status)
        assert wrk.returncode == 0, f"wrk ended with {wrk.returncode}"
        for i in range(self.clients):
            for line in (self.folder / f"answers-{i}.txt").read_text().splitlines():
                number, result, score = line.split()
                if result == "refused":
                    self.refused.append(f"{i}-{number}")
                else:
                    self.answers.append((i, int(number), int(result), float(score)))
        microseconds = (self.folder / "latency.txt").read_text().split()
        self.waited.append([float(q) / 1000 for q in microseconds])
        self.unheard += self.clients
        return used.ru_utime + used.ru_stime

    def _look(self, until):
        while time.monotonic() < until:
            self.memory.append(round(self.server.memory()))
            time.sleep(min(5.0, max(0.05, until - time.monotonic())))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("detector")
    parser.add_argument("images", help="a folder")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=60, help="of load, in all turns")
    parser.add_argument("--turns", type=int, default=1, help="of the server and the detector alone")
    parser.add_argument("--kills", type=int, default=0, help="kill -9 at so many random moments")
    parser.add_argument("--wrk", action="store_true", help="wrk is the clients, without kills")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if given.wrk and given.kills:
        parser.error("--wrk: without --kills")
    files = sorted(p.resolve() for p in Path(given.images).rglob("*") if p.is_file())[:200]
    names = ("clients", "seconds", "turns", "kills", "wrk")
    report = {name: getattr(given, name) for name in names}
    report |= {"cores": os.cpu_count(), "threads": torch.get_num_threads()}
    rng, seconds = random.Random(given.seed), given.seconds / given.turns
    served, alone = [], []
    with tempfile.TemporaryDirectory() as folder:
        server = Server(given.detector, folder)
        load = Load(server, files, given.clients, folder)
        for i in range(given.turns):
            kills = given.kills * (i + 1) // given.turns - given.kills * i // given.turns
            served.append(load.turn(seconds, kills, rng, given.wrk))
            size = max(round(served[-1][1]), 1)
            alone.append(bare(given.detector, load.images, size, min(10, seconds)))
        kept = stored(server)
        server.kill()
    answers = load.answers
    lost = [a for a in answers if kept.get(a[2]) != (a[0], a[3])]
    doubled = len(answers) - len({a[2] for a in answers})
    doubled += max(0, len(kept) - len(answers) - load.unheard)
    of_each = [[a[2] for a in sorted(answers) if a[0] == i] for i in range(given.clients)]
    every = max(len(load.memory) // 12, 1)
    rate, batch, server_time, client_time = map(statistics.median, zip(*served, strict=True))
    bare_rate, bare_time = map(statistics.median, zip(*alone, strict=True))
    report |= {
        "answers": len(answers),
        "stored": len(kept),
        "lost": len(lost),
        "doubled": doubled,
        "in_order": all(ids == sorted(ids) for ids in of_each),
        "refused": len(load.refused),
        "p50_ms": round(statistics.median(p50 for p50, _ in load.waited), 1),
        "p99_ms": round(max(p99 for _, p99 in load.waited), 1),  # of the worst turn
        "images_a_batch": round(batch, 1),
        "rate": round(rate, 2),
        "bare_rate": round(bare_rate, 2),
        "share_of_bare": round(rate / bare_rate, 3),
        "processor_ms": {
            "server": round(1000 * server_time, 2),
            "bare": round(1000 * bare_time, 2),
            "clients": round(1000 * client_time, 2),
        },
        "share_of_bare_by_processor": round(bare_time / server_time, 3),
        "memory_mib": load.memory[::every],
    }
    if given.kills:  # the counts of a server end with it
        for name in ("images_a_batch", "processor_ms", "share_of_bare_by_processor"):
            del report[name]
    print(json.dumps(report, indent=2))
    sys.exit(bool(lost or doubled or not report["in_order"]))


if __name__ == "__main__":
    main()
