"""A watcher on a real folder: every kind of writer, each image once, in order."""

import csv
import os
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from fastad.watch.journal import Journal


def rows(tmp_path):
    path = tmp_path / "out.csv"
    if not path.exists():
        return []
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def paths(tmp_path):
    return [os.path.basename(row["path"]) for row in rows(tmp_path)]


def content(tmp_path, level=200, kind="png"):
    path = tmp_path / f"one.{kind}"
    Image.fromarray(np.full((64, 64, 3), level, np.uint8)).save(path)
    return path.read_bytes()


def test_old_images_are_left_and_new_ones_inspected(running, crashing, folder, tmp_path, until):
    crashing.write_image(folder, 1)
    running()
    for number in (2, 200):
        crashing.write_image(folder, number)
        until(lambda n=number: f"{n}.png" in paths(tmp_path))
    assert paths(tmp_path) == ["2.png", "200.png"]
    good, bad = rows(tmp_path)
    assert (good["is_anomalous"], bad["is_anomalous"]) == ("False", "True")
    assert (good["number"], bad["number"]) == ("1", "2")
    assert good["moved_to"] == str(tmp_path / "good" / "2.png")
    until(lambda: (tmp_path / "bad" / "200.png").exists())
    assert [path.name for path in folder.glob("*.png")] == ["1.png"]


def test_images_in_a_new_folder_are_found(running, crashing, folder, tmp_path, until):
    running(moves=False)
    for name in ("batch", "batch/deep"):
        (folder / name).mkdir()
        crashing.write_image(folder / name, 3)
    until(lambda: len(rows(tmp_path)) == 2)


