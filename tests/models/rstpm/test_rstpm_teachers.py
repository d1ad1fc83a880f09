"""Which weights the teachers take, and what is proposed where some are missing."""

import pytest
import torch

from fastad import backbones, models
from fastad.backbones import IncompleteWeightsError, WeightsNotFoundError, download
from fastad.models import RSTPMConfig
from fastad.models.rstpm.config import LAYERS
from fastad.models.rstpm.teachers import ALTERNATIVES, build_teachers, resolve_auto

pytestmark = pytest.mark.usefixtures("offline")
PAPER = {"teacher2": "resnet50", "bottleneck": "layer4"}


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
    return build_teachers(resolve_auto(RSTPMConfig(**options)))


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
        teachers(**files, teacher2="resnet50")
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
        teachers(**PAPER | {"teacher_weights": folder, **options})
    if options != {"teacher1": "resnet50"}:
        monkeypatch.setenv("FASTAD_WEIGHTS", str(folder))
        with pytest.raises(error, match=proposal):
            teachers(**PAPER | options)


def test_what_is_proposed_works(folder):
    with pytest.raises(IncompleteWeightsError) as caught:
        teachers(**PAPER, teacher_weights=folder)
    settings = str(caught.value).partition("enough for ")[2].replace("--set ", "").split()
    teachers(teacher_weights=folder, **PAPER | dict(setting.split("=") for setting in settings))


def test_nothing_is_proposed_where_nothing_would_work(tmp_path):
    with pytest.raises(WeightsNotFoundError) as caught:
        teachers(teacher_weights=tmp_path)
    assert "What is there" not in str(caught.value)


def notices(caplog):
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


def settled(**options):
    config = resolve_auto(RSTPMConfig(**options))
    return config.teacher2, config.bottleneck, config.teacher_weights, config.teacher2_weights


def test_auto_is_the_papers_where_weights_can_be_had(tmp_path, monkeypatch, caplog):
    for name, layers in (("resnet18", (*LAYERS, "layer4")), ("resnet50", LAYERS)):
        torch.save(backbones.build(name, layers).state_dict(), tmp_path / f"{name}.pth")
    expected = ("resnet50", "layer4", str(tmp_path), "auto")
    assert settled(teacher_weights=tmp_path) == expected
    monkeypatch.setenv("FASTAD_WEIGHTS", str(tmp_path))
    assert settled() == ("resnet50", "layer4", "auto", "auto")
    monkeypatch.delenv("FASTAD_WEIGHTS")

    def fetch(url, target):
        target.parent.mkdir(parents=True, exist_ok=True)
        name = target.name.partition("-")[0]
        target.write_bytes((tmp_path / f"{name}.pth").read_bytes())

    monkeypatch.setattr(download, "fetch", fetch)
    assert settled() == ("resnet50", "layer4", "auto", "auto")
    assert notices(caplog) == []


@pytest.mark.parametrize("source", [None, "random"])
def test_auto_is_the_papers_without_weights(source, offline, caplog):
    options = {"teacher_weights": source, "teacher2_weights": source}
    assert settled(**options) == ("resnet50", "layer4", source, source)
    assert offline == []
    assert notices(caplog) == []


def test_auto_is_the_nearest_that_a_folder_allows(folder, monkeypatch, caplog):
    assert settled(teacher_weights=folder) == ("resnet34", "learned", str(folder), "auto")
    assert notices(caplog) == [
        "rstpm takes teacher2=resnet34 bottleneck=learned: there are no weights for "
        "teacher2=resnet50 bottleneck=layer4 at hand; give others by --teacher-weights PATH "
        "(teacher_weights= in Python) or FASTAD_WEIGHTS"
    ]
    assert settled(teacher_weights=folder, teacher1="resnet34")[:2] == ("resnet18", "layer4")
    monkeypatch.setenv("FASTAD_WEIGHTS", str(folder))
    assert settled() == ("resnet34", "learned", "auto", "auto")


