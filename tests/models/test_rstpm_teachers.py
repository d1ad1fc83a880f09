"""Which weights the teachers take, and what is proposed where some are missing."""

import pytest
import torch

from fastad import backbones
from fastad.backbones import IncompleteWeightsError, WeightsNotFoundError, weights
from fastad.models import RSTPMConfig
from fastad.models.rstpm_config import LAYERS
from fastad.models.rstpm_teachers import build_teachers


@pytest.fixture(autouse=True)
def isolated(tmp_path, monkeypatch):
    """No weights from the user's environment, an empty hub cache, no network."""
    monkeypatch.delenv("FASTAD_WEIGHTS", raising=False)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))

    def refuse(*_):
        raise OSError("no network")

    monkeypatch.setattr(weights, "_download", refuse)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Files of ResNet-18 without its layer4, and of ResNet-34 with it."""
    folder = tmp_path_factory.mktemp("weights")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for name, layers in (("resnet18", LAYERS), ("resnet34", (*LAYERS, "layer4"))):
            torch.save(backbones.build(name, layers).state_dict(), folder / f"{name}_x.pth")
    return folder


def teachers(**options):
    return build_teachers(RSTPMConfig(**options))


def same(network, file):
    state = torch.load(file)
    return all(torch.equal(value, state[key]) for key, value in network.state_dict().items())


def test_a_folder_holds_the_weights_of_both(folder):
    first, second = teachers(teacher_weights=str(folder), teacher2="resnet34", bottleneck="learned")
    assert same(first, folder / "resnet18_x.pth")
    assert same(second, folder / "resnet34_x.pth")
    assert len(first.channels) == 3


def test_a_file_is_the_first_teachers(folder):
    files = {"teacher_weights": folder / "resnet34_x.pth", "teacher1": "resnet34"}
    with pytest.raises(WeightsNotFoundError, match=r"teacher2: .* for resnet50.*teacher2_weights"):
        teachers(**files)
    first, second = teachers(**files, teacher2="resnet18", teacher2_weights=folder)
    assert same(first, folder / "resnet34_x.pth")
    assert same(second, folder / "resnet18_x.pth")
    assert len(first.channels) == 4  # with the bottleneck


def test_random_teachers_need_no_weights():
    first, second = teachers(teacher_weights=None, teacher2_weights="random")
    assert len(first.channels) == 4
    assert second.channels == [256, 512, 1024]


@pytest.mark.parametrize(
    ("options", "error", "proposal"),
    [
        (
            {},
            IncompleteWeightsError,
            r"missing key 'layer4.* for --set teacher2=resnet34 --set bottleneck=learned$",
        ),
        ({"teacher1": "resnet34"}, WeightsNotFoundError, r"for --set teacher2=resnet34$"),
        ({"teacher2": "resnet18"}, IncompleteWeightsError, r"for --set bottleneck=learned$"),
        ({"teacher2_weights": None}, IncompleteWeightsError, r"for --set bottleneck=learned$"),
        ({"teacher1": "resnet50"}, WeightsNotFoundError, r"holds no file named resnet50\* [^W]*$"),
    ],
)
def test_options_that_work_with_what_is_there_are_named(
    folder, monkeypatch, options, error, proposal
):
    with pytest.raises(error, match=proposal):
        teachers(**{"teacher_weights": folder, **options})
    if options != {"teacher1": "resnet50"}:
        monkeypatch.setenv("FASTAD_WEIGHTS", str(folder))
        with pytest.raises(error, match=proposal):
            teachers(**options)


def test_what_is_proposed_works(folder):
    with pytest.raises(IncompleteWeightsError) as caught:
        teachers(teacher_weights=folder)
    settings = str(caught.value).partition("enough for ")[2].replace("--set ", "").split()
    teachers(teacher_weights=folder, **dict(setting.split("=") for setting in settings))


def test_nothing_is_proposed_where_nothing_would_work(tmp_path):
    with pytest.raises(WeightsNotFoundError) as caught:
        teachers()
    assert "What is there" not in str(caught.value)
