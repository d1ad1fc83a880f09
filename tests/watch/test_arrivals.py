"""Which files are new and complete, with a clock that the test moves."""

import os

import pytest

from fastad.watch.arrivals import Arrivals, stamp_of


def write(path, size=10, modified=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)
    if modified is not None:
        os.utime(path, ns=(modified, modified))


@pytest.fixture
def known():
    return {}


@pytest.fixture
def arrivals(folder, known):
    return Arrivals(folder, lambda path, stamp: known.get(path) == stamp, settle=1.0)


def names(ready):
    return [path.as_posix() for path, _ in ready]


def test_a_file_is_ready_once_it_has_settled(arrivals, folder):
    write(folder / "a.png")
    arrivals.changed([folder / "a.png"], now=10.0)
    assert names(arrivals.ready(10.9)) == []
    assert names(arrivals.ready(11.0)) == ["a.png"]


def test_a_file_that_grows_is_waited_for(arrivals, folder):
    write(folder / "a.png")
    arrivals.changed([folder / "a.png"], now=0.0)
    for now in range(1, 5):
        write(folder / "a.png", size=10 + now)
        assert names(arrivals.ready(now)) == []
    assert names(arrivals.ready(4.9)) == []
    assert names(arrivals.ready(5.0)) == ["a.png"]


def test_a_file_of_fixed_size_that_is_filled_is_waited_for(arrivals, folder):
    write(folder / "a.bmp", modified=1)
    arrivals.changed([folder / "a.bmp"], now=0.0)
    write(folder / "a.bmp", modified=2)
    assert names(arrivals.ready(1.5)) == []
    assert names(arrivals.ready(2.5)) == ["a.bmp"]


def test_the_order_is_that_of_the_last_writes_then_of_the_names(arrivals, folder):
    for name, modified in (("10.png", 5), ("2.png", 5), ("z.png", 1), ("sub/a.png", 3)):
        write(folder / name, modified=modified)
    arrivals.look(now=0.0)
    assert names(arrivals.ready(1.0)) == ["z.png", "sub/a.png", "2.png", "10.png"]


def test_a_known_file_is_new_again_only_where_it_changed(arrivals, folder, known):
    write(folder / "a.png")
    [(path, stamp)] = arrivals.all_files()
    known[path] = stamp
    arrivals.look(now=0.0)
    arrivals.changed([folder / "a.png"], now=0.0)
    assert names(arrivals.ready(5.0)) == []
    write(folder / "a.png", size=11)
    arrivals.changed([folder / "a.png"], now=5.0)
    assert names(arrivals.ready(6.0)) == ["a.png"]


def test_a_file_that_goes_away_is_forgotten(arrivals, folder):
    write(folder / "a.png")
    arrivals.look(now=0.0)
    (folder / "a.png").unlink()
    assert names(arrivals.ready(5.0)) == []
    write(folder / "a.png")
    arrivals.look(now=6.0)
    assert names(arrivals.ready(6.5)) == []  # it settles anew


def test_what_is_no_image_does_not_count(folder, known):
    without = folder / "bad"
    arrivals = Arrivals(folder, lambda *_: False, 0.0, [without])
    files = [".a.png", "a.png.tmp", "a.txt", ".hidden/a.png", "bad/a.png", "bad/deep/a.png"]
    files += ["thumbs/a.png", "report/a.png"]
    for name in files:
        write(folder / name)
    write(folder / "report/fastad-report.json")
    write(folder / "badly/a.png")
    for path in [*files, "badly/a.png"]:
        arrivals.changed([folder / path], now=0.0)
    arrivals.changed([p for p in folder.rglob("*") if p.is_dir()], now=0.0)
    assert names(arrivals.ready(0.0)) == ["badly/a.png"]
    arrivals.look(now=0.0)
    assert names(arrivals.ready(0.0)) == ["badly/a.png"]


def test_a_new_folder_is_looked_through(arrivals, folder):
    write(folder / "batch/deep/a.png")
    arrivals.changed([folder / "batch"], now=0.0)
    assert names(arrivals.ready(1.0)) == ["batch/deep/a.png"]


def test_a_postponed_file_waits_unless_it_changes(arrivals, folder):
    write(folder / "a.png")
    arrivals.look(now=0.0)
    [(path, _)] = arrivals.ready(1.0)
    arrivals.postpone(path, until=20.0)
    assert names(arrivals.ready(19.0)) == []
    write(folder / "a.png", size=20)
    assert names(arrivals.ready(19.0)) == []
    assert names(arrivals.ready(20.0)) == ["a.png"]
    assert arrivals.age(path, 20.5) == 1.5


def test_the_stamp_of_no_file_is_none(tmp_path):
    assert stamp_of(tmp_path / "a.png") is None
