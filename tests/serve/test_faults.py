"""A full disk, a clock that jumps and uploads that break off: nothing answered is lost."""

# ruff: noqa: E402  nothing of the extra is imported before it is known to be there
import os
import socket
import subprocess
import threading
import time

import numpy as np
import pytest

for name in ("fastapi", "uvicorn", "sqlalchemy", "prometheus_client", "python_multipart", "httpx"):
    pytest.importorskip(name, reason="needs fastad[serve] and httpx")

from line_images import noise, png

from fastad.serve import clock, inspection
from fastad.serve.store import Store

PREDICT, RESULTS = "/api/v1/predict", "/api/v1/results"
RNG = np.random.default_rng(3)
IMAGES = [png(noise(RNG)) for _ in range(4)]


def stored(client, **query):
    found = client.get(RESULTS, params={"limit": 500} | query).json()["results"]
    return {one["id"]: one["score"] for one in found}


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 4 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", disk]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("a disk cannot be mounted here")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


def test_a_full_disk_refuses_and_works_again(small_disk, serving):
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(2_000_000))
    client, parts = serving(store=Store(str(small_disk / "line.db")), rate=1e6)
    answered, codes = {}, []
    for i in range(200):
        answer = client.post(PREDICT, content=IMAGES[0] + bytes(20_000) + b"%d" % i)
        codes.append(answer.status_code)
        if answer.status_code == 200:
            [one] = answer.json()["results"]
            answered[one["id"]] = one["score"]
        if codes[-3:] == [503, 503, 503]:
            break
    assert codes[0] == 200
    assert codes[-3:] == [503, 503, 503]
    assert answer.headers["Retry-After"] == "5"
    assert "cannot be stored" in answer.json()["detail"]
    assert client.get("/health").status_code == 200
    assert stored(client) == answered
    assert parts.metrics.unstored._value.get() == codes.count(503)
    ballast.unlink()
    answer = client.post(PREDICT, content=IMAGES[1])
    assert answer.status_code == 200
    [one] = answer.json()["results"]
    assert stored(client) == answered | {one["id"]: one["score"]}


def test_a_clock_that_jumps_loses_and_mixes_nothing(serving, monkeypatch):
    real, jumped = time.time, [0.0]
    monkeypatch.setattr(time, "time", lambda: real() + jumped[0])
    client, _ = serving(rate=1e6)
    ids = []
    for days in (0, -30, 400, -3650, 0):
        jumped[0] = days * 86400.0
        [one] = client.post(PREDICT, content=IMAGES[0]).json()["results"]
        ids.append(one["id"])
    assert ids == sorted(set(ids))
    assert list(stored(client)) == ids[::-1]  # in the order of their coming, not of the clock
    now = real()
    assert set(stored(client, since=now - 3600, until=now + 3600)) == {ids[0], ids[-1]}
    for page in ("/", f"/results/{ids[2]}", "/detectors/part"):
        assert client.get(page).status_code == 200


def test_nothing_is_deleted_by_a_clock_that_jumped(serving, tmp_path, monkeypatch):
    real, monotonic, now = time.time(), time.monotonic(), [0.0, 0.0]  # jumped, passed
    monkeypatch.setattr(time, "time", lambda: real + now[0] + now[1])
    monkeypatch.setattr(clock, "monotonic", lambda: monotonic + now[1])
    monkeypatch.setattr(inspection, "RETAIN_SECONDS", -1.0)
    client, _ = serving(store=Store(str(tmp_path / "line.db"), keep_days=30))

    def sent():
        [one] = client.post(PREDICT, content=IMAGES[0]).json()["results"]
        client.post(PREDICT, content=IMAGES[1])  # the retention after the first has ended
        return one["id"]

    first = sent()
    now[0] = 400 * 86400.0
    second = sent()
    now[0], now[1] = 0.0, 600.0
    third = sent()
    assert {first, second, third} <= set(stored(client))
    now[1] += 31 * 86400.0  # a month of work
    sent()
    sent()
    assert not {first, third} & set(stored(client))


@pytest.fixture
def listening(serving):
    """A server at a real socket: its address and what it logs."""
    import uvicorn

    client, _ = serving(rate=1e6)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = uvicorn.Config(client.app, port=port, log_level="warning", lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    yield port, client
    server.should_exit = True
    thread.join()


def request(content, length, kind="application/octet-stream"):
    head = f"POST {PREDICT} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {kind}\r\n"
    return f"{head}Content-Length: {length}\r\n\r\n".encode() + content


def test_a_torn_upload_leaves_nothing(listening, caplog):
    port, client = listening
    image = IMAGES[0]
    form = b'--x\r\nContent-Disposition: form-data; name="images"; filename="a"\r\n\r\n' + image
    torn = [
        request(image[:2000], len(image)),
        request(form[:2000], len(form) + 7, "multipart/form-data; boundary=x"),
        request(b"", len(image)),
        request(image, len(image))[:60],
    ]
    for sent in torn:
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(sent)
    # All of its bytes came, but not all of the image's; and who sent it does not wait.
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(request(image[:2000], 2000))
        assert b" 422 " in connection.recv(1000)
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(request(IMAGES[1], len(IMAGES[1])))
    deadline = time.monotonic() + 30
    while not stored(client) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert client.post(PREDICT, content=IMAGES[2]).status_code == 200
    assert len(stored(client)) == 2
    assert not [record for record in caplog.records if record.levelname in ("ERROR", "CRITICAL")]
