"""``--parquet``: the table of the CSV, typed, in Parquet."""

import csv
import os
import shutil
import sys

import pytest


def as_text(table):
    """The rows of a Parquet table, each cell as CSV has it."""
    rows = table.to_pylist()
    return [{k: "" if v is None else str(v) for k, v in row.items()} for row in rows]


def read(path):
    with open(path, newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def parquet():
    pytest.importorskip("pyarrow", reason="needs fastad[parquet]")
    from pyarrow import parquet

    return parquet


KINDS = {
    **dict.fromkeys(("path", "input", "status", "error", "type"), "string"),
    **dict.fromkeys(("score", "p_value"), "double"),
    **dict.fromkeys(("is_anomalous", "is_defect"), "bool"),
}


@pytest.mark.parametrize("command", ["predict", "evaluate"])
def test_the_table_is_that_of_the_csv(fastad, detector, images, tmp_path, parquet, command):
    data = shutil.copytree(images, tmp_path / "data")
    (data / "test/good/1.png").write_text("no image")
    given = data / "test" if command == "predict" else data
    files = tmp_path / "t.csv", tmp_path / "results"  # the option says what it is, not the name
    code, out, err = fastad(
        command, detector, given, "--csv", files[0], "--parquet", files[1], "--skip-bad"
    )
    assert code == 4, err
    assert "path,score" not in out
    table, rows = parquet.read_table(files[1]), read(files[0])
    assert table.column_names == list(rows[0])
    assert as_text(table) == rows
    assert {row["status"] for row in rows} == {"ok", "unreadable"}
    assert {name: str(table.schema.field(name).type) for name in table.column_names} == {
        name: KINDS[name] for name in rows[0]
    }
    code, _, err = fastad(command, detector, given, "--parquet", files[1], "--skip-bad")
    assert code == 4, err
    assert as_text(parquet.read_table(files[1])) == rows


def test_regions_and_odd_names(fastad, detector, images, tmp_path, parquet):
    folder = tmp_path / "odd"
    folder.mkdir()
    shutil.copy(images / "test/hole/0.png", folder / os.fsdecode(b"b\xff.png"))
    files = [tmp_path / name for name in ("r.csv", "r.parquet")]
    for file in files:
        code, _, err = fastad("predict", detector, folder, "--regions", file)
        assert code == 0, err
    table, rows = parquet.read_table(files[1]), read(files[0])
    assert table.column_names == list(rows[0])
    assert len(rows) > 0
    for row in rows:
        row["path"] = row["path"].replace("\udcff", "\\udcff")
    assert as_text(table) == rows
    assert str(table.schema.field("region").type) == "int64"
    assert str(table.schema.field("area_mm2").type) == "double"  # though all are null


@pytest.mark.parametrize("name", [os.fsdecode(b"b\xff.png"), r"b\udcff.png", "b\\u005c\udcff.png"])
def test_results_name_the_images_of_another_run(fastad, detector, images, tmp_path, parquet, name):
    """A byte that is no UTF-8, and a name that looks as if it had one."""
    shutil.copy(images / "test/hole/0.png", tmp_path / name)
    table = tmp_path / "t.parquet"
    code, _, err = fastad("predict", detector, tmp_path / name, "--parquet", table)
    assert code == 0, err
    code, out, err = fastad("predict", detector, "--images-from", table, "--csv", "-")
    assert code == 0, err
    expected = fastad("predict", detector, tmp_path / name, "--csv", "-")[1]
    assert out == expected


def test_wrong_use_is_said_before_any_work(fastad, detector, images, tmp_path, monkeypatch):
    code, _, err = fastad("predict", detector, images / "test", "--parquet", "-")
    assert code == 2
    assert "--parquet takes a file, not stdout" in err
    for option in ("--parquet", "--csv", "--json", "--regions"):
        code, _, err = fastad("predict", detector, images / "test", option, "")
        assert code == 2
        assert f"{option} must name a file; it is empty" in err
    for command, given in (("predict", images / "test"), ("evaluate", images)):
        code, _, err = fastad(command, detector, given, "--parquet", tmp_path / "no" / "t.parquet")
        assert code == 1
        assert "there is no folder" in err
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    for option in ("--parquet", "--regions"):
        target = tmp_path / "t.parquet"
        code, _, err = fastad("predict", tmp_path / "none.fastad", images / "test", option, target)
        assert code == 1
        assert err.strip().endswith(f'{target} needs pyarrow: pip install "fastad[parquet]"')
    assert list(tmp_path.iterdir()) == []
