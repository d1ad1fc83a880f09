"""``fastad train --report``: what the page shows, and what is refused before any work."""

import base64
import io
import json
import re
import shutil
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from fastad import load
from fastad.commands import training_page

TRAIN = ("--image-size", "64", "--precision", "float32", "--teacher-weights", "embedded")
STPM = (*TRAIN, "--model", "stpm", "--epochs", "2", "--set", "validation_fraction=0.5")
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def data(images, tmp_path_factory):
    """The good images, of which one is brighter, and a file that is no image."""
    folder = tmp_path_factory.mktemp("data") / "parts <good>"
    shutil.copytree(images / "train/good", folder)
    pixels = np.asarray(Image.open(folder / "4.png")) // 2 + 120
    Image.fromarray(pixels).save(folder / "4.png")
    (folder / "2b.png").write_bytes(b"no image")
    return folder


@pytest.fixture(scope="module")
def made(data, tmp_path_factory):
    """A training with its page: the detector, and the folder of the page."""
    from fastad import cli

    out = tmp_path_factory.mktemp("out")
    arguments = ("train", data, *STPM, "--skip-bad", "--output", out / "d.fastad")
    with pytest.raises(SystemExit) as stop:
        cli.main([str(a) for a in (*arguments, "--report", out / "deep/report")])
    assert stop.value.code == 0
    return load(out / "d.fastad"), out / "deep/report"


@pytest.fixture(scope="module")
def text(made):
    return (made[1] / "index.html").read_text(encoding="utf-8")


def test_it_is_one_file(made, text):
    folder = made[1]
    assert {p.name for p in folder.iterdir()} == {"index.html", "fastad-training.json"}
    assert not re.search(r'(src|href)="(?!data:)', text)
    assert "<h1>d.fastad, trained on parts &lt;good&gt;</h1>" in text


def test_it_says_what_the_self_check_said(made, text):
    training = made[0].training_record_
    checked = training["self_check"]
    assert f"The detector {checked['summary']}." in text
    for name, share in checked["by_size"].items():
        assert f"{share['hits']} of {share['total']}" in text, name
    pictures = re.findall(r'alt="\w+, \w+, (found|missed): image, outline, anomaly map"', text)
    cells = [c for sizes in checked["by_kind_and_size"].values() for c in sizes.values()]
    assert len(pictures) == sum((c["hits"] > 0) + (c["hits"] < c["total"]) for c in cells)
    if training["next_step"] is not None:
        assert f"Next: {training['next_step']}." in text
    for note in training["notes"]:
        assert note[1:] in text


def test_the_plots_are_of_the_training(made, text):
    training, scores = made[0].training_record_, made[0].calibration_scores_
    curves, histogram = (
        ["".join(t.itertext()).strip() for t in ElementTree.fromstring(svg).iter(f"{SVG}text")]
        for svg in map(
            base64.b64decode, re.findall(r'src="data:image/svg\+xml;base64,([^"]+)"', text)
        )
    )
    names = {"losses", "error on held-out good images", "AUROC on synthesised defects"}
    assert names <= set(curves)
    above = (scores > made[0].threshold_).sum()
    assert f"held-out good images: {len(scores)}" in histogram
    assert f"{above} above the threshold" in histogram
    hits = training["self_check"]["found"]["hits"]
    assert "held-out images with synthesised defects: 150" in histogram
    assert f"{hits} above the threshold" in histogram


def test_the_least_normal_good_images_come_first(made, data, text):
    detector = made[0]
    paths = sorted(p for p in data.iterdir() if p.name != "2b.png")
    chosen = [paths[i] for i in detector.training_record_["held_out"]]
    expected = sorted(zip(detector.predict(chosen), chosen, strict=True), key=lambda x: -x[0].score)
    shown = re.findall(r"<figcaption>(\S+), score (\S+), p-value\s+(\S+)</figcaption>", text)
    assert [name for name, *_ in shown] == [path.name for _, path in expected]
    for (_, score, p_value), (result, _) in zip(shown, expected, strict=True):
        assert float(score) == pytest.approx(result.score, rel=1e-3)
        assert float(p_value) == pytest.approx(result.p_value, rel=0.06)
    picture = re.search(r'base64,([^"]+)" alt="Image and anomaly map of', text)[1]
    with Image.open(io.BytesIO(base64.b64decode(picture))) as image:
        assert image.size == (2 * 64 + 6, 72)


