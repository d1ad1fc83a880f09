"""Backbones of timm: by a module with timm's interface, and by timm itself where it is there."""

import importlib.util
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import fastad
from fastad import backbones
from fastad.backbones.base import IMAGENET_MEAN, IMAGENET_STD

GOOD = np.random.default_rng(0).integers(100, 156, (10, 32, 32, 3), dtype=np.uint8)


class Info:
    """timm's FeatureInfo."""

    def __init__(self, channels, reductions):
        self._channels, self._reductions = channels, reductions

    def channels(self):
        return self._channels

    def reduction(self):
        return self._reductions


class Halving(nn.Module):
    """Five maps, each of half the size of the one before, as timm's FeatureListNet."""

    strides, channels = (2, 4, 8, 16, 32), (3, 4, 5, 6, 7)

    def __init__(self, out_indices=(0, 1, 2, 3, 4), **_):
        super().__init__()
        self.wanted = out_indices
        widths = (3, *self.channels)
        self.steps = nn.ModuleList(
            nn.Conv2d(widths[i], widths[i + 1], 2, stride=2) for i in range(max(out_indices) + 1)
        )
        self.feature_info = Info(
            [self.channels[i] for i in out_indices], [self.strides[i] for i in out_indices]
        )
        self.pretrained_cfg = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}

    def forward(self, images):
        maps = []
        for step in self.steps:
            images = step(images)
            maps.append(images)
        return [maps[i] for i in self.wanted]


class Transformer(nn.Module):
    """Eight blocks of one stride, of which timm gives the last three where it is not asked."""

    def __init__(self, out_indices=(5, 6, 7), *, dynamic_img_size, dynamic_img_pad):
        super().__init__()
        assert dynamic_img_size
        assert dynamic_img_pad
        self.wanted = out_indices
        self.patches = nn.Conv2d(3, 6, 8, stride=8)
        self.blocks = nn.ModuleList(nn.Conv2d(6, 6, 1) for _ in range(8))
        self.feature_info = Info([6] * len(out_indices), [8] * len(out_indices))
        self.model = SimpleNamespace(feature_info=[{"reduction": 8}] * 8)
        self.pretrained_cfg = {"mean": (0.5,) * 3, "std": (0.5,) * 3}

    def forward(self, images):
        x, maps = self.patches(images), []
        for block in self.blocks:
            x = block(x)
            maps.append(x)
        return [maps[i] for i in self.wanted]


def create_model(name, pretrained, features_only, pretrained_cfg_overlay=None, **options):
    """timm's, for two networks."""
    assert features_only
    kinds = {"halving": Halving, "vit": Transformer}
    if name not in kinds:
        raise RuntimeError(f"Unknown model ({name})")
    if name == "halving" and "dynamic_img_size" in options:
        raise TypeError("unexpected keyword argument")
    options.pop("strict_img_size", None)
    network = kinds[name](**options)
    if pretrained:
        file = (pretrained_cfg_overlay or {}).get("file")
        with torch.no_grad():
            for value in network.parameters():
                value.fill_(0.125 if file is None else torch.load(file)["value"])
    return network


@pytest.fixture
def timm(monkeypatch):
    module = ModuleType("timm")
    module.create_model = create_model
    monkeypatch.setitem(sys.modules, "timm", module)


def test_maps_of_a_halving_network(timm):
    backbone = backbones.build("timm:halving", ("layer3", "layer1"))
    assert (backbone.channels, backbone.strides, backbone.origin) == ([6, 4], [16, 4], None)
    images = torch.rand(2, 3, 64, 32)
    assert [f.shape for f in backbone(images)] == [(2, 6, 4, 2), (2, 4, 16, 8)]
    assert len(backbone.network.steps) == 4  # nothing below layer3 is made
    assert torch.equal(backbone(images)[1], backbone.network(images)[0])


