"""The embedded teacher: its file, who may take it, and when "auto" does."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from fastad import backbones
from fastad.backbones import embedded, weights
from fastad.backbones.embedded import LAYERS

pytestmark = pytest.mark.usefixtures("offline")


def notices(caplog):
    return [r.getMessage() for r in caplog.records if r.name == "fastad" and r.levelname != "DEBUG"]


def test_the_file_is_what_the_package_says():
    assert embedded.PATH.stat().st_size <= 6 * 2**20
    assert hashlib.sha256(embedded.PATH.read_bytes()).hexdigest() == embedded.SHA256
    wanted = backbones.build("resnet18", LAYERS).state_dict()
    with safe_open(embedded.PATH, framework="pt") as file:
        assert file.metadata()
        names = {name for name in wanted if not name.endswith(".num_batches_tracked")}
        assert set(file.keys()) == names
        for name in names:
            value = file.get_tensor(name)
            assert value.shape == wanted[name].shape
            assert value.dtype == (torch.float16 if value.dim() == 4 else torch.float32), name
            assert value.isfinite().all()
            assert not name.endswith("running_var") or (value >= 0).all()


def test_it_is_installed_with_its_card():
    root = Path(__file__).resolve().parents[2]
    patterns = '"fastad.backbones.embedded" = ["*.safetensors", "README.md"]'
    assert patterns in (root / "pyproject.toml").read_text()
    # Of the package that runs: a checkout, or what `pip install .` made of one.
    assert Path(embedded.__file__).with_name("resnet18.safetensors") == embedded.PATH
    assert embedded.PATH.with_name("README.md").is_file()


def test_embedded_is_a_source(offline, caplog):
    backbone = backbones.build("resnet18", ("layer3", "layer1"), weights="embedded")
    with safe_open(embedded.PATH, framework="pt") as file:
        assert torch.equal(backbone.conv1.weight, file.get_tensor("conv1.weight").float())
    assert backbone.conv1.weight.dtype == torch.float32
    assert backbone.origin == "embedded"
    assert backbones.has_weights("resnet18", LAYERS, "embedded")
    assert offline == []
    assert notices(caplog) == []


@pytest.mark.parametrize(
    ("name", "layers", "missing"),
    [
        ("resnet18", ("layer1", "layer4"), "layer4 of resnet18"),
        ("resnet50", ("layer1",), "resnet50"),
        ("resnet50_caffe", ("layer1",), "resnet50_caffe"),
    ],
)
def test_of_another_network_there_is_none(name, layers, missing):
    match = (
        rf"^the embedded teacher is a ResNet-18 from conv1 to layer3; there is none for {missing}: "
        "take resnet18 with layers up to layer3, or give others by --teacher-weights PATH [^\n]*$"
    )
    with pytest.raises(backbones.WeightsNotFoundError, match=match):
        backbones.build(name, layers, weights="embedded")
    assert not backbones.has_weights(name, layers, "embedded")


def test_auto_comes_to_it_last_and_says_so_once(offline, caplog):
    for _ in range(3):
        assert backbones.build("resnet18", weights="auto").origin == "embedded"
    [notice] = notices(caplog)
    assert caplog.records[-1].levelname == "WARNING"
    assert "\n" not in notice
    for part in (
        "no ImageNet weights (the download failed: network is unreachable)",
        "taking the embedded teacher, trained on generated images only",
        "--teacher-weights PATH (teacher_weights= in Python) or FASTAD_WEIGHTS",
    ):
        assert part in notice
    assert len(offline) == 1


def test_the_notice_names_a_folder_without_the_file(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("FASTAD_WEIGHTS", str(tmp_path))
    backbones.build("resnet18", weights="auto")
    assert "(FASTAD_WEIGHTS holds no file named resnet18*" in notices(caplog)[0]


@pytest.mark.slow
def test_python_shows_the_notice_without_any_logging_set_up(tmp_path):
    code = (
        "import torch; from fastad import backbones; from fastad.backbones import download\n"
        f"torch.hub.get_dir = lambda: {str(tmp_path)!r}\n"
        "download.URLS['resnet18'] = 'https://localhost:1/resnet18-f37072fd.pth'\n"
        "backbones.build('resnet18', weights='auto'); backbones.build('resnet18', weights='auto')"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == ""
    assert run.stderr.count("taking the embedded teacher") == len(run.stderr.splitlines()) == 1


def test_auto_prefers_what_is_at_hand(tmp_path, monkeypatch, caplog):
    torch.save(backbones.build("resnet18", ("layer1",)).state_dict(), tmp_path / "resnet18_x.pth")
    monkeypatch.setenv("FASTAD_WEIGHTS", str(tmp_path))
    assert backbones.build("resnet18", ("layer1",), "auto").origin == "resnet18_x.pth"
    with pytest.raises(backbones.IncompleteWeightsError):  # and is not repaired
        backbones.build("resnet18", LAYERS, "auto")
    assert notices(caplog) == []


def test_auto_is_as_ever_where_it_has_not_the_layers():
    for name, layers in (("resnet18", ("layer4",)), ("resnet50", ("layer1",))):
        with pytest.raises(
            backbones.WeightsNotFoundError, match=f"no pretrained weights for {name}"
        ):
            backbones.build(name, layers, "auto")


def test_looking_changes_no_random_numbers_and_says_nothing(caplog):
    before = torch.get_rng_state()
    backbones.check_weights("resnet18", LAYERS, "auto")
    assert backbones.has_weights("resnet18", LAYERS, "auto")
    assert torch.equal(torch.get_rng_state(), before)
    assert notices(caplog) == []


def test_random_weights_have_no_origin():
    assert backbones.build("resnet18", weights="random").origin is None
    assert weights.find("auto", "resnet18") == embedded.PATH
