"""Which network "auto" is: one rule, by what is at hand and what can be downloaded."""

import pytest
import torch

from fastad import backbones
from fastad.backbones import FROM_PIP, auto_backbone, availability, download, embedded, weights

LAYERS = ("layer1", "layer2", "layer3")
ONE = ("resnet18", *FROM_PIP)
TWO = ("resnet34", "resnet18", *FROM_PIP)
pytestmark = pytest.mark.usefixtures("offline")


@pytest.fixture
def there(monkeypatch, tmp_path):
    """Says which networks have whole weights at hand, and which can be downloaded."""
    fetched = []

    def set_up(at_hand, downloads=()):
        def fetch(url, target):
            fetched.append(url.rpartition("/")[2].partition("-")[0])
            if fetched[-1] not in downloads:
                raise download.DownloadError("no network")

        files = {name: tmp_path / f"{name}.pth" for name in at_hand}
        monkeypatch.setattr(weights, "at_hand", files.get)
        monkeypatch.setattr(availability, "_check_file", lambda *_: None)
        monkeypatch.setattr(download, "fetch", fetch)
        return fetched

    return set_up


@pytest.mark.parametrize(
    ("candidates", "at_hand", "downloads", "chosen", "tried"),
    [
        (ONE, ["efficientnet_lite0", "resnet18"], [], "resnet18", []),
        (ONE, ["efficientnet_lite1", "efficientnet_lite0"], [], "efficientnet_lite0", []),
        (ONE, ["efficientnet_lite2"], ["resnet18"], "efficientnet_lite2", []),
        (ONE, ["resnet50"], [], "resnet18", []),  # whose weights `build` downloads, or has
        (TWO, ["efficientnet_lite0", "resnet18"], ["resnet34"], "resnet18", []),
        (TWO, ["efficientnet_lite0"], ["resnet34"], "efficientnet_lite0", []),
        (TWO, [], ["resnet34"], "resnet34", ["resnet34"]),
        (TWO, [], [], "resnet18", ["resnet34"]),
    ],
)
def test_the_rule(there, candidates, at_hand, downloads, chosen, tried):
    fetched = there(at_hand, downloads)
    assert auto_backbone(LAYERS, "auto", candidates) == chosen
    assert fetched == tried


@pytest.mark.parametrize("source", [None, "random"])
def test_without_weights_it_is_the_published_one(there, source):
    assert there(["efficientnet_lite0"]) == []
    assert auto_backbone(LAYERS, source, TWO) == "resnet34"


def test_embedded_is_the_network_that_is_embedded(there):
    there(["efficientnet_lite0", "resnet34"])
    assert auto_backbone(LAYERS, "embedded", TWO) == "resnet18"


def test_where_nothing_can_be_had_the_published_one_gives_the_error():
    with_last = (*LAYERS, "layer4")
    assert auto_backbone(with_last, "auto", ONE) == "resnet18"
    with pytest.raises(backbones.WeightsNotFoundError) as caught:
        backbones.build("resnet18", with_last, "auto")
    assert f"efficientnet_lite0, whose weights come by {weights.BY_PIP}" in str(caught.value)


def test_weights_that_lack_a_layer_are_not_at_hand(tmp_path, monkeypatch):
    for name, layers in (("resnet18", ("layer1",)), ("efficientnet_lite0", ("layer2",))):
        state = backbones.build(name, layers).state_dict()
        torch.save(state, tmp_path / f"{name}.pth")
    monkeypatch.setenv("FASTAD_WEIGHTS", str(tmp_path))
    for source in ("auto", tmp_path):
        assert auto_backbone(("layer1",), source, ONE) == "resnet18"
        assert auto_backbone(("layer2",), source, ONE) == "efficientnet_lite0"


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "resnet18.pth").write_text("no weights")
    with pytest.raises(ValueError, match=r"resnet18\.pth is not a readable weight file"):
        auto_backbone(LAYERS, tmp_path, ONE)


def test_a_file_is_for_the_network_of_its_name_or_the_first_that_it_fits(tmp_path):
    state = backbones.build("efficientnet_lite0", ("layer1",)).state_dict()
    for name in ("efficientnet-lite1-x.pth", "mine.pth"):
        torch.save(state, tmp_path / name)
    assert auto_backbone(("layer1",), tmp_path / "efficientnet-lite1-x.pth", ONE) == (
        "efficientnet_lite1"
    )
    assert auto_backbone(("layer1",), tmp_path / "mine.pth", ONE) == "efficientnet_lite0"
    assert auto_backbone(("layer1",), tmp_path / "absent.pth", ONE) == "resnet18"
    assert auto_backbone(LAYERS, embedded.PATH, TWO) == "resnet18"
