"""Files of results after crashes, full disks and other programs' hands."""

import csv
import io
import json
import os
import subprocess
from pathlib import Path

import pytest

from fastad.watch import result_files
from fastad.watch.journal import Journal, Stamp
from fastad.watch.places import Places
from fastad.watch.result_files import TABLE, CsvLines, JsonLines, ResultFile

NAMES = ["a.png", 'quote".png', "comma,.png", "ü.png", "line\nbreak.png"]


def row(name, **cells):
    empty = dict.fromkeys(TABLE[1:])
    return empty | {"path": name, "score": 0.25, "is_anomalous": False, "status": "ok"} | cells


def results(names):
    return [(Path(name), Stamp(1, 2), 3.0, row(name)) for name in names]


@pytest.fixture
def journal(tmp_path):
    journal = Journal(tmp_path / "state.db", "test")
    journal.begin("test", [])
    yield journal
    journal.close()


def csv_rows(path):
    return list(csv.DictReader(io.StringIO(Path(path).read_bytes().decode())))


@pytest.mark.parametrize("lines", [CsvLines(), JsonLines()], ids=["csv", "json"])
def test_a_file_is_the_same_wherever_a_crash_cut_it(journal, tmp_path, lines, monkeypatch):
    journal.serve(["whole"])
    journal.record(results(NAMES))
    whole = ResultFile(str(tmp_path / "whole"), "whole", lines, journal)
    whole.write()
    expected = (tmp_path / "whole").read_bytes()
    for cut in {0, 1, *range(2, len(expected), 11), len(expected) - 1, len(expected)}:
        path, place = tmp_path / f"cut_{cut}", f"cut {cut}"
        journal.serve([place])
        file = ResultFile(str(path), place, lines, journal)
        journal.record(results(NAMES))
        path.write_bytes(expected[:cut])  # all that the crash left, before the journal knew of it
        monkeypatch.setattr(type(lines), "line", renumbered(type(lines).line, journal, place))
        file.write()
        assert path.read_bytes() == expected
        file.write()
        assert path.read_bytes() == expected
        monkeypatch.undo()


def renumbered(line, journal, place):
    """Lines as if the first pending result were number 1."""
    first = journal.pending(place)[0].number

    def of(self, pending):
        object.__setattr__(pending, "number", pending.number - first + 1)
        return line(self, pending)

    return of


def test_rows_are_the_results(journal, tmp_path):
    journal.serve(["csv", "json"])
    journal.record(results(NAMES))
    for place, lines in (("csv", CsvLines()), ("json", JsonLines())):
        ResultFile(str(tmp_path / place), place, lines, journal).write()
    assert [one["path"] for one in csv_rows(tmp_path / "csv")] == NAMES
    assert list(csv_rows(tmp_path / "csv")[0]) == list(TABLE)
    found = [json.loads(line) for line in (tmp_path / "json").read_text().splitlines()]
    assert [(one["number"], one["path"]) for one in found] == list(enumerate(NAMES, start=1))
    assert found[0]["is_anomalous"] is False


def test_a_name_that_is_no_text_is_kept(journal, tmp_path):
    name = os.fsdecode(b"caf\xe9.png")
    journal.serve(["csv"])
    journal.record(results([name]))
    ResultFile(str(tmp_path / "out"), "csv", CsvLines(), journal).write()
    assert b"caf\xe9.png" in (tmp_path / "out").read_bytes()


def test_lines_of_others_stay_and_ours_follow_whole(journal, tmp_path):
    path = tmp_path / "out.csv"
    journal.serve(["csv"])
    file = ResultFile(str(path), "csv", CsvLines(), journal)
    journal.record(results(["a.png"]))
    file.write()
    with open(path, "a") as other:
        other.write("a comment\n")
    journal.record(results(["b.png"]))
    file.write()
    assert [line.split(",")[2 * (line[0] in "12")] for line in path.read_text().splitlines()] == [
        "number", "a.png", "a comment", "b.png",
    ]  # fmt: skip


def test_a_file_that_was_rotated_away_begins_anew(journal, tmp_path):
    path = tmp_path / "out.csv"
    journal.serve(["csv"])
    file = ResultFile(str(path), "csv", CsvLines(), journal)
    for name in ("a.png", "b.png"):
        journal.record(results([name]))
        file.write()
        path.rename(tmp_path / f"{name}.csv")
    for name in ("a.png", "b.png"):
        assert [one["path"] for one in csv_rows(tmp_path / f"{name}.csv")] == [name]


def test_a_table_of_an_earlier_state_is_continued(journal, tmp_path):
    path = tmp_path / "out.csv"
    path.write_text(CsvLines().header + "1,x,old.png")  # without its last line break
    journal.serve(["csv"])
    file = ResultFile(str(path), "csv", CsvLines(), journal)
    journal.record(results(["a.png"]))
    file.write()
    assert [one["path"] for one in csv_rows(path)] == ["old.png", "a.png"]


def test_another_table_is_refused(journal, tmp_path):
    (tmp_path / "out.csv").write_text("path,score\n")
    with pytest.raises(ValueError, match=r"out.csv exists and has other columns"):
        ResultFile(str(tmp_path / "out.csv"), "csv", CsvLines(), journal)


@pytest.fixture
def full_disk(tmp_path):
    """A disk of 64 KiB."""
    path = tmp_path / "small"
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(path)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("no small file system can be mounted here")
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)


def test_a_full_disk_delays_lines_and_tears_none(journal, full_disk, caplog):
    path = full_disk / "out.csv"
    journal_places = {"csv": None}
    file = ResultFile(str(path), "csv", CsvLines(), journal)
    now = [0.0]
    places = Places(journal, journal_places | {"csv": file}, clock=lambda: now[0])
    names = [f"{'long' * 20}_{i}.png" for i in range(700)]  # 80 KiB
    assert places.record(results(names))
    places.write()
    assert "No space left" in caplog.text
    assert 0 < path.stat().st_size <= 2**16
    assert journal.count("csv") > 0
    subprocess.run(["mount", "-o", "remount,size=1m", str(full_disk)], check=True)
    places.write()
    assert journal.count("csv") > 0  # it is not tried at every step
    now[0] += 10
    places.write()
    assert [one["path"] for one in csv_rows(path)] == names


def test_a_writer_that_fails_half_way_is_continued(journal, tmp_path, monkeypatch):
    path = tmp_path / "out.csv"
    journal.serve(["csv"])
    file = ResultFile(str(path), "csv", CsvLines(), journal)
    journal.record(results(NAMES))

    def no_room(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(result_files.os, "fsync", no_room)
    with pytest.raises(OSError, match="No space"):
        file.write()
    monkeypatch.undo()
    with open(path, "rb+") as cut:
        cut.truncate(70)
    file.write()
    assert [one["path"] for one in csv_rows(path)] == NAMES


def test_a_full_disk_under_the_journal_records_nothing(tmp_path, full_disk, caplog):
    journal = Journal(full_disk / "state.db", "test")
    journal.begin("test", [])
    now = [0.0]
    places = Places(
        journal, {"csv": type("None", (), {"write": lambda self: None})()}, clock=lambda: now[0]
    )
    kept = 0
    while places.record(results([f"{kept}{'x' * 1000}.png"])):
        kept += 1
    assert "nothing is recorded" in caplog.text
    assert not places.can_record
    assert journal.count("csv") == kept
    now[0] += 10
    assert places.can_record
    subprocess.run(["mount", "-o", "remount,size=1m", str(full_disk)], check=True)
    assert places.record(results(["last.png"]))
    assert [one.number for one in journal.pending("csv")] == list(range(1, kept + 2))
    journal.close()