def test_maps_of_a_transformer(timm):
    backbone = backbones.build("timm:vit", ("layer1", "layer2", "layer3", "layer4"))
    assert backbone.network.wanted == (1, 3, 5, 7)
    assert (backbone.channels, backbone.strides) == ([6] * 4, [8] * 4)


def test_channels_that_are_last_are_put_first(timm, monkeypatch):
    plain = Halving.forward
    images = torch.rand(1, 3, 64, 32)
    backbone = backbones.build("timm:halving", ("layer2",))
    expected = backbone(images)[0]
    monkeypatch.setattr(
        Halving, "forward", lambda *given: [m.permute(0, 2, 3, 1) for m in plain(*given)]
    )
    assert torch.equal(backbone(images)[0], expected)


def test_images_are_normalised_as_the_network_wants(timm):
    backbone = backbones.build("timm:vit", ("layer1",))
    pixels = torch.rand(1, 3, 16, 16)
    mean, std = (torch.tensor(v)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
    found, expected = backbone((pixels - mean) / std)[0], backbone.network((pixels - 0.5) / 0.5)[0]
    assert torch.allclose(found, expected, atol=1e-5)


def test_weights(timm, tmp_path):
    torch.save({"value": 0.5}, tmp_path / "mine.pth")
    for source, value, origin in (
        ("auto", 0.125, "timm"),
        (tmp_path / "mine.pth", 0.5, "mine.pth"),
    ):
        backbone = backbones.build("timm:halving", ("layer1",), weights=source)
        assert all((p == value).all() for p in backbone.parameters())
        assert backbone.origin == origin
        backbones.check_weights("timm:halving", ("layer1",), source)
    for call in (backbones.build, backbones.check_weights):
        with pytest.raises(FileNotFoundError, match=r"no weight file .*none\.pth"):
            call("timm:halving", ("layer1",), tmp_path / "none.pth")


def test_what_is_refused(timm, monkeypatch):
    with pytest.raises(ValueError, match=r"timm gives no backbone timm:odd: Unknown model \(odd\)"):
        backbones.build("timm:odd")
    monkeypatch.setattr(Halving, "strides", (2, 4, 8, 8, 32))
    with pytest.raises(ValueError, match="has no layer3, which is a map of stride 16; it has maps"):
        backbones.build("timm:halving")
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match="the backbone timm:vit needs timm: pip install timm"):
        backbones.build("timm:vit")


SYSTEMS = {
    "stpm": {"backbone": "timm:vit", "layers": ("layer1", "layer3")},
    "patchcore": {"backbone": "timm:halving", "layers": ("layer1", "layer2")},
}


@pytest.mark.parametrize("model", SYSTEMS)
def test_a_detector_is_saved_whole(timm, model, tmp_path):
    detector = fastad.Detector(
        model, image_size=32, device="cpu", false_positive_rate=0.4, **SYSTEMS[model]
    )
    detector.fit(GOOD, self_check=False, **({"epochs": 1} if model == "stpm" else {}))
    detector.save(tmp_path / "part.fastad")
    again = fastad.load(tmp_path / "part.fastad", device="cpu")
    assert np.array_equal(again.predict(GOOD).score, detector.predict(GOOD).score)
    assert again.training_record_["teachers"] == detector.training_record_["teachers"]
    assert "timm" in again.training_record_["teachers"].values()


@pytest.mark.slow
def test_a_detector_is_exported(timm, tmp_path):
    options = SYSTEMS["stpm"]
    detector = fastad.Detector("stpm", image_size=32, false_positive_rate=0.4, **options)
    detector.fit(GOOD, self_check=False, epochs=1)
    assert detector.export(tmp_path / "part.pt2", format="torch-export").images > 0


@pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="needs timm")
@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224"])
def test_of_timm_itself(name):
    backbone = backbones.build(f"timm:{name}", ("layer1", "layer3"))
    maps = backbone(torch.rand(1, 3, 96, 64))
    for own, channels, stride in zip(maps, backbone.channels, backbone.strides, strict=True):
        assert own.shape == (1, channels, 96 // stride, 64 // stride)