@pytest.mark.parametrize("kind", ["png", "jpg", "bmp", "tif"])
def test_a_slow_writer_is_waited_for(running, folder, tmp_path, until, kind):
    running(settle=0.3, patience=5.0)
    data = content(tmp_path, kind=kind)
    with open(folder / f"slow.{kind}", "wb", buffering=0) as file:
        for start in range(0, len(data), len(data) // 6 + 1):
            file.write(data[start : start + len(data) // 6 + 1])
            time.sleep(0.1)
    until(lambda: rows(tmp_path))
    [row] = rows(tmp_path)
    assert row["status"] == "ok"
    assert abs(float(row["score"]) - 200 / 255) < 0.01


def test_a_writer_that_pauses_longer_than_settling_is_waited_for(running, folder, tmp_path, until):
    running(settle=0.05, patience=5.0)
    data = content(tmp_path)
    (folder / "a.png").write_bytes(data[: len(data) // 2])
    time.sleep(0.6)
    assert rows(tmp_path) == []
    (folder / "a.png").write_bytes(data)
    until(lambda: rows(tmp_path))
    assert [row["status"] for row in rows(tmp_path)] == ["ok"]


def test_a_torn_image_is_said_to_be_unreadable_and_stays(running, folder, tmp_path, until):
    running(patience=0.5)
    (folder / "torn.png").write_bytes(content(tmp_path)[:80])
    (folder / "empty.png").write_bytes(b"")
    (folder / "whole.png").write_bytes(content(tmp_path))
    until(lambda: len(rows(tmp_path)) == 3)
    status = {os.path.basename(row["path"]): row["status"] for row in rows(tmp_path)}
    assert status == {"whole.png": "ok", "torn.png": "unreadable", "empty.png": "unreadable"}
    until(lambda: (tmp_path / "bad" / "whole.png").exists())
    assert (folder / "torn.png").exists()
    assert not any((tmp_path / name / "torn.png").exists() for name in ("good", "bad"))
    [said] = [row["error"] for row in rows(tmp_path) if "empty" in row["path"]]
    assert "is empty" in said


def test_a_file_that_is_written_anew_is_a_new_image(running, crashing, folder, tmp_path, until):
    running(moves=False)
    for count in (1, 2):
        crashing.write_image(folder, 5)
        until(lambda n=count: len(rows(tmp_path)) == n)
    os.replace(folder / "5.png", folder / "6.png")
    until(lambda: paths(tmp_path) == ["5.png", "5.png", "6.png"])


def test_a_name_that_is_taken_in_the_target_gets_a_number(
    running, crashing, folder, tmp_path, until
):
    running()
    for count in (1, 2, 3):
        crashing.write_image(folder, 7)
        until(lambda n=count: len(list((tmp_path / "good").glob("*.png"))) == n)
    names = {path.name for path in (tmp_path / "good").glob("*.png")}
    assert names == {"7.png", "7-2.png", "7-3.png"}
    until(lambda: [os.path.basename(row["moved_to"]) for row in rows(tmp_path)] == [
        "7.png", "7-2.png", "7-3.png",
    ])  # fmt: skip


def test_what_came_while_it_was_stopped_is_inspected_in_order(
    running, crashing, folder, tmp_path, until
):
    stop = running(moves=False)
    crashing.write_image(folder, 1)
    until(lambda: rows(tmp_path))
    stop()
    for number in (12, 2, 30):
        crashing.write_image(folder, number)
        time.sleep(0.02)
    running(moves=False)
    until(lambda: len(rows(tmp_path)) == 4)
    time.sleep(0.3)
    assert paths(tmp_path) == ["1.png", "12.png", "2.png", "30.png"]


def test_a_folder_can_be_looked_through_instead(running, crashing, folder, tmp_path, until):
    running(poll=0.1)
    for number in range(5):
        crashing.write_image(folder, number)
    until(lambda: len(rows(tmp_path)) == 5)


def test_a_move_that_a_crash_interrupted_is_finished(crashing, folder, tmp_path):
    watcher = crashing.watcher(folder, tmp_path / "state.db", settle=0.0, poll=1.0)
    places = watcher._places._on_disk
    moves = places.pop("move")
    for number in (1, 2, 3):
        crashing.write_image(folder, number)
    watcher._arrivals.look(0.0)
    watcher.step()
    (folder / "1.png").rename(tmp_path / "good" / "1.png")  # moved, and not noted
    data = (folder / "2.png").read_bytes()
    (tmp_path / "good" / "2.png").write_bytes(data)  # copied to another disk, and not removed
    crashing.write_image(folder, 3, size=9)  # another image with the name of one that waits
    moves.write()
    assert sorted(path.name for path in folder.glob("*.png")) == ["3.png"]
    assert sorted(path.name for path in (tmp_path / "good").iterdir()) == ["1.png", "2.png"]
    places["move"] = moves
    watcher._arrivals.look(10.0)
    watcher.step()
    assert paths(tmp_path) == ["1.png", "2.png", "3.png", "3.png"]
    assert rows(tmp_path)[3]["moved_to"] == str(tmp_path / "good" / "3.png")
    assert (tmp_path / "good" / "3.png").exists()
    watcher._places._journal.close()


def test_a_state_is_of_one_folder_and_one_process(tmp_path):
    state = tmp_path / "state.db"
    journal = Journal(state, "the folder a")
    journal.begin("the folder a", [])
    with pytest.raises(RuntimeError, match="another process uses the state"):
        Journal(state, "the folder a")
    journal.close()
    with pytest.raises(ValueError, match="is of the folder a, not of the folder b"):
        Journal(state, "the folder b")
    (tmp_path / "text").write_text("no database" * 100)
    with pytest.raises(ValueError, match="is no state of `fastad watch`"):
        Journal(tmp_path / "text", "x")
    with pytest.raises(OSError, match="cannot open the state"):
        Journal(tmp_path / "nowhere" / "state.db", "x")


def test_nothing_is_lost_or_doubled_by_kills(crashing, folder, tmp_path):
    pytest.importorskip("watchfiles")
    command = [sys.executable, crashing.__file__, folder, tmp_path / "state.db", "20", "250"]
    subprocess.run(list(map(str, command)), check=True, timeout=120)
    found = rows(tmp_path)
    assert [int(row["number"]) for row in found] == list(range(1, 251))
    assert sorted(int(name[:-4]) for name in paths(tmp_path)) == list(range(1, 251))
    lines = (tmp_path / "out.jsonl").read_text().splitlines()
    assert len(lines) == 250
    moved = {path.name for name in ("good", "bad") for path in (tmp_path / name).iterdir()}
    assert moved == {f"{number}.png" for number in range(1, 251)}
    assert not list(folder.glob("*.png"))
    bad = {path.name for path in (tmp_path / "bad").iterdir()}
    assert bad == {f"{number}.png" for number in range(128, 251)}


@pytest.mark.slow
def test_a_folder_with_many_old_files_starts_in_seconds(crashing, folder, tmp_path):
    data = content(tmp_path)
    for number in range(50_000):
        if number % 1000 == 0:
            (folder / str(number // 1000)).mkdir()
        (folder / str(number // 1000) / f"{number}.png").write_bytes(data)
    for _ in range(2):  # the first start, and a later one
        begin = time.process_time()
        watcher = crashing.watcher(folder, tmp_path / "state.db", moves=False)
        watcher._arrivals.look(0.0)
        watcher.step()
        assert time.process_time() - begin < 10
        watcher._places._journal.close()
    assert rows(tmp_path) == []
