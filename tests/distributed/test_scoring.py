"""predict and evaluate of several processes give the bytes of one, also when one is killed."""

import io
import json
import re

import pytest
from scorings import BATCH, alone, files, prediction


def test_a_prediction_is_that_of_one_process(desk, ranks, tmp_path):
    assert alone(*prediction(desk, tmp_path / "one")) == 4
    codes, said = ranks(3, "commands:small_parts", "command", *prediction(desk, tmp_path / "three"))
    assert codes == [4, 0, 0], said
    assert files(tmp_path / "three") == files(tmp_path / "one")
    assert len(files(tmp_path / "one")) > 20


@pytest.mark.parametrize("dying", [0, 1])
def test_a_killed_rank_loses_and_doubles_nothing(desk, ranks, tmp_path, dying):
    """The other goes on with its part; after a restart no part is done again."""
    alone(*prediction(desk, tmp_path / "one"))
    arguments = prediction(desk, tmp_path / "two")
    call = ("commands:small_parts", "dies_after", dying, int(dying == 0))
    codes, _ = ranks(2, *call, *arguments)
    assert codes[dying] == -9
    if dying == 0:
        kept = list((tmp_path / "two").glob(".scores.json.parts-*/*.json"))
        assert len(kept) == 5  # the other rank took what was being written
        codes, said = ranks(2, "commands:small_parts", "does_nothing", *arguments)
        assert codes == [4, 0], said
    assert files(tmp_path / "two") == files(tmp_path / "one")


def test_parts_of_another_request_do_not_count(desk, ranks, tmp_path):
    arguments = prediction(desk, tmp_path / "two")
    ranks(2, "commands:small_parts", "dies_after", 0, 1, *arguments)
    assert list((tmp_path / "two").glob(".scores.json.parts-*/*.json"))
    codes, said = ranks(2, "commands:small_parts", "command", *arguments, "--strict")
    assert codes == [4, 0], said
    alone(*prediction(desk, tmp_path / "one"), "--strict")
    assert files(tmp_path / "two") == files(tmp_path / "one")


def test_several_processes_need_a_file(desk, ranks):
    codes, said = ranks(2, "commands:command", "predict", desk / "cap.fastad", desk / "cap/test")
    assert codes == [2, 2]
    words = re.sub(r"[\s│]+", " ", said[0])
    assert "several processes need --output DIR, --csv FILE, --json FILE or --parquet FILE" in words


def evaluation(desk, folder):
    folder.mkdir(exist_ok=True)
    return [
        *("evaluate", desk / "cap.fastad", desk / "cap", "--json", folder / "metrics.json"),
        *("--csv", folder / "scores.csv", "--skip-bad", "--quiet", *BATCH),
    ]


@pytest.mark.parametrize("dying", [None, 1])
def test_metrics_are_those_of_one_process(desk, ranks, tmp_path, dying):
    assert alone(*evaluation(desk, tmp_path / "one")) == 4
    call = ["command"] if dying is None else ["dies_after", dying, 0]
    codes, said = ranks(2, "commands:small_parts", *call, *evaluation(desk, tmp_path / "two"))
    assert codes == [4, 0 if dying is None else -9], said
    assert files(tmp_path / "two") == files(tmp_path / "one")
    metrics = json.loads((tmp_path / "two/metrics.json").read_text())
    assert metrics["counts"]["skipped"] == 1


@pytest.mark.parametrize("command", [prediction, evaluation])
def test_results_in_parquet_are_those_of_one_process(desk, ranks, tmp_path, command):
    pytest.importorskip("pyarrow", reason="needs fastad[parquet]")
    from pyarrow import parquet

    def arguments(folder):
        return [*command(desk, folder), "--parquet", folder / "scores.parquet"]

    assert alone(*arguments(tmp_path / "one")) == 4
    codes, said = ranks(2, "commands:small_parts", "command", *arguments(tmp_path / "two"))
    assert codes == [4, 0], said
    assert files(tmp_path / "two") == files(tmp_path / "one")
    rows = parquet.read_table(tmp_path / "two/scores.parquet").to_pylist()
    assert len(rows) == 14
    assert [row["status"] for row in rows].count("unreadable") == 1


def test_a_list_and_stdin_name_images(desk, tmp_path, monkeypatch, capsys):
    paths = [desk / "cap/test/hole/3.png", desk / "cap/test/good/1.png"]
    expected = predicted(desk, capsys, *paths)
    text = f"{paths[0]}\n\n{paths[1]}\n"
    (tmp_path / "list.txt").write_text(text)
    assert predicted(desk, capsys, "--images-from", tmp_path / "list.txt") == expected
    over = ("--images-from", tmp_path / "list.txt", "--csv", tmp_path / "list.txt")
    assert alone("predict", desk / "cap.fastad", *over) == 1
    assert "overwritten" in capsys.readouterr().err
    assert (tmp_path / "list.txt").read_text() == text
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    assert predicted(desk, capsys, "--images-from", "-") == expected
    (tmp_path / "empty.txt").write_text("\n")
    for name, said in (("empty.txt", "names no image"), ("none.txt", "there is no file")):
        assert alone("predict", desk / "cap.fastad", "--images-from", tmp_path / name) == 1
        assert said in capsys.readouterr().err


def test_a_parquet_table_names_images(desk, tmp_path, capsys):
    pyarrow = pytest.importorskip("pyarrow", reason="needs fastad[parquet]")
    from pyarrow import parquet

    paths = [desk / "cap/test/hole/3.png", desk / "cap/test/good/1.png"]
    table = pyarrow.table({"path": [str(path) for path in paths], "camera": [1, 2]})
    parquet.write_table(table, tmp_path / "list.parquet")
    found = predicted(desk, capsys, "--images-from", tmp_path / "list.parquet")
    assert found == predicted(desk, capsys, *paths)
    parquet.write_table(table.drop_columns("path"), tmp_path / "other.parquet")
    assert alone("predict", desk / "cap.fastad", "--images-from", tmp_path / "other.parquet") == 1
    assert "has no column path, but camera" in capsys.readouterr().err


def test_images_at_addresses(desk, capsys):
    """By fsspec's file system in memory; one is missing."""
    fsspec = pytest.importorskip("fsspec", reason="needs fastad[remote]")
    paths = [desk / "cap/test/hole/3.png", desk / "cap/test/good/1.png"]
    addresses = [f"memory://line/{path.name}" for path in paths]
    for path, address in zip(paths, addresses, strict=True):
        with fsspec.open(address, "wb") as file:
            file.write(path.read_bytes())
    expected = predicted(desk, capsys, *paths)
    for path, address in zip(paths, addresses, strict=True):
        expected = expected.replace(str(path), address)
    assert predicted(desk, capsys, *addresses) == expected
    more = [*addresses, "memory://line/none.png"]
    code = alone("predict", desk / "cap.fastad", *more, "--csv", "-", "--quiet", *BATCH)
    out = capsys.readouterr().out
    assert code == 1
    assert "memory://line/none.png,,,,,unreadable,there is no image memory://line/none.png" in out
    assert alone("predict", desk / "cap.fastad", "nowhere://a/b.png", "--quiet") == 1
    assert 'pip install "fastad[remote]"' in capsys.readouterr().err


def predicted(desk, capsys, *images):
    capsys.readouterr()
    assert alone("predict", desk / "cap.fastad", *images, "--csv", "-", "--quiet", *BATCH) == 0
    return capsys.readouterr().out
