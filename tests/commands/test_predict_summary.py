"""How `fastad predict` ends, and the one table of scores of predict, evaluate and the report."""

import csv
import json
import shutil

import numpy as np
import pytest

from fastad import inference

SHARED = ["path", "score", "p_value", "is_anomalous", "input", "status", "error"]


@pytest.fixture(scope="module")
def strict(detector, images, tmp_path_factory):
    """The detector with a threshold between the good and the defective images."""
    path = tmp_path_factory.mktemp("strict") / "strict.fastad"
    artifact = inference.load(detector)
    predict = artifact.predictor().predict
    good, hole = (predict(images / "test" / name).score for name in ("good", "hole"))
    assert good.max() < hole.min()
    artifact.threshold = float((good.max() + hole.min()) / 2)
    inference.save(path, artifact)
    return path


def read(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_summary(fastad, strict, images, tmp_path):
    (tmp_path / "i").mkdir()
    for name in ("good/0.png", "good/1.png", "hole/0.png"):
        shutil.copy(images / "test" / name, tmp_path / "i" / name.replace("/", ""))
    (tmp_path / "i" / "bad.png").write_bytes(b"no image")
    code, _, err = fastad(
        "predict", strict, tmp_path / "i", "--skip-bad", "--output", tmp_path / "o", "--heatmaps"
    )
    assert code == 4, err
    rows = [row for row in read(tmp_path / "o" / "scores.csv") if row["status"] == "ok"]
    anomalous = sum(row["is_anomalous"] == "True" for row in rows)
    first, second, third, last = err.splitlines()[-4:]
    assert last == "warning: 1 of 4 images cannot be read and were not inspected"
    assert first.startswith(f"3 images, {anomalous} anomalous, 1 unreadable, ")
    assert first.endswith(" images/s")
    lowest = max(rows, key=lambda row: float(row["score"]))
    assert second.startswith(f"lowest p-values: hole0 {float(lowest['p_value']):.3g}, ")
    assert second.count(", ") == 2
    folder = tmp_path / "o"
    assert third == f"written: {folder / 'scores.csv'}, 3 heat maps in {folder}"
    assert "images, " not in fastad("predict", strict, images / "test", "--quiet")[2]


def test_a_summary_without_threshold(fastad, detector, images, tmp_path):
    artifact = inference.load(detector)
    artifact.threshold, artifact.calibration = None, np.array([])
    path = tmp_path / "none.fastad"
    inference.save(path, artifact)
    code, _, err = fastad("predict", path, images / "test" / "hole" / "0.png")
    assert code == 0, err
    assert "1 image, none judged, " in err
    assert "highest scores: 0 " in err
    code, _, err = fastad("predict", path, images / "test", "--fail-on-anomaly")
    assert code == 1
    assert "has no threshold" in err


def test_the_exit_code_says_that_an_image_is_anomalous(fastad, strict, images):
    hole, good = images / "test" / "hole", images / "test" / "good"
    assert fastad("predict", strict, hole)[0] == 0
    code, out, err = fastad("predict", strict, hole, "--fail-on-anomaly")
    assert code == 3, err
    assert out.count("True") == 2
    assert "error" not in err
    assert fastad("predict", strict, good, "--fail-on-anomaly")[0] == 0


def test_an_image_that_was_not_inspected_is_worse_than_an_anomalous_one(
    fastad, strict, images, tmp_path
):
    shutil.copytree(images / "test" / "hole", tmp_path / "i")
    (tmp_path / "i" / "bad.png").write_bytes(b"no image")
    for options, expected in (([], 1), (["--skip-bad"], 4)):
        code, out, err = fastad("predict", strict, tmp_path / "i", "--fail-on-anomaly", *options)
        assert code == expected, err
        assert out.count("True") == 2


def test_one_table_of_scores_everywhere(fastad, strict, images, tmp_path):
    predicted, measured, report = tmp_path / "p.csv", tmp_path / "e.csv", tmp_path / "report"
    assert fastad("predict", strict, images / "test", "--csv", predicted)[0] == 0
    code, _, err = fastad("evaluate", strict, images, "--csv", measured, "--report", report)
    assert code == 0, err
    assert measured.read_bytes() == (report / "scores.csv").read_bytes()
    assert b"\r" not in measured.read_bytes() + predicted.read_bytes()
    alone, labelled = read(predicted), read(measured)
    assert list(alone[0]) == SHARED
    assert list(labelled[0]) == [*SHARED, "type", "is_defect"]
    key = "path"
    for one, other in zip(sorted(alone, key=lambda r: r[key]), labelled, strict=True):
        assert one[key] == other[key]
        assert float(one["score"]) == pytest.approx(float(other["score"]))
        assert one["p_value"] == other["p_value"]
        assert one["is_anomalous"] == other["is_anomalous"]
        assert {one["is_anomalous"], other["is_defect"]} <= {"True", "False"}
        assert other["is_defect"] == str(other["type"] != "good")
    assert {row["is_anomalous"] for row in labelled} == {"True", "False"}
    assert {(row["input"], row["status"], row["error"]) for row in labelled} == {
        ("unknown", "ok", "")
    }


def test_the_table_of_evaluate_goes_to_stdout(fastad, strict, images):
    code, out, err = fastad("evaluate", strict, images, "--csv", "-")
    assert code == 0, err
    assert out.splitlines()[0] == ",".join([*SHARED, "type", "is_defect"])
    assert len(out.splitlines()) == 5
    code, _, err = fastad("evaluate", strict, images, "--csv", "-", "--json", "-")
    assert code == 2


def test_the_table_of_evaluate_replaces_no_input(fastad, strict, images, tmp_path):
    mask = images / "ground_truth/hole/0_mask.png"
    code, _, err = fastad("evaluate", strict, images, "--csv", mask)
    assert code == 1
    assert "would be overwritten" in err
    inside = tmp_path / "r" / "t.csv"
    inside.parent.mkdir()
    code, _, err = fastad("evaluate", strict, images, "--csv", inside, "--report", tmp_path / "r")
    assert code == 1
    assert "--csv" in err
    assert "is inside the report's folder" in err


def test_pictures_have_the_name_of_a_link(fastad, strict, images, tmp_path):
    # As git-annex and DVC keep images: by their checksums.
    (tmp_path / "store").mkdir()
    shutil.copy(images / "test/hole/0.png", tmp_path / "store/9f8e")
    (tmp_path / "i").mkdir()
    for name in ("part_1.png", "part_2.png"):
        (tmp_path / "i" / name).symlink_to(tmp_path / "store/9f8e")
    out = tmp_path / "o"
    files = ("--csv", out / "s.csv", "--json", tmp_path / "scores.json")
    code, _, err = fastad("predict", strict, tmp_path / "i", "--output", out, "--heatmaps", *files)
    assert code == 0, err
    [one] = json.loads((tmp_path / "scores.json").read_text())["images"]
    assert one["heatmap"] == "part_1.png"
    assert (out / "part_1.png").is_file()
    assert read(out / "s.csv")[0]["heatmap"] == "part_1.png"
    link = tmp_path / "i/part_2.png"
    assert f"1 path to an image that has another, such as {link}, is left out" in err


@pytest.mark.parametrize("name", ["scores.csv", "scores.json", "scores.parquet"])
def test_a_stopped_command_goes_on(fastad, detector, images, tmp_path, monkeypatch, name):
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    kind = name.partition(".")[2]
    command = ("predict", detector, images / "train", "--heatmaps", "--output")
    code, _, err = fastad(*command, tmp_path / "whole", f"--{kind}", tmp_path / "whole" / name)
    assert code == 0, err

    from fastad.commands import predict
    from fastad.detector import Detector

    monkeypatch.setattr(predict, "KEPT", 2)
    seen, ends, stream = [], [True], Detector.stream

    def stopped(self, paths, **options):
        seen.append(len(paths))
        if len(seen) == 3 and ends.pop():
            raise KeyboardInterrupt
        return stream(self, paths, **options)

    monkeypatch.setattr(Detector, "stream", stopped)
    out = tmp_path / "stopped"
    options = (*command, out, f"--{kind}", out / name, "--batch-size", "2")
    code, _, err = fastad(*options)
    assert code == 1
    assert "error: stopped by the user: the same command goes on after 4 of 10 images" in err
    assert not (out / name).exists()
    code, _, err = fastad(*options)
    assert code == 0, err
    assert "going on after 4 of 10 images" in err
    assert sum(seen) == 10 + 2  # those of the part that was stopped were given twice
    files = [sorted(p.name for p in f.rglob("*")) for f in (tmp_path / "whole", out)]
    assert files[0] == files[1]
    if kind == "csv":  # batches of another size round otherwise
        whole, again = (read(folder / name) for folder in (tmp_path / "whole", out))
        assert [row["path"] for row in whole] == [row["path"] for row in again]
        scores = [[float(row["score"]) for row in rows] for rows in (whole, again)]
        np.testing.assert_allclose(*scores, rtol=1e-3)


def test_nothing_is_left_beside_the_rows_of_unreadable_images(
    fastad, detector, images, tmp_path, monkeypatch
):
    from fastad.commands import predict

    monkeypatch.setattr(predict, "KEPT", 2)
    shutil.copytree(images / "train" / "good", tmp_path / "i")
    (tmp_path / "i" / "3.png").write_bytes(b"no image")
    code, _, err = fastad(
        "predict", detector, tmp_path / "i", "--batch-size", "2", "--output", tmp_path / "o"
    )
    assert code == 1
    assert "1 of 10 images cannot be read" in err
    assert [path.name for path in (tmp_path / "o").iterdir()] == ["scores.csv"]
