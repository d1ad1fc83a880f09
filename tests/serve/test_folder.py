"""A folder that the server watches: each image once, whatever fails in between."""

# ruff: noqa: E402  nothing of the extra is imported before it is known to be there
import os
import sqlite3
import time

import numpy as np
import pytest

for name in ("fastapi", "sqlalchemy", "prometheus_client", "python_multipart", "httpx"):
    pytest.importorskip(name, reason="needs fastad[serve] and httpx")
pytest.importorskip("watchfiles", reason="needs watchfiles")

from line_images import noise, png

from fastad.commands import UsageError
from fastad.commands.serve import watched_folders
from fastad.serve import folder as folder_module
from fastad.serve.store import Filters, Store

RNG = np.random.default_rng(5)
IMAGES = [png(noise(RNG)) for _ in range(6)]


@pytest.fixture
def line(tmp_path, monkeypatch):
    """A folder, and a server that takes a file as complete at once."""
    monkeypatch.setattr(folder_module, "AGAIN", 0.05)
    monkeypatch.setattr(folder_module.WatchedFolder.__init__, "__defaults__", (0.0,))
    (tmp_path / "line_3").mkdir()
    return tmp_path / "line_3"


def until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def put(folder, name, content):
    """As a camera's program does that writes under another name and renames."""
    (folder / f".{name}").write_bytes(content)
    os.rename(folder / f".{name}", folder / name)


def names(store):
    return [one.name for one in store.every(Filters())]


def test_each_new_image_is_judged_once_over_restarts(serving, line, tmp_path):
    store = Store(str(tmp_path / "line.db"))
    put(line, "old.png", IMAGES[0])
    _, parts = serving(store=store, folders={str(line): "part"})
    [first] = parts.folders
    assert first.left == 1
    put(line, "1.png", IMAGES[1])
    until(lambda: names(store) == ["1.png"])
    put(line, "2.png", IMAGES[2])
    until(lambda: names(store) == ["1.png", "2.png"])
    first.stop()
    assert not first.is_alive()
    put(line, "3.png", IMAGES[3])  # while nobody watches
    put(line, "1.png", IMAGES[4])  # written anew: a new image
    _, parts = serving(store=store, folders={str(line): "part"})
    assert parts.folders[0].left == 0
    until(lambda: len(names(store)) >= 4)
    put(line, "4.png", IMAGES[5])
    until(lambda: names(store)[-1] == "4.png")
    assert sorted(names(store)) == ["1.png", "1.png", "2.png", "3.png", "4.png"]
    assert {one.camera for one in store.every(Filters())} == {"line_3"}


def test_what_fails_is_sent_again_and_kept_once(serving, line, monkeypatch):
    _, parts = serving(folders={str(line): "part"})
    store, [folder] = parts.store, parts.folders
    add, record, failures = store.add, folder._journal.record, []

    def full_disk(entries):
        if "disk" not in failures:
            failures.append("disk")
            raise OSError("no space")
        return add(entries)

    def dies_before_the_journal(*arguments):
        if "journal" not in failures:
            failures.append("journal")
            raise sqlite3.OperationalError("disk is full")
        record(*arguments)

    monkeypatch.setattr(store, "add", full_disk)
    monkeypatch.setattr(folder._journal, "record", dies_before_the_journal)
    put(line, "1.png", IMAGES[1])
    until(lambda: failures == ["disk", "journal"])
    put(line, "2.png", IMAGES[2])
    until(lambda: len(names(store)) == 2)
    until(lambda: folder._journal.stamp_of(folder.folder.joinpath("2.png").relative_to(line)))
    assert names(store) == ["1.png", "2.png"]


def test_an_image_that_cannot_be_read_holds_up_none(serving, line):
    _, parts = serving(folders={str(line): "part"}, max_bytes=50_000, max_pixels=5000)
    put(line, "0.png", IMAGES[0][:3000])
    put(line, "1.png", b"no image")
    put(line, "2.png", IMAGES[2] + bytes(60_000))
    put(line, "3.png", png(np.zeros((80, 80, 3), np.uint8)))
    put(line, "4.png", IMAGES[4])
    until(lambda: names(parts.store) == ["4.png"])


def test_a_folder_that_is_taken_away_is_said(serving, line, caplog, monkeypatch):
    monkeypatch.setattr("fastad.watch.watcher.LOOK", 0.1)
    client, parts = serving(folders={str(line): "part"})
    until(lambda: client.get("/ready").status_code == 200)
    os.rename(line, line.with_name("gone"))
    until(lambda: not parts.folders[0].is_alive())
    assert client.get("/ready").status_code == 503
    assert "is not watched any more" in caplog.text


def test_folders_name_their_detectors(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b", "x=y"):
        (tmp_path / name).mkdir()
    assert watched_folders(["a", "part=b", "x=y"], ["part"]) == {
        "a": "part",
        "b": "part",
        "x=y": "part",
    }
    assert watched_folders(["p=a", "q=b"], ["p", "q"]) == {"a": "p", "b": "q"}
    with pytest.raises(UsageError, match=r"--watch p=FOLDER; there are p, q"):
        watched_folders(["a"], ["p", "q"])
    with pytest.raises(NotADirectoryError, match="no folder none"):
        watched_folders(["none"], ["part"])
