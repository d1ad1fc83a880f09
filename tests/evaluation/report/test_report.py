"""A report: what it says, what it writes, and what it leaves alone."""

import csv
import html.parser
import json
import os
import re
import sys
import warnings
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image
from report_data import HOSTILE, THRESHOLD, observed, write, write_images

from fastad.data import ImageError
from fastad.evaluation.report.pictures import outside
from fastad.evaluation.report.report import Report, check_report_folder

FACTS = {"trained on": "<b>bottle</b>: 209 good images", "seed": "7"}


class Page(html.parser.HTMLParser):
    """Tags, text, files and anchors of a page, which must be well formed."""

    EMPTY = ("meta", "img", "source", "link", "path", "use")

    def __init__(self, text):
        super().__init__()
        self.text, self.open, self.tags, self.ids, self.links = "", [], [], [], []
        self.files, self.alternatives = [], []
        self.feed(text)
        self.close()
        self.text = " ".join(self.text.split())
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.text += "" if tag == "span" else " "  # which goes on within a word
        self.tags.append(tag)
        if tag not in self.EMPTY:
            self.open.append(tag)
        assert not any(name.startswith("on") for name in attributes)
        if "id" in attributes:
            self.ids.append(attributes["id"])
        if tag == "img":
            self.alternatives.append(attributes["alt"])
        for name in ("src", "href"):
            target = attributes.get(name, "data:")
            if target.startswith("#"):
                self.links.append(target[1:])
            elif not target.startswith("data:"):
                self.files.append(unquote(target))

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in self.EMPTY:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.text += re.sub(r"\s+", " ", data)


def contents(folder):
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }


@pytest.fixture(scope="module")
def images(report_images):
    return report_images


