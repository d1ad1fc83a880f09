"""``fastad predict`` with several detectors."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

import fastad as package
from fastad import inference


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """Two detectors, and images of both products in folders of their names."""
    root = tmp_path_factory.mktemp("bench")
    rng = np.random.default_rng(0)
    for name, grey in (("cap", 60), ("lid", 180)):
        images = rng.integers(grey, grey + 20, (34, 40, 40, 3), dtype=np.uint8)
        package.Detector(
            "subspace", image_size=32, teacher_weights="embedded", false_positive_rate=0.2
        ).fit(images[:30]).save(root / f"{name}.fastad")
        images[33, 10:30, 10:30] = (250, 0, 0)
        (root / "line" / name).mkdir(parents=True)
        for i in range(30, 34):
            Image.fromarray(images[i]).save(root / "line" / name / f"{name}-{i}.png")
    return root


def rows(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("rule", ["best", "folder", "name", None])
def test_rows_name_the_detector(fastad, bench, tmp_path, rule):
    chosen = [] if rule is None else ["--rule", rule]
    code, _, err = fastad(
        "predict", bench / "line", "--detector", bench / "cap.fastad", "--detector",
        bench / "lid.fastad", *chosen, "--output", tmp_path, "--heatmaps", "--masks",
        "--regions", tmp_path / "regions.csv",
    )  # fmt: skip
    assert code == 0, err
    found = rows(tmp_path / "scores.csv")
    assert len(found) == 8
    for row in found:
        own = row["path"].split("/")[-2]
        if rule in ("folder", "name") or "33" not in row["path"]:
            assert row["detector"] == own
        assert (tmp_path / row["heatmap"]).is_file()
        assert (tmp_path / row["mask"]).is_file()
        if "33" in row["path"]:
            assert row["is_anomalous"] == "True"
    assert [row["path"] for row in found] == sorted(row["path"] for row in found)


def test_patterns_and_json(fastad, bench):
    files = {name: bench / f"{name}.fastad" for name in ("cap", "lid")}
    code, out, err = fastad(
        "predict", "--detector", f"*-3[01].png={files['cap']}", "--detector",
        f"*-3[23].png={files['lid']}", "--rule", "name", "--json", "-", bench / "line" / "cap",
    )  # fmt: skip
    assert code == 0, err
    found = json.loads(out)
    assert [row["detector"] for row in found["images"]] == ["cap", "cap", "lid", "lid"]
    assert "threshold" not in found
    for name, file in files.items():
        assert found["detectors"][name]["threshold"] == inference.load(file).threshold


def test_unreadable_images_have_one_row(fastad, bench, tmp_path):
    (tmp_path / "cap").mkdir()
    (tmp_path / "cap" / "bad.png").write_bytes(b"no image")
    both = ["--detector", bench / "cap.fastad", "--detector", bench / "lid.fastad"]
    images = [tmp_path / "cap", bench / "line" / "lid"]
    for rule in ("best", "folder"):
        table = tmp_path / "scores.csv"
        code, _, err = fastad(
            "predict", *images, *both, "--rule", rule, "--skip-bad", "--csv", table
        )
        assert code == 4, err
        found = rows(table)
        assert [row["status"] for row in found] == ["unreadable", *["ok"] * 4]
        assert found[0]["detector"] == ""


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["cap.fastad", "line", "--rule", "best"], 2, "--rule needs several detectors"),
        (["line", "--detector", "cap.fastad", "--detector", "cap.fastad"], 2, "is given twice"),
        (["line", "--detector", "a=cap.fastad", "--detector", "lid.fastad"], 2, "needs --rule"),
        (["line", "--detector", "=cap.fastad", "--detector", "b.fastad"], 2, "is FILE or PATTERN"),
        (["cap.fastad"], 2, "Missing argument 'IMAGES...'"),
        (
            ["line/cap", "--detector", "x=cap.fastad", "--detector", "lid.fastad", "--rule",
             "folder", "--output", "new"],
            1,
            "fits no detector by its folder; the patterns are x, lid",
        ),
    ],
)  # fmt: skip
def test_wrong_use(fastad, bench, monkeypatch, arguments, code, said):
    monkeypatch.chdir(bench)
    found, _, err = fastad("predict", *arguments)
    assert found == code
    assert said in " ".join(err.replace("│", " ").split())
    assert not (bench / "new").exists()


def test_a_detector_without_threshold_cannot_be_one_of_several(fastad, bench, tmp_path):
    artifact = inference.load(bench / "cap.fastad")
    artifact.threshold = None
    inference.save(tmp_path / "none.fastad", artifact)
    both = ["--detector", tmp_path / "none.fastad", "--detector", bench / "lid.fastad"]
    code, _, err = fastad("predict", bench / "line", *both)
    assert code == 1
    assert "none.fastad has no threshold" in err
