"""The user guide and the README say what the package does: their code runs, messages and numbers
are the code's, and the tables of options that are made from the code name every option.

The Python of a page runs from top to bottom in one namespace, in a folder with the files that the
guide speaks of, with small images and a teacher of random weights.
"""

import ast
import dataclasses
import importlib.util
import math
import re
import shlex
import warnings
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from PIL import Image
from safetensors.torch import save_file

import fastad
from fastad.backbones import build
from fastad.cli import app
from fastad.data.training_set import IN_MEMORY_BYTES, MIN_SIDE
from fastad.inference.threshold import conformal_threshold
from fastad.models import MODELS
from fastad.training import TrainingConfig
from fastad.training.batches import split_indices
from fastad.training.config import STAGE_OPTIONS

ROOT = Path(__file__).resolve().parents[1]
PAGES = [*sorted((ROOT / "docs").rglob("*.md")), ROOT / "README.md"]
RUNTIMES = ("onnxruntime", "openvino")
FIXED = 8  # characters: fewer would be found anywhere


def text(name: str) -> str:
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page, re.M | re.S)


def rows(page: str, heading: str) -> list[list[str]]:
    """Cells of the table whose first heading is this, without the heading."""
    found: list[list[str]] = []
    for table in re.findall(rf"^\| {heading} \|.*\n\|[-| ]+\|\n((?:\|.*\n)+)", page, re.M):
        found += [[c.strip() for c in line.strip("|").split("|")] for line in table.splitlines()]
    return found


def small(code: str) -> str:
    """The same code with a training that takes no time, and teachers that are there."""
    code = code.replace('fit("bottle")', 'fit("bottle", epochs=1)')
    if 'Detector("stpm"' in code:
        code = re.sub(r"epochs=\d+", "epochs=1", code)
        return re.sub(r"image_size=\d+", 'image_size=32, layers=("layer1",)', code)
    code = re.sub(r"epochs=\d+", "epochs=1, pseudo_anomalies=4", code)
    code = re.sub(r', (teacher2|bottleneck)="\w+"', "", code)
    tiny = 'teacher2="resnet18", bottleneck="learned", discriminator_width=4'
    return re.sub(r"image_size=\d+", f"image_size=32, {tiny}", code)