def test_auto_comes_to_the_embedded_teacher_with_one_notice(offline, caplog):
    first = resolve_auto(RSTPMConfig())
    assert resolve_auto(RSTPMConfig()) == first
    assert (first.teacher2, first.bottleneck) == ("resnet18", "learned")
    assert (first.teacher_weights, first.teacher2_weights) == ("embedded", "embedded")
    assert resolve_auto(first) == first
    networks = build_teachers(first)
    assert [network.origin for network in networks] == ["embedded", "embedded"]
    [notice] = notices(caplog)
    assert "only, and for rstpm teacher2=resnet18 bottleneck=learned; give others by" in notice
    assert "the download failed: network is unreachable" in notice
    assert len(offline) == 1


def test_a_teacher2_without_a_file_for_teacher1(tmp_path, monkeypatch, caplog):
    """Then "embedded" for Teacher1 would be said of Teacher2, too: both sources stay."""
    torch.save(backbones.build("resnet34").state_dict(), tmp_path / "resnet34.pth")
    monkeypatch.setenv("FASTAD_WEIGHTS", str(tmp_path))
    assert settled() == ("resnet34", "learned", "auto", "auto")
    first, second = teachers()
    assert (first.origin, second.origin) == ("embedded", "resnet34.pth")
    expected = ("resnet34", "learned", "embedded", str(tmp_path))
    assert settled(teacher2_weights=tmp_path) == expected


def test_embedded_is_for_both(caplog):
    assert settled(teacher_weights="embedded") == ("resnet18", "learned", "embedded", "auto")
    first, second = teachers(teacher_weights="embedded")
    assert (first.origin, second.origin) == ("embedded", "embedded")
    options = {"teacher_weights": None, "teacher2_weights": "embedded"}
    assert settled(**options) == ("resnet18", "layer4", None, "embedded")
    match = r"teacher2: the embedded .* for resnet50.*for --set teacher2=resnet18$"
    with pytest.raises(WeightsNotFoundError, match=match):
        teachers(teacher_weights="embedded", teacher2="resnet50", bottleneck="learned")


def test_names_that_are_given_are_kept(folder):
    with pytest.raises(IncompleteWeightsError, match=r"for --set bottleneck=learned$"):
        teachers(teacher_weights=folder, bottleneck="layer4")
    with pytest.raises(WeightsNotFoundError, match=r"for --set teacher2=resnet34$"):
        teachers(teacher_weights=folder, teacher2="resnet50")


def test_the_name_of_a_file_says_which_network(tmp_path):
    state = backbones.build("resnet50_caffe").state_dict()
    for name in ("resnet50_caffe_x.pth", "mine.pth"):
        torch.save(state, tmp_path / name)
    random = {"teacher_weights": None}
    assert settled(**random, teacher2_weights=tmp_path / "resnet50_caffe_x.pth")[0] == (
        "resnet50_caffe"
    )
    assert settled(**random, teacher2_weights=tmp_path / "mine.pth")[0] == "resnet50"
    assert ALTERNATIVES[0] == "resnet50"


def test_errors_of_auto_are_those_of_the_papers(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"teacher2: there is no weight file .*absent\.pth"):
        teachers(teacher_weights=None, teacher2_weights=tmp_path / "absent.pth")
    (tmp_path / "resnet18.pth").write_text("no weights")
    with pytest.raises(ValueError, match="is not a readable weight file"):
        teachers(teacher_weights=tmp_path)


@pytest.mark.slow
def test_auto_builds_the_same_model_as_its_names():
    """Looking for weights takes no random numbers: students begin alike."""
    torch.manual_seed(0)
    auto = models.build("rstpm")
    torch.manual_seed(0)
    named = models.build("rstpm", **vars(auto.config))
    assert auto.config == named.config
    for one, other in zip(auto.state_dict().values(), named.state_dict().values(), strict=True):
        assert torch.equal(one, other)
