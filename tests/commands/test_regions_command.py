"""Regions in what ``fastad predict`` writes, and a smallest area there and in the file."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from fastad import inference


def read(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def finding(detector, images, tmp_path_factory):
    """The detector with a pixel threshold that the defects exceed."""
    artifact = inference.load(detector)
    maps = [artifact.predictor().predict(images / "test" / n).anomaly_map for n in ("good", "hole")]
    good, hole = (anomaly_map.max(axis=(1, 2)) for anomaly_map in maps)
    assert good.max() < hole.min()
    artifact.pixel_threshold = float(good.max() + hole.min()) / 2
    path = tmp_path_factory.mktemp("finding") / "finding.fastad"
    inference.save(path, artifact)
    return path


def test_a_table_of_regions_and_json(fastad, finding, images, tmp_path):
    table, text = tmp_path / "regions.csv", tmp_path / "scores.json"
    code, _, err = fastad(
        "predict", finding, images / "test", "--json", text, "--regions", table, "--rle",
        "--mm-per-pixel", "0.25",
    )  # fmt: skip
    assert code == 0, err
    assert f"written: {text}, {table}" in err
    found = json.loads(text.read_text())
    listed = [(row["path"], region) for row in found["images"] for region in row["regions"]]
    rows = read(table)
    assert len(rows) == len(listed) > 0
    assert {"hole"} == {path.split("/")[-2] for path, _ in listed}
    for row, (path, region) in zip(rows, listed, strict=True):
        assert row["path"] == path
        box = [float(row[name]) for name in ("x", "y", "box_width", "box_height")]
        assert box == region["bbox"]
        for name in ("area", "share", "peak", "mean", "length", "width", "angle", "area_mm2"):
            assert float(row[name]) == region[name], name
        assert region["area_mm2"] == pytest.approx(region["area"] / 16)
        assert region["rle"]["size"] == [72, 64]
        assert sum(region["rle"]["counts"]) == 72 * 64
        x, y, width, height = region["bbox"]
        assert min(x, y) >= 0
        assert x + width <= 64
        assert y + height <= 72
    good = [row for row in found["images"] if "/good/" in row["path"]]
    assert [row["regions"] for row in good] == [[]] * len(good)


def test_a_smallest_area_for_one_run(fastad, finding, images, tmp_path):
    before = finding.read_bytes()
    code, out, err = fastad(
        "predict", finding, images / "test", "--json", "-", "--min-area", "200px"
    )
    assert code == 0, err
    found = json.loads(out)
    assert found["min_area"] == pytest.approx(200 / (72 * 64))
    for row in found["images"]:
        assert row["is_anomalous"] == (len(row["regions"]) > 0)
        assert all(region["area"] >= 200 for region in row["regions"])
        assert "rle" not in str(row["regions"])
    assert finding.read_bytes() == before


def test_the_file_keeps_a_smallest_area(fastad, finding, images, tmp_path):
    path = tmp_path / "new.fastad"
    code, _, err = fastad(
        "threshold", finding, "--min-area", "2mm2", "--mm-per-pixel", "0.1", "--output", path
    )
    assert code == 0, err
    artifact = inference.load(path)
    assert artifact.min_area == pytest.approx(200 / (72 * 64))
    assert artifact.threshold == artifact.pixel_threshold
    assert "smallest area" in fastad("info", path)[1]
    code, _, err = fastad("evaluate", path, images, "--report", tmp_path / "report")
    assert code == 0, err
    page = (tmp_path / "report" / "index.html").read_text()
    assert "% of the image," in page
    code, _, err = fastad("threshold", path, "--min-area", "0")
    assert code == 0, err
    assert inference.load(path).min_area is None
    code, _, err = fastad("threshold", path, "--min-area", "0.1%", "--rate", "0.5")
    assert code == 0, err
    assert inference.load(path).asked_rate == 0.5


def test_heat_maps_show_the_boxes(fastad, finding, images, tmp_path):
    code, _, err = fastad("predict", finding, images / "test", "--output", tmp_path, "--heatmaps")
    assert code == 0, err
    artifact = inference.load(finding)
    for name, marked in (("good/0", False), ("hole/0", True)):
        image = images / "test" / f"{name}.png"
        predicted = artifact.predictor().predict(image)
        plain = inference.overlay(
            np.array(Image.open(image)),
            predicted.anomaly_map[0],
            inference.colour_scale(artifact.pixel_threshold),
        )
        drawn = np.array(Image.open(tmp_path / f"{name}.png"))
        assert (not np.array_equal(drawn, plain)) == marked, name


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--rle"], 2, "--rle needs --json FILE"),
        (["--regions", "-"], 2, "only one of scores and --regions can go to stdout"),
        (["--mm-per-pixel", "0"], 2, "--mm-per-pixel must be above 0"),
        (["--min-area", "much"], 1, "min_area must be 25"),
        (["--min-area", "1mm2"], 1, "needs mm_per_pixel"),
        (["--min-area", "30%"], 1, "at most 25% works"),
    ],
)
def test_wrong_use(fastad, detector, images, arguments, code, said):
    found, _, err = fastad("predict", detector, images / "test", *arguments)
    assert found == code
    assert said in " ".join(err.replace("│", " ").split())


def test_no_regions_without_a_pixel_threshold(fastad, detector, images, tmp_path):
    artifact = inference.load(detector)
    artifact.pixel_threshold = None
    inference.save(tmp_path / "none.fastad", artifact)
    code, _, err = fastad(
        "predict", tmp_path / "none.fastad", images / "test", "--regions", tmp_path / "r.csv"
    )
    assert code == 1
    assert "has no pixel threshold" in err
    code, out, _ = fastad("predict", tmp_path / "none.fastad", images / "test", "--json", "-")
    assert code == 0
    assert {row["regions"] for row in json.loads(out)["images"]} == {None}
