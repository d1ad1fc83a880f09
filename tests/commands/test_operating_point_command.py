"""``fastad operating-point``: the table, the picture, and the threshold that it writes."""

import json

import pytest
from PIL import Image

from fastad import inference


@pytest.fixture
def own(detector, tmp_path):
    path = tmp_path / "own.fastad"
    path.write_bytes(detector.read_bytes())
    return path


@pytest.fixture
def defects(images):
    return images / "test" / "hole"


def test_the_table_shows_counts_and_the_file_stays(fastad, own, defects):
    before = own.read_bytes()
    code, out, err = fastad("operating-point", own, defects)
    assert code == 0, err
    assert own.read_bytes() == before
    lines = out.splitlines()
    assert "of 2 good images stop the line" in lines[0]
    assert "of 2 defects pass" in lines[0]
    assert [line.split()[0] for line in lines[1:4]] == ["zero-missed", "zero-alarms", "current"]
    assert "0 (0.0% to 84.2%)" in lines[1]
    assert "2 defects are few" in out


@pytest.mark.parametrize("name", ["zero-missed", "least-cost", "zero-alarms"])
def test_set_writes_the_threshold(fastad, own, defects, tmp_path, name):
    new, plot = tmp_path / "new.fastad", tmp_path / "points.png"
    before = own.read_bytes()
    options = ["--cost-miss", 50, "--cost-alarm", 2, "--defect-share", 0.01]
    options += ["--set", name, "--output", new, "--json", "-", "--plot", plot]
    code, out, err = fastad("operating-point", own, defects, *options)
    assert code == 0, err
    [point] = [point for point in json.loads(out)["points"] if point["name"] == name]
    artifact = inference.load(new)
    assert artifact.threshold == point["threshold"]
    assert artifact.threshold_set_by == "value"
    assert own.read_bytes() == before
    assert f"saved {new}: threshold {artifact.threshold:.6g}" in err
    assert Image.open(plot).width > 800


def test_without_an_output_the_file_itself_is_changed(fastad, own, images):
    code, _, err = fastad("operating-point", own, images, "--set", "zero-missed")
    assert code == 0, err
    threshold = inference.load(own).threshold
    code, out, _ = fastad("predict", own, images / "test" / "hole", "--json", "-")
    assert all(row["score"] > threshold for row in json.loads(out)["images"])


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--set", "least-cost"], 2, "the least cost needs --cost-miss"),
        (["--cost-alarm", "1"], 2, "the least cost needs --cost-miss"),
        (["--defect-share", "0.1"], 2, "the least cost needs --cost-miss"),
        (["--output", "new.fastad"], 2, "--output needs --set"),
        (["--cost-miss", "-1"], 2, "--cost-miss"),
        (["--cost-miss", "1", "--defect-share", "1"], 2, "must be between 0 and 1"),
        (["--set", "best"], 2, "best"),
        (["--plot", "points.doc"], 1, "a plot ends in .png, .svg, .pdf"),
        (["--json", "{detector}"], 1, "one of the inputs"),
        (["--set", "zero-missed", "--output", "{image}"], 1, "one of the inputs"),
        (["--set", "zero-missed", "--output", "no/such/x.fastad"], 1, "no folder"),
    ],
)
def test_what_is_wrong_changes_nothing(fastad, own, defects, options, code, said):
    before = own.read_bytes()
    options = [option.format(detector=own, image=defects / "0.png") for option in options]
    found, _, err = fastad("operating-point", own, defects, *options)
    assert found == code
    assert said in " ".join(err.replace("│", " ").split())
    assert own.read_bytes() == before