def draw(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(value).integers(0, 256, (40, 48, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """A folder with what the guide speaks of, and one with the teacher's weights."""
    folder = tmp_path_factory.mktemp("docs")
    for i in range(15):
        draw(folder / f"bottle/train/good/{i:03d}.png", i)
    for i in range(2):
        draw(folder / f"bottle/test/good/{i:03d}.png", 100 + i)
        draw(folder / f"bottle/test/broken/{i:03d}.png", 200 + i)
        draw(folder / f"bottle/ground_truth/broken/{i:03d}_mask.png", 300 + i)
        draw(folder / f"new_images/{i:03d}.png", 400 + i)
    for i in range(12):
        draw(folder / f"todays_good_images/{i:03d}.png", 500 + i)
    for i in range(5):
        draw(folder / f"defects/{i:03d}.png", 600 + i)
    (folder / "weights").mkdir()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        save_file(build("resnet18").state_dict(), folder / "weights" / "resnet18.safetensors")
    detector = fastad.Detector(
        "stpm", image_size=32, layers=("layer1",), teacher_weights=folder / "weights"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # so few images keep no rate
        detector.fit(folder / "bottle", epochs=1)
    detector.save(folder / "bottle.fastad")
    return folder


@pytest.fixture
def at_desk(desk, monkeypatch):
    monkeypatch.chdir(desk)
    monkeypatch.setenv("FASTAD_WEIGHTS", str(desk / "weights"))
    return desk


def needs_export(code: str) -> bool:
    return any(f"import {name}" in code for name in RUNTIMES) or "torch.export.load" in code


@pytest.mark.filterwarnings("ignore:a false-positive rate")
@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_python_of_a_page_runs(page, at_desk):
    namespace: dict = {}
    for code in blocks(page.read_text(encoding="utf-8"), "python"):
        compiled = compile(small(code), page.name, "exec")
        if not needs_export(code):
            exec(compiled, namespace)


@pytest.mark.slow
@pytest.mark.skipif(not find_spec("onnxscript"), reason="needs fastad[export]")
@pytest.mark.parametrize("runtime", [*RUNTIMES, "torch"])
def test_an_exported_file_gives_the_detectors_result(runtime, at_desk):
    pytest.importorskip(runtime)
    detector = fastad.load("bottle.fastad", device="cpu", precision="float32")
    format = {"onnxruntime": "onnx", "torch": "torch-export"}.get(runtime, runtime)
    name = {"onnx": "bottle.onnx", "openvino": "bottle.xml", "torch-export": "bottle.pt2"}[format]
    detector.export(name, format)
    codes = [code for code in blocks(text("how-to/deployment.md"), "python") if needs_export(code)]
    [code] = [c for c in codes if f"import {runtime}\n" in c]
    image = np.asarray(Image.open("new_images/000.png").convert("RGB"))
    namespace = {"image": image[None]}
    exec("import json", namespace)
    exec(code, namespace)
    expected = detector.predict(image)
    assert namespace["facts"]["threshold"] == detector.threshold_
    if runtime == "onnxruntime":
        assert "fastad" not in re.findall(r"import (\w+)|from (\w+)", code)
        assert namespace["score"] == pytest.approx(float(expected.score[0]), rel=1e-3)
        assert namespace["p_value"] == pytest.approx(float(expected.p_value[0]))
        assert (namespace["mask"] == expected.mask[0]).mean() > 0.99
    else:
        score = float(namespace["result"]["score"][0])
        assert score == pytest.approx(float(expected.score[0]), rel=1e-3)


def test_the_line_for_another_rate_is_the_packages_rule():
    [code] = re.findall(r"rate of 5 %:\n`(.*)`", text("how-to/deployment.md"))
    for n in (19, 20, 99, 150, 379):
        normal = np.random.default_rng(n).random(n)
        expected = conformal_threshold(normal, 0.05)
        assert eval(code, {"np": np, "normal": normal}) == expected


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_commands_are_understood(page):
    group = typer.main.get_command(app)
    for block in blocks(page.read_text(encoding="utf-8"), "bash"):
        for line in block.splitlines():
            words = shlex.split(line, comments=True)
            while words and "=" in words[0]:  # environment variables
                words.pop(0)
            words = [word for word in words if word not in ("--quiet", "--verbose")]
            if words[:1] == ["fastad"]:
                group.commands[words[1]].make_context(words[1], words[2:])


def load_tool(name: str):
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


reference = load_tool("docs_reference")  # what the site shows of the code


def generated(name: str) -> str:
    return reference.generated(text(f"reference/{name}.md"))


CONFIGS = [TrainingConfig, *(model.Config for model in MODELS.values())]


@pytest.mark.parametrize("config", CONFIGS)
def test_table_of_options_names_every_field_and_its_default(config):
    table = rows(reference.options_table(config) + "\n", "option")
    assert [cells[0] for cells in table] == [f"`{f.name}`" for f in dataclasses.fields(config)]
    for field, (_, shown, meaning) in zip(dataclasses.fields(config), table, strict=True):
        default = field.default
        if default is dataclasses.MISSING:
            default = field.default_factory()
        if isinstance(default, tuple):
            expected = ",".join(map(str, default))
        else:
            expected = str(default).lower() if default in (None, True, False) else str(default)
        assert shown == f"`{expected}`", field.name
        assert meaning.endswith("."), field.name


def test_options_of_every_config_are_on_the_page():
    page = generated("options")
    assert "<!-- " not in page
    for config in CONFIGS:
        assert reference.options_table(config) in page, config


def test_an_option_without_a_meaning_is_noticed():
    @dataclasses.dataclass
    class Config:
        """Options.

        Attributes:
            first: has one.
        """

        first: int = 1
        second: int = 2

    with pytest.raises(KeyError, match="second"):
        reference.options_table(Config)


def test_table_of_recipes_is_the_models():
    """And so the published ones, as far as they are the models' defaults."""
    (head,) = re.findall(r"^\| option \|.*`rstpm`.*$", generated("options"), re.M)
    head = [c.strip() for c in head.split("|")[2:-1]]
    table = {
        name.strip("`"): cells for name, *cells in rows(f"{reference.recipes_table()}\n", "option")
    }
    stages = [(kind, stage) for kind in fastad.models.MODELS.values() for stage in kind.stages]
    assert len(head) == len(stages)
    usual = {name: getattr(TrainingConfig(), name) for name in STAGE_OPTIONS}
    for column, (kind, stage) in enumerate(stages):
        several = f" `{stage.name}`" if len(kind.stages) > 1 else ""
        assert head[column] == f"`{kind.name}`{several}"
        config = TrainingConfig.for_model(kind)
        own = config.for_stage(kind, stage)
        for name, default in usual.items():
            value = getattr(own, name)
            if name not in table:
                assert value == default, (head[column], name)
                continue
            shown = table[name][column].partition(", ")[0]
            is_used = shown != ""
            assert is_used or value == default, (head[column], name)
            if is_used:
                assert shown == f"`{reference.written(value)}`", (head[column], name)
        rates = [config.for_step(kind, stage, step).learning_rate for step in stage.steps]
        shown = re.findall(r"`(.*?)`", table["learning_rate"][column])
        assert shown == [str(rate) for rate in rates]


def test_every_command_and_option_is_on_the_page():
    page, group = generated("cli"), typer.main.get_command(app)
    assert re.findall(r"^## fastad ([\w-]+)$", page, re.M) == re.findall(
        r"command: ([\w-]+)", text("reference/cli.md")
    )
    assert set(re.findall(r"^## fastad ([\w-]+)$", page, re.M)) == set(group.commands)
    for name, command in group.commands.items():
        (section,) = re.findall(rf"^## fastad {name}$(.*?)(?=^## |\Z)", page, re.M | re.S)
        assert " ".join(command.help.split()) in " ".join(section.split())
        for parameter in command.params:
            if parameter.param_type_name == "argument":
                assert f"| `{parameter.metavar}` |" in section, (name, parameter.name)
                continue
            (line,) = re.findall(rf"^\| `{parameter.opts[0]}` \|.*$", section, re.M)
            assert parameter.help.replace("\\[", "[") in line
            default = getattr(parameter.default, "value", parameter.default)
            if default is not None and not parameter.is_flag:
                assert f"Default: `{default}`." in line


def test_what_is_said_of_rstpms_training():
    page = " ".join(text("models/rstpm.md").split())
    pairs, discriminator = fastad.models.RSTPM.stages
    assert (pairs.name, discriminator.name) == ("pairs", "discriminator")
    usual = fastad.models.RSTPM.training_defaults
    first = {**usual, **pairs.training_defaults}
    second = {**usual, **discriminator.training_defaults}
    assert first["optimizer"] == second["optimizer"] == "adam"
    low, high = first["betas"]
    assert f"Adam at {first['learning_rate']:g} with betas ({low}, {high})" in page
    assert f"batches of {first['batch_size']} and {first['epochs']} epochs" in page
    assert f"the second's goes with it, {second['epochs']} to {first['epochs']}" in page
    images = TrainingConfig.for_model(fastad.models.RSTPM).pseudo_anomalies
    assert f"{second['learning_rate']:g}, {second['epochs']} epochs of {images} images" in page


def test_table_of_rates_is_true():
    table = rows(text("how-to/threshold.md"), "rate")
    assert [cells[0] for cells in table] == ["10 %", "5 %", "2 %", "1 %", "0.1 %"]
    for rate, needed, in_all in table:
        alpha, n, total = float(rate.split()[0]) / 100, int(needed), int(in_all)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert conformal_threshold(np.arange(n), alpha) == n - 1
        with pytest.warns(UserWarning, match=f"asked for needs {n}$"):
            conformal_threshold(np.arange(n - 1), alpha)
        assert len(split_indices(total, 0.2, 0)[1]) >= n > len(split_indices(total - 1, 0.2, 0)[1])
        rank = math.ceil((n + 1) * (1 - alpha) - 1e-9)
        assert rank == n


def test_numbers_in_the_text_are_the_codes():
    page = " ".join(text("how-to/data.md").replace("\N{MULTIPLICATION SIGN}", "x").split())
    assert f"{2 * Image.MAX_IMAGE_PIXELS:,} pixels" in page
    assert f"{IN_MEMORY_BYTES // (3 * 256 * 256):,} images of 256x256" in page
    assert f"Sides go from {MIN_SIDE} to {fastad.data.images.MAX_SIDE}" in page
    assert all(f"`{ending}`" in page for ending in fastad.data.finding.ENDINGS)


def templates() -> list[str]:
    """Every string of the source, with a NUL for what an f-string fills in."""
    found = []
    for path in sorted((ROOT / "fastad").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
            elif isinstance(node, ast.JoinedStr):
                parts = [v.value if isinstance(v, ast.Constant) else "\0" for v in node.values]
                found.append("".join(parts))
    return found


def messages(page: str) -> list[str]:
    return [" ".join(m.split()) for m in re.findall(r"^- `([^`]+)`", page, re.M)]


def occurs(message: str, strings: list[str]) -> bool:
    """Whether one string holds the fixed parts of a message, in order; … is anything.

    A path in front may be added where the error is raised, apart from its text.
    """
    parts = message.removeprefix("…: ").split("…")
    pattern = re.compile(".*".join(map(re.escape, parts)), re.S)
    return any(pattern.search(string) for string in strings)


def test_messages_are_the_codes():
    found, strings = messages(text("how-to/troubleshooting.md")), templates()
    assert len(found) >= 25
    assert len(set(found)) == len(found)
    assert [m for m in found if len(re.sub("[… ]", "", m)) < FIXED] == []
    assert [m for m in found if not occurs(m, strings)] == []


def test_a_changed_message_is_noticed():
    assert occurs("no file … here", ["there is no file \0 here"])
    assert not occurs("no file … here", ["there is no image \0 here"])
    assert not occurs("no file … here", ["no file \0", "not here"])


def anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
        name, _, part = target.partition("#")
        linked = page.parent / name if name else page
        assert "://" in target or linked.exists(), target
        if part:
            headings = re.findall(r"^#+ (.*)$", linked.read_text(encoding="utf-8"), re.M)
            assert part in map(anchor, headings), target


def test_the_navigation_names_every_page():
    nav = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2]
    named = re.findall(r"^ +- (?:.*: )?(\S+\.md)$", nav, re.M)
    pages = [p.relative_to(ROOT / "docs").as_posix() for p in PAGES if p.name != "README.md"]
    assert sorted(named) == sorted(pages)