def test_it_describes_the_images(made, data, text):
    assert "Images of 72x64 become 64x64 (height x width)" in text
    cells = {
        name: [float(v) for v in re.findall(r"<td>([\d.]+)</td>", row)]
        for name, row in re.findall(r"<tr><th>(\w+)</th>(.*?)</tr>", text, re.S)
    }
    paths = sorted(p for p in data.iterdir() if p.name != "2b.png")
    held_out = [paths[i] for i in made[0].training_record_["held_out"]]
    brightness = [np.asarray(Image.open(p)).mean() / 255 for p in held_out]
    low, median, high = cells["brightness"]
    assert low == pytest.approx(min(brightness), abs=0.005)
    assert median == pytest.approx(np.median(brightness), abs=0.005)
    assert high == pytest.approx(max(brightness), abs=0.005)
    assert cells["aspect"] == pytest.approx([64 / 72] * 3, abs=0.005)


def test_without_held_out_images_there_is_a_page_too(fastad, data, tmp_path):
    options = ("--model", "subspace", "--set", "validation_fraction=0", "--skip-bad")
    out = ("--output", tmp_path / "d.fastad", "--report", tmp_path / "r")
    code, _, err = fastad("train", data, *TRAIN, *options, *out)
    assert code == 0, err
    assert err.splitlines()[-2] == f"report: {tmp_path / 'r/index.html'}"
    text = (tmp_path / "r/index.html").read_text(encoding="utf-8")
    assert "whether the detector finds anything is not known" in text
    assert "<h2>Scores</h2>" not in text
    code, _, err = fastad("train", data, *TRAIN, *options, *out, "--force")  # a page of its own
    assert code == 0, err


def test_the_candidates_of_auto(monkeypatch, made, data, tmp_path):
    detector = made[0]
    rows = [
        {"model": "patchcore", "image_auroc": 0.7512, "aupro": 0.5, "seconds": 90.0},
        {"model": "stpm", "image_auroc": 0.8125, "aupro": 0.25, "seconds": 600.0},
    ]
    rows = [row | {"defects": 150, "images": 4} for row in rows]
    monkeypatch.setitem(detector.training_record_, "candidates", rows)
    from fastad.data import training_images

    page = training_page.write_report(
        str(tmp_path / "r"), detector, training_images(data), "with candidates"
    )
    shown = " ".join(page.read_text(encoding="utf-8").split())
    assert "<th>patchcore</th> <td>0.751</td> <td>0.500</td><td>2 min</td>" in shown
    assert '<tr class="total"><th>stpm</th> <td>0.812</td> <td>0.250</td><td>10 min</td>' in shown
    assert "stpm is kept. Image AUROC and AUPRO on 150 synthesised defects" in shown


@pytest.mark.parametrize(
    ("report", "output", "match"),
    [
        ("OUT/theirs", "OUT/d.fastad", "index.html is not from `fastad train --report`"),
        ("OUT/file", "OUT/d.fastad", "file is no folder"),
        ("", "OUT/d.fastad", "it is empty"),
        ("OUT/new", "OUT/new", "are in each other's place"),
        ("OUT/new", "OUT/new/index.html", "no folder"),
    ],
)
def test_what_cannot_be_is_refused_before_the_training(
    fastad, data, tmp_path, monkeypatch, report, output, match
):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs/index.html").write_text("somebody's")
    (tmp_path / "file").touch()
    monkeypatch.setattr("fastad.Detector.fit", lambda *_, **__: pytest.fail("it was trained"))
    report, output = (name.replace("OUT", str(tmp_path)) for name in (report, output))
    code, _, err = fastad("train", data, *STPM, "--output", output, "--report", report)
    assert code == 1
    assert [match in line for line in err.splitlines() if line.startswith("error: ")] == [True], err
    assert (tmp_path / "theirs/index.html").read_text() == "somebody's"
    assert not (tmp_path / "new").exists()


def test_the_manifest_names_what_is_its_own(made):
    content = json.loads((made[1] / "fastad-training.json").read_text())
    assert content == {
        "written_by": "fastad train --report",
        "files": ["fastad-training.json", "index.html"],
    }
