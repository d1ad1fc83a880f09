"""``fastad evaluate --report``: what it writes, what it refuses before any work."""

import json
import re
import shutil

import pytest

from fastad.evaluation.report import report as module


def contents(folder):
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }


@pytest.fixture(scope="module")
def no_model(tmp_path_factory):
    path = tmp_path_factory.mktemp("no") / "model.fastad"
    path.write_text("no detector")
    return path


def test_a_page_that_says_how_it_was_made(fastad, detector, images, tmp_path):
    out = tmp_path / "deep" / "report"
    code, table, err = fastad(
        "evaluate", detector, images, "--report", out, "--json", tmp_path / "m.json"
    )
    assert code == 0, err
    assert f"report: {out / 'index.html'}" in err
    assert "image auroc" in table
    text = (out / "index.html").read_text(encoding="utf-8")
    metrics = json.loads((tmp_path / "m.json").read_text())
    found = round(metrics["at_threshold"]["true_positive_rate"] * 2)
    alarms = round(metrics["at_threshold"]["false_positive_rate"] * 2)
    assert f"finds {found} of 2 defective images and calls {alarms} of 2 good ones" in text
    facts = dict(re.findall(r"<tr><th scope='row'>([^<]*)</th><td>([^<]*)</td></tr>", text))
    assert facts["seed"] == "3"
    assert facts["trained on"].endswith(": 8 good images")
    assert facts["held out"].startswith("2 good images")
    assert facts["image size"].startswith("64x64")
    assert facts["detector file"] == str(detector)
    assert "weights=[1.0, 1.0, 0.5]" in facts["model"]
    assert facts["epoch kept"] == "1 of 1"
    assert facts["measured on"] == f"{images}: 2 good images, 2 defective"
    assert "torch" in facts["trained with"]
    assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d", facts["date"])


def test_what_must_not_be_overlooked_comes_first(fastad, detector, images, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(images / "test/hole", data / "test/good")
    shutil.copytree(images / "test/good", data / "test/hole")  # mixed up
    code, out, err = fastad("evaluate", detector, data, "--report", tmp_path / "r")
    assert code == 0, err
    assert out.startswith("conclusion: worse than chance: image AUROC 0.00")
    assert err.count("ground-truth mask") == 1  # one warning for one fact
    assert "none of the 2 defect images has a ground-truth mask" in err
    text = (tmp_path / "r/index.html").read_text(encoding="utf-8")
    first = re.search(r"</h1>\s*<p[^>]*>(.*?)</p>", text, re.S)[1]
    assert "Worse than chance: image AUROC 0.00" in first
    shutil.rmtree(data / "test/hole")
    code, out, err = fastad("evaluate", detector, data, "--report", tmp_path / "r")
    assert code == 0, err
    assert err.count("no test image has a defect") == 1
    assert "no test image has a defect" not in out  # a warning said so
    text = (tmp_path / "r/index.html").read_text(encoding="utf-8")
    assert text.count("no test image has a defect") == 1
    first = re.search(r"</h1>\s*<p[^>]*>(.*?)</p>", text, re.S)[1]
    assert "no test image has a defect" in first


def test_another_rate_changes_what_is_promised(fastad, detector, images, tmp_path):
    code, _, err = fastad(
        "evaluate", detector, images, "--report", tmp_path / "r", "--false-positive-rate", "0.4"
    )
    assert code == 0, err
    text = (tmp_path / "r/index.html").read_text(encoding="utf-8")
    assert "<td>40%</td>" in text
    assert "at most 33%" in text  # one of the three that two held-out images make with a new one


def test_warnings_are_shown_and_written_down(fastad, detector, images, tmp_path):
    shutil.copytree(images, tmp_path / "data")
    for i in range(2):
        shutil.copy(images / f"train/good/{i}.png", tmp_path / f"data/test/good/{i}.png")
    (tmp_path / "data/ground_truth/hole/1_mask.png").unlink()
    (tmp_path / "data/test/hole/2.png").write_bytes(b"broken")
    for _ in range(2):
        code, _, err = fastad(
            "evaluate", detector, tmp_path / "data", "--report", tmp_path / "r", "--skip-bad"
        )
        assert code == 4, err
        text = (tmp_path / "r/index.html").read_text(encoding="utf-8")
        for words in (
            "2 of 2 normal test images were given to the training",
            "1 of 2 defect images have no ground-truth mask",
        ):
            assert f"warning: {words}" in err
            assert words in text
        assert "1 unreadable left out" in text


@pytest.mark.parametrize("inside", ["", "test", "new/folder", "../IMAGES/test/x"])
def test_a_report_among_the_test_images_is_refused(fastad, images, tmp_path, no_model, inside):
    inside = inside.replace("IMAGES", images.name)
    before = contents(images)
    code, out, err = fastad("evaluate", no_model, images, "--report", images / inside)
    assert (code, out) == (1, "")
    assert "would be taken for test images" in err
    assert contents(images) == before


@pytest.mark.parametrize("name", ["index.html", "pictures/holiday.jpg", "fastad-report.json"])
def test_files_of_others_are_refused_before_any_work(fastad, images, tmp_path, no_model, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    code, out, err = fastad("evaluate", no_model, images, "--report", tmp_path)
    assert (code, out) == (1, "")
    assert f"{name} is not from `fastad evaluate --report`" in err
    assert contents(tmp_path) == {name: b"mine"}


def test_a_file_is_no_folder(fastad, images, tmp_path, no_model):
    (tmp_path / "file").write_text("mine")
    code, _, err = fastad("evaluate", no_model, images, "--report", tmp_path / "file")
    assert code == 1
    assert "is no folder" in err
    assert len(err.splitlines()) == 1


def test_a_second_report_replaces_the_first(fastad, detector, images, tmp_path):
    for _ in range(2):
        (tmp_path / "mine.txt").write_text("mine")
        code, _, err = fastad("--quiet", "evaluate", detector, images, "--report", tmp_path)
        assert code == 0, err
    manifest = json.loads((tmp_path / module.MANIFEST).read_text())
    assert {*manifest["files"], "mine.txt"} == set(contents(tmp_path))


def test_without_the_option_nothing_is_observed(fastad, detector, images, monkeypatch):
    monkeypatch.setattr(module.Report, "observe", lambda *_: pytest.fail("observed"))
    code, _, err = fastad("evaluate", detector, images)
    assert code == 0, err