@pytest.fixture(scope="module")
def written(images, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report") / "new"
    report, metrics = observed(images)
    metrics["image_auroc_interval"] = (0.61234, 0.98765)
    report.write(folder, metrics, title="<i>bottle</i>", facts=FACTS, notes=["one & two"])
    return folder


@pytest.fixture(scope="module")
def page(written):
    return Page((written / "index.html").read_text(encoding="utf-8"))


def test_everything_referred_to_exists(page, written):
    assert set(page.files) <= set(contents(written))
    assert set(page.links) <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    pictures = {name for name in contents(written) if name.startswith("pictures/")}
    assert pictures == {name for name in page.files if name.startswith("pictures/")}
    assert len(pictures) == 2 * 14


def test_what_a_model_shows_is_beside_its_images(images, tmp_path):
    asked = []

    def explain(paths):
        asked.extend(paths)
        return {
            "<b>coarse</b>": np.full((len(paths), 16, 24, 3), 40, np.uint8),
            "fine": np.full((len(paths), 16, 24, 3), 80, np.uint8),
        }

    report, metrics = observed(images, explain=explain)
    report.write(tmp_path / "r", metrics, title="bottle", facts=FACTS)
    page = Page((tmp_path / "r" / "index.html").read_text(encoding="utf-8"))
    assert page.text.count("<b>coarse</b> fine") == 14
    files = sorted(name for name in page.files if re.search(r"-[12]\.jpg$", name))
    assert len(files) == 2 * 14
    assert set(files) <= set(contents(tmp_path / "r"))
    assert len(set(asked)) == 14
    for file, value in zip(files[:2], (40, 80), strict=True):
        assert np.abs(np.array(Image.open(tmp_path / "r" / file)).astype(int) - value).max() <= 2
    # A report without takes its place, and leaves nothing behind.
    report, metrics = observed(images)
    report.write(tmp_path / "r", metrics, title="bottle", facts=FACTS)
    assert not [name for name in contents(tmp_path / "r") if name in files]


def test_nothing_comes_from_a_network(written):
    text = (written / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"""(src|href)=["']?(https?:)?//|@import|url\(""", text)
    assert text.count("<script>") == 1


def test_names_are_text_and_nothing_else(page, written):
    assert page.tags.count("script") == 1
    assert "i" not in page.tags
    assert page.text.count(HOSTILE) >= 5  # links, table, headings, names
    assert "<i>bottle</i>" in page.text
    assert "<b>bottle</b>: 209 good images" in page.text
    assert "one & two" in page.text


def test_a_script_in_a_title_or_a_file_name_is_text(tmp_path):
    name, title = "<script>x('\"')<&amp;", '</title></style><script>alert("\'")</script>'
    for i in range(2):
        write(tmp_path / f"data/test/good/{name}{i}.png", np.full((32, 48), 40 + i, np.uint8))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report, metrics = observed(tmp_path / "data")
    report.write(tmp_path / "out", metrics, title=title, facts={title: name}, notes=[title])
    page = Page((tmp_path / "out/index.html").read_text(encoding="utf-8"))
    assert page.tags.count("script") == 1
    assert page.text.count(title) == 4  # the window's, the heading, the note, the fact
    assert page.text.count(name) == 3
    assert f"good, good/{name}1.png" in page.alternatives


def test_the_page_says_what_was_found(page):
    # In the images 2 of 8 defects are dark, and one of 6 good ones is bright.
    for words in (
        "finds 6 of 8 defective images and calls 1 of 6 good ones defective",
        "95% interval 0.612 to 0.988",
        "at most 5.0%",
        "17%, 1 of 6",
        "Missed defects 2",
        "False alarms 1",
        "hole, found 3",
        "good, passed 5",
        "The test images chose nothing",
        "oracle",
        "seed 7",
    ):
        assert words in page.text


def test_the_worst_come_first(written):
    text = (written / "index.html").read_text(encoding="utf-8")
    headings = re.findall(r"<h3 id=\"([a-z-]+?)(?:-[0-9a-f]+)?\"", text)
    assert headings == ["missed", "false-alarm", "defect", "defect", "good"]
    scores = [float(s) for s in re.findall(r"<figcaption class=\"wrong\"><b>([\d.]+)</b>", text)]
    assert len(scores) == 3
    assert scores[0] <= scores[1] <= THRESHOLD < scores[2]


def test_outlines_of_prediction_and_truth(written):
    text = (written / "index.html").read_text(encoding="utf-8")
    assert len(re.findall(r'<path id="truth-\d+"', text)) == 8  # the defects
    assert len(re.findall(r'<path id="predicted-\d+"', text)) == 7  # six of them, a false alarm
    assert text.count('viewBox="0 0 240 160"') == 14  # maps of 16 x 24, in tenths


def test_the_scores_of_all_images(written, images):
    with open(written / "scores.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 14
    of_scores, of_inputs = (
        ["path", "score", "p_value", "is_anomalous"],
        ["input", "status", "error"],
    )
    assert list(rows[0]) == [*of_scores, *of_inputs, "type", "is_defect"]
    assert {row["path"] for row in rows} == {str(p) for p in (images / "test").rglob("*.png")}
    for row in rows:
        assert row["is_anomalous"] == str(float(row["score"]) > THRESHOLD)
        assert row["is_defect"] == str(row["type"] != "good")
        assert row["p_value"] == ""  # nobody gave them


def test_the_manifest_names_every_file(written):
    manifest = json.loads((written / "fastad-report.json").read_text())
    assert set(manifest["files"]) == set(contents(written))


def test_the_same_report_twice_is_the_same(images, written, tmp_path):
    report, metrics = observed(images)
    metrics["image_auroc_interval"] = (0.61234, 0.98765)
    for _ in range(2):
        report.write(tmp_path, metrics, title="<i>bottle</i>", facts=FACTS, notes=["one & two"])
        assert contents(tmp_path) == contents(written)


def test_a_smaller_report_removes_the_pictures_of_a_larger_one(images, written, tmp_path):
    report, metrics = observed(images)
    report.write(tmp_path, metrics, title="bottle", facts={})
    (tmp_path / "mine.txt").write_text("mine")
    few = tmp_path.parent / "few"
    for i in range(2):
        write(few / f"test/good/{i}.png", np.full((32, 48), 40 + i, np.uint8))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report, metrics = observed(few)
    report.write(tmp_path, metrics, title="few", facts={})
    names = set(contents(tmp_path))
    assert {name for name in names if name.startswith("pictures/")} == {
        f"pictures/000{i}{end}" for i in (1, 2) for end in (".jpg", "-map.png")
    }
    assert "mine.txt" in names
    text = Page((tmp_path / "index.html").read_text(encoding="utf-8")).text
    assert "calls 0 of 2 good ones defective" in text
    assert "There are none without both good and defective test images" in text


@pytest.mark.parametrize(
    "name",
    ["index.html", "fastad-report.json", "scores.csv", "pictures/0001.jpg", "pictures/mine.png"],
)
def test_files_of_others_are_left_alone(images, tmp_path, name):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text("{}")
    with pytest.raises(FileExistsError, match=re.escape(name) + " is not from `fastad evaluate"):
        check_report_folder(tmp_path)
    report, metrics = observed(images)
    with pytest.raises(FileExistsError, match=re.escape(name)):
        report.write(tmp_path, metrics, title="bottle", facts={})
    assert contents(tmp_path) == {name: b"{}"}


def test_a_folder_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(NotADirectoryError, match="file is no folder"):
        check_report_folder(tmp_path / "file")
    check_report_folder(tmp_path / "new" / "folder")
    assert not (tmp_path / "new").exists()


def test_an_image_that_has_gone_leaves_no_page(images, tmp_path):
    write_images(tmp_path / "data")
    report, metrics = observed(tmp_path / "data")
    out = tmp_path / "out"
    report.write(out, metrics, title="bottle", facts={})
    (tmp_path / "data/test/hole/2.png").write_bytes(b"broken")
    with pytest.raises(ImageError, match=r"hole/2\.png"):
        report.write(out, metrics, title="bottle", facts={})
    assert not (out / "index.html").exists()
    write_images(tmp_path / "data")
    report.write(out, metrics, title="bottle", facts={})
    assert (out / "index.html").exists()


def test_without_threshold_calibration_and_ground_truth(images, tmp_path):
    write_images(tmp_path / "data")
    (tmp_path / "data/ground_truth").rename(tmp_path / "elsewhere")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report, metrics = observed(
            tmp_path / "data",
            threshold=None,
            pixel_threshold=None,
            calibration=(),
            false_positive_rate=None,
        )
    report.write(tmp_path / "out", metrics, title="bottle", facts={})
    page = Page((tmp_path / "out/index.html").read_text(encoding="utf-8"))
    assert "The detector has no threshold" in page.text
    assert page.text.count("no ground truth") == 8
    assert "The top of the scale is the highest value of all test images" in page.text
    assert "path" in page.tags  # the legend's
    assert not any(name.startswith(("truth", "predicted")) for name in page.ids)


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="names there are always text")
def test_names_that_are_no_text(tmp_path):
    write_images(tmp_path / "data")
    folder = os.fsencode(tmp_path / "data/test/good")
    os.rename(folder + b"/0.png", folder + b"/\xff\n.png")
    report, metrics = observed(tmp_path / "data")
    report.write(tmp_path / "out", metrics, title="b\udcfe", facts={"file": "\udcff"})
    text = (tmp_path / "out/index.html").read_text(encoding="utf-8")
    assert "\\udcff" in Page(text).text
    assert b"\xff" in (tmp_path / "out/scores.csv").read_bytes()


def test_nothing_observed(tmp_path):
    with pytest.raises(ValueError, match="no image was observed"):
        Report().write(tmp_path / "out", {}, title="bottle", facts={})
    assert not (tmp_path / "out").exists()


def test_what_is_outside_a_region_of_interest_is_shown(images, tmp_path):
    roi = np.zeros((16, 24), dtype=bool)
    roi[2:12, 4:20] = True
    report, metrics = observed(images, roi=roi)
    report.write(tmp_path / "report", metrics, title="t", facts={})
    text = (tmp_path / "report" / "index.html").read_text(encoding="utf-8")
    paths = re.findall(r'<path id="outside-\d+" d="([^"]+)"', text)
    assert len(paths) == 14
    assert set(paths) == {outside(roi, (16, 24))}
    assert paths[0].startswith("M0 0H240V160H0z")
    assert text.count('class="outside"') == 14
    assert "takes 41.7 % of an image" in text
    plain, metrics = observed(images)
    plain.write(tmp_path / "plain", metrics, title="t", facts={})
    text = (tmp_path / "plain" / "index.html").read_text(encoding="utf-8")
    assert 'class="outside"' not in text
    assert "region of interest" not in text
