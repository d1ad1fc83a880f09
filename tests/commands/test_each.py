"""``--each``: a detector and a row for every product, kept when done, and one page on all."""

import csv
import json
import shutil
import time
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from fastad import cli, load
from fastad.commands import train_each
from fastad.commands.each_page import in_order, quality
from fastad.data import find_products
from fastad.distributed import claims
from fastad.evaluation.report.strip import score_strip
from fastad.inference import fitting

SUBSPACE = ["--model", "subspace", "--set", "smoothing=1", "--teacher-weights", "embedded"]
FEW = 15  # synthesised defects
OPTIONS = [*SUBSPACE, "--image-size", 32, "--precision", "float32"]


def write(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def product(folder, seed, side=32, test=True):
    """Ten good images of grey noise, and test images with a bright square."""
    rng = np.random.default_rng(seed)

    def noise():
        return rng.integers(80, 120, (side, side, 3), dtype=np.uint8)

    for i in range(10):
        write(folder / f"train/good/{i}.png", noise())
    for i in range(2 if test else 0):
        write(folder / f"test/good/{i}.png", noise())
        pixels, mask = noise(), np.zeros((side, side), np.uint8)
        pixels[4:20, 10:24], mask[4:20, 10:24] = (250, 10, 10), 255
        write(folder / f"test/hole/{i}.png", pixels)
        write(folder / f"ground_truth/hole/{i}_mask.png", mask)


@pytest.fixture(scope="module", autouse=True)
def quick():
    """A self-check of few defects."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fitting, "TRIED", FEW)
        yield


@pytest.fixture(scope="module")
def factory(tmp_path_factory):
    """Two products, one of them in a group, one that cannot be trained on, and no product."""
    root = tmp_path_factory.mktemp("factory") / "root"
    product(root / "cap", 0)
    product(root / "line_2/bottle", 1)
    (root / "broken/train/good").mkdir(parents=True)
    (root / "broken/train/good/0.png").write_text("no image")
    (root / "documents").mkdir()
    (root / "documents/plan.txt").write_text("none")
    return root


@pytest.fixture(scope="module")
def trained(factory, tmp_path_factory):
    """The folder of the detectors, and what the command ended with."""
    folder = tmp_path_factory.mktemp("trained") / "out"
    with pytest.raises(SystemExit) as stop:
        cli.main([str(a) for a in ("train", factory, "--each", "--output", folder, *OPTIONS)])
    return folder, stop.value.code


def row_of(folder, name):
    return json.loads((folder / f"{name}.json").read_text())


def test_products_are_found_at_any_depth_of_groups(factory):
    assert [p.name for p in find_products(factory)] == ["broken", "cap", "line_2/bottle"]
    assert [p.name for p in find_products(factory / "line_2")] == ["bottle"]


def test_one_that_has_folders_of_classes_is_one_product(tmp_path):
    for name in ("good", "scratch"):
        write(tmp_path / "cap" / name / "0.png", np.zeros((8, 8, 3), np.uint8))
    write(tmp_path / "plain" / "a.png", np.zeros((8, 8, 3), np.uint8))
    assert [p.name for p in find_products(tmp_path)] == ["cap", "plain"]


@pytest.mark.parametrize(("folder", "said"), [("cap", "itself a product"), ("empty", "no product")])
def test_what_is_no_folder_of_products_is_refused(factory, tmp_path, folder, said):
    (tmp_path / "empty").mkdir()
    root = factory / folder if folder == "cap" else tmp_path / folder
    with pytest.raises(ValueError, match=said):
        find_products(root)


def test_a_product_that_fails_does_not_end_the_others(trained):
    folder, code = trained
    assert code == 1
    broken = row_of(folder, "broken")
    assert broken["status"] == "failed"
    assert "0.png" in broken["error"]
    for name in ("cap", "line_2/bottle"):
        row, detector = row_of(folder, name), load(folder / f"{name}.fastad")
        assert row["status"] == "done"
        assert row["threshold"] == detector.threshold_
        assert row["image_auroc"] == detector.training_record_["self_check"]["image_auroc"]
        assert row["defects"] == FEW
        assert row["scores"]["held_out"] == detector.calibration_scores_.tolist()
        assert row["seconds"] > 0
        assert row["threads"] >= 1
        assert row["peak_mib"] is None or row["peak_mib"] > 50


def test_table_and_page_have_all_products_the_failed_first(trained):
    folder, _ = trained
    with open(folder / "products.csv") as file:
        rows = list(csv.DictReader(file))
    assert rows[0]["product"] == "broken"
    known = [float(row["image_auroc"]) + float(row["aupro"]) for row in rows[1:]]
    assert known == sorted(known)
    page = (folder / "index.html").read_text()
    assert page.index("broken failed") < page.index("<table>") < page.index("<th>cap</th>")
    assert page.count("image/svg+xml") == 2
    assert "2 of 3 products" in page


def test_what_is_done_is_kept_and_what_failed_is_tried_again(fastad, factory, trained, tmp_path):
    folder = tmp_path / "out"
    shutil.copytree(trained[0], folder)
    before = (folder / "cap.fastad").read_bytes()
    code, _, err = fastad("train", factory, "--each", "--output", folder, *OPTIONS)
    assert code == 1
    assert err.count(": kept") == 2
    assert "broken failed" in err
    assert (folder / "cap.fastad").read_bytes() == before


def test_other_images_are_trained_anew(fastad, factory, trained, tmp_path):
    root, folder = tmp_path / "root", tmp_path / "out"
    shutil.copytree(trained[0], folder)
    shutil.copytree(factory, root)
    shutil.rmtree(root / "broken")
    write(root / "cap/train/good/0.png", np.full((32, 32, 3), 100, np.uint8))
    code, _, err = fastad("train", root, "--each", "--output", folder, *OPTIONS)
    assert code == 0
    assert err.count(": kept") == 1
    assert "line_2/bottle, 2 of 2: kept" in err


def test_a_stopped_training_goes_on_where_it_was(fastad, factory, tmp_path, monkeypatch):
    given = []

    def train(data, *, output, resume, **options):
        given.append(resume)
        (tmp_path / "out/line_2/bottle.fastad.checkpoint").write_text("of the training")
        raise KeyboardInterrupt

    monkeypatch.setattr(train_each, "train", train)
    arguments = ["train", factory / "line_2", "--each", "--output", tmp_path / "out/line_2"]
    for options in ([], [], ["--seed", 1]):
        code, _, err = fastad(*arguments, *OPTIONS, *options)
        assert code == 1
        assert "stopped by the user: the same command keeps what is done" in err
    assert given == [False, True, False]  # that of another seed is not gone on from


def test_another_process_has_a_product(fastad, factory, tmp_path, monkeypatch):
    """It is waited for, and its row is taken as it is."""
    folder, seen = tmp_path / "out", []
    claimed = claims.claimed

    def meanwhile(path, *, wait):
        seen.append(wait)
        if not wait:
            return _Theirs()
        row = {"product": "bottle", "status": "failed", "error": "by another process"}
        (folder / "bottle.json").write_text(json.dumps(row))
        return claimed(path, wait=wait)

    class _Theirs:
        def __enter__(self):
            return False

        def __exit__(self, *error):
            pass

    monkeypatch.setattr(claims, "claimed", meanwhile)
    code, _, err = fastad("train", factory / "line_2", "--each", "--output", folder, *OPTIONS)
    assert code == 1
    assert "1 of 1 products failed: bottle: by another process" in err
    assert seen == [False, True]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "--each needs --output DIR"),
        (["--output", "out.fastad"], "--each fills a folder with detectors"),
        (["--output", "out", "--resume"], "--resume is for one"),
        (["--output", "out", "--exclude", "a.txt"], "--exclude is for one"),
        (["--output", "out", "--defects", "some"], "--defects is for one"),
        (["--output", "out", "--set", "nothing=1"], "nothing"),
    ],
)
def test_wrong_options_are_refused_before_anything(fastad, factory, at_tmp, options, said):
    code, _, err = fastad("train", factory, "--each", *options)
    assert code == 2
    assert said in err
    assert list(at_tmp.iterdir()) == []


@pytest.fixture
def at_tmp(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_files_of_others_are_not_replaced(fastad, factory, tmp_path):
    (tmp_path / "cap.fastad").write_text("another's")
    code, _, err = fastad("train", factory, "--each", "--output", tmp_path, *OPTIONS)
    assert code == 1
    assert "cap.fastad is not from `fastad train --each`" in err


def test_every_detector_is_measured_on_its_product(fastad, factory, trained, tmp_path):
    folder, numbers = tmp_path / "report", tmp_path / "numbers.json"
    root, detectors = factory / "line_2", tmp_path / "detectors"
    shutil.copytree(trained[0] / "line_2", detectors)
    product(tmp_path / "line/new/cap", 2)  # without a detector
    (tmp_path / "line/bottle").symlink_to(root / "bottle")
    arguments = ["evaluate", detectors, tmp_path / "line", "--each", "--report", folder]
    code, out, err = fastad(*arguments, "--json", numbers)
    assert code == 1
    assert out == ""
    assert f"new/cap: {detectors / 'new/cap.fastad'}: No such file or directory" in err
    row = row_of(folder, "bottle")
    metrics = load(detectors / "bottle.fastad").evaluate(root / "bottle")
    assert row["image_auroc"] == metrics["image_auroc"] == 1.0
    assert row["aupro"] == metrics["aupro"]
    assert (row["defects"], row["good"]) == (2, 2)
    chosen = metrics["at_threshold"]
    assert row["defects_found"] == 2 * chosen["true_positive_rate"]
    assert row["false_alarms"] == 2 * chosen["false_positive_rate"]
    assert (folder / "pages/bottle/index.html").is_file()
    assert json.loads(numbers.read_text())["bottle"]["image_auroc"] == 1.0
    page = (folder / "index.html").read_text()
    assert 'href="pages/bottle/index.html"' in page
    assert "Blue bars" in page
    code, _, err = fastad(*arguments)
    assert err.count(": kept") == 1


def test_it_costs_little_beside_the_trainings(fastad, factory, tmp_path, monkeypatch):
    """Time of the processor for a product with its training left out, and of a training alone."""
    root = tmp_path / "root"
    for i in range(10):
        shutil.copytree(factory / "cap", root / f"cap_{i}")
    options = ["--image-size", 32, *SUBSPACE, "--precision", "float32"]
    fastad("train", root / "cap_0", "--output", tmp_path / "a.fastad", *options)  # all is imported
    begin = time.process_time()
    fastad("train", root / "cap_0", "--output", tmp_path / "b.fastad", *options)
    alone = time.process_time() - begin
    detector = load(tmp_path / "b.fastad")
    monkeypatch.setattr(train_each, "train", lambda *_, **__: detector)
    begin = time.process_time()
    code, _, _ = fastad("train", root, "--each", "--output", tmp_path / "out", *options)
    beside = (time.process_time() - begin) / 10
    assert code == 0
    assert beside < 0.1 * alone


def test_a_strip_shows_every_score_on_its_side_of_the_threshold():
    scores = np.array([1.0, 1.0, 2.0]), np.array([1.5]), np.array([9.0, 10.0])
    root = ElementTree.fromstring(score_strip(*scores, threshold=5.0))
    bars = [e for e in root if e.tag.endswith("rect")]
    line = next(e for e in root if "stroke-dasharray" in e.attrib)
    x = float(line.attrib["d"].split()[0][1:])
    middle = float(root.attrib["height"]) / 2
    below = [e for e in bars if float(e.attrib["y"]) >= middle]
    assert len(below) == 2
    assert all(float(e.attrib["x"]) > x for e in below)
    assert all(float(e.attrib["x"]) < x for e in bars if e not in below)
    heights = [float(e.attrib["height"]) for e in bars[:2]]
    assert heights[0] == pytest.approx(heights[1] * 2**0.5, abs=0.1)  # two scores and one
    empty = score_strip(*3 * [np.array([])], threshold=None)
    assert ElementTree.fromstring(empty) is not None


@pytest.mark.parametrize(
    ("options", "said"),
    [([], "--each needs --report DIR"), (["--report", "r", "--csv", "-"], "leave out --csv")],
)
def test_evaluate_refuses_what_cannot_be(fastad, factory, trained, options, said):
    code, _, err = fastad("evaluate", trained[0], factory, "--each", *options)
    assert code == 2
    assert said in err


def test_the_worst_come_first():
    def row(name, status="done", **numbers):
        return {"product": name, "status": status} | numbers

    rows = [
        row("good", image_auroc=0.9, aupro=0.9),
        row("without", image_auroc=None, aupro=None),
        row("weak", image_auroc=0.9, aupro=0.1),
        row("no masks", image_auroc=0.6, aupro=None),
        row("failed", "failed"),
    ]
    order = [r["product"] for r in in_order(rows)]
    assert order == ["failed", "without", "weak", "no masks", "good"]
    assert quality(rows[2]) == pytest.approx(0.5)
