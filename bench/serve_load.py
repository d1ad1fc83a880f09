"""Load on `fastad serve`: how fast it answers, and whether a killed server loses an answer.

    python bench/serve_load.py DETECTOR IMAGES --seconds 60 --turns 3
    python bench/serve_load.py DETECTOR IMAGES --seconds 120 --kills 10

Clients send images one by one, each with a key of its own, and send them again until they are
answered. At the end the store must hold every answer once, as it was given, and nothing twice.

The rate stands beside that of the detector alone in one process: the same files, decoded and
predicted in batches as large as those of the server were on average. Both take turns. On a busy
machine compare the processor time of an image, which other programs change less.
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


def turn(server, images, clients, seconds, kills, rng, answers, waited, refused, memory):
    """Load for so many seconds. The rate, images a batch, and processor time on both sides."""
    begin = time.monotonic()
    until, before = begin + seconds, len(answers)
    own, served, batches = time.process_time(), server.seconds(), server.batches()
    shared = (server, images, until, answers, waited, refused)
    threads = [threading.Thread(target=client, args=(i, *shared)) for i in range(clients)]
    for thread in threads:
        thread.start()
    for moment in sorted(rng.uniform(0.02, 0.95) * seconds for _ in range(kills)):
        time.sleep(max(0.0, begin + moment - time.monotonic()))
        server.kill()
        server.start()
    while time.monotonic() < until:
        memory.append(round(server.memory()))
        time.sleep(min(5.0, max(0.05, until - time.monotonic())))
    for thread in threads:
        thread.join()
    rate = (len(answers) - before) / (time.monotonic() - begin)
    count = max(len(answers) - before, 1)
    batch = count / max(server.batches() - batches, 1) if not kills else clients / 2
    return rate, batch, (server.seconds() - served) / count, (time.process_time() - own) / count


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("detector")
    parser.add_argument("images", help="a folder")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=60, help="of load, in all turns")
    parser.add_argument("--turns", type=int, default=1, help="of the server and the detector alone")
    parser.add_argument("--kills", type=int, default=0, help="kill -9 at so many random moments")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    files = sorted(p for p in Path(given.images).rglob("*") if p.is_file())[:200]
    images = [path.read_bytes() for path in files]
    report = {name: getattr(given, name) for name in ("clients", "seconds", "turns", "kills")}
    report |= {"cores": os.cpu_count(), "threads": torch.get_num_threads()}
    rng, seconds = random.Random(given.seed), given.seconds / given.turns
    answers, waited, refused, memory, served, alone = [], [], [], [], [], []
    with tempfile.TemporaryDirectory() as folder:
        server = Server(given.detector, folder)
        lists = (answers, waited, refused, memory)
        for i in range(given.turns):
            kills = given.kills * (i + 1) // given.turns - given.kills * i // given.turns
            served.append(turn(server, images, given.clients, seconds, kills, rng, *lists))
            size = max(round(served[-1][1]), 1)
            alone.append(bare(given.detector, images, size, min(10, seconds)))
        kept = stored(server)
        server.kill()
    lost = [a for a in answers if kept.get(a[2]) != (a[0], a[3])]
    doubled = len(answers) - len({a[2] for a in answers}) + max(0, len(kept) - len(answers))
    of_each = [[a[2] for a in sorted(answers) if a[0] == i] for i in range(given.clients)]
    rate, batch, server_time, client_time = map(statistics.median, zip(*served, strict=True))
    bare_rate, bare_time = map(statistics.median, zip(*alone, strict=True))
    report |= {
        "answers": len(answers),
        "stored": len(kept),
        "lost": len(lost),
        "doubled": doubled,
        "in_order": all(ids == sorted(ids) for ids in of_each),
        "refused": len(refused),
        "p50_ms": round(1000 * float(np.percentile(waited, 50)), 1),
        "p99_ms": round(1000 * float(np.percentile(waited, 99)), 1),
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
        "memory_mib": memory,
    }
    if given.kills:  # the counts of a server end with it
        for name in ("images_a_batch", "processor_ms", "share_of_bare_by_processor"):
            del report[name]
    print(json.dumps(report, indent=2))
    sys.exit(bool(lost or doubled or not report["in_order"]))


if __name__ == "__main__":
    main()
