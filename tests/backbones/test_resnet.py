"""Residual networks: torchvision's keys and sizes, depth as asked, the Caffe layout."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fastad import backbones

# Parameters of torchvision's networks without the classifier.
PARAMETERS = {
    "resnet18": 11_176_512,
    "resnet34": 21_284_672,
    "resnet50": 23_508_032,
    "resnet50_caffe": 23_508_032,
    "wide_resnet50_2": 66_834_240,
}
ALL = ("layer1", "layer2", "layer3", "layer4")
NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def expected_keys(depths: tuple[int, ...], convolutions: int) -> list[str]:
    """torchvision's state-dict keys, in its order, without the classifier."""
    keys = ["conv1.weight", *(f"bn1.{n}" for n in NORM)]
    for stage, depth in enumerate(depths, start=1):
        for block in range(depth):
            prefix = f"layer{stage}.{block}"
            for c in range(1, convolutions + 1):
                keys += [f"{prefix}.conv{c}.weight", *(f"{prefix}.bn{c}.{n}" for n in NORM)]
            if block == 0 and (stage > 1 or convolutions == 3):
                keys.append(f"{prefix}.downsample.0.weight")
                keys += [f"{prefix}.downsample.1.{n}" for n in NORM]
    return keys


@pytest.mark.parametrize(
    ("name", "depths", "convolutions"),
    [
        ("resnet18", (2, 2, 2, 2), 2),
        ("resnet34", (3, 4, 6, 3), 2),
        ("resnet50", (3, 4, 6, 3), 3),
        ("resnet50_caffe", (3, 4, 6, 3), 3),
        ("wide_resnet50_2", (3, 4, 6, 3), 3),
    ],
)
def test_keys_and_parameters_are_torchvisions(name, depths, convolutions):
    with torch.device("meta"):
        backbone = backbones.build(name, ALL)
    assert list(backbone.state_dict()) == expected_keys(depths, convolutions)
    assert sum(p.numel() for p in backbone.parameters()) == PARAMETERS[name]


def test_known_shapes():
    with torch.device("meta"):
        wide = backbones.build("wide_resnet50_2", ALL).state_dict()
        basic = backbones.build("resnet18", ALL).state_dict()
    assert wide["layer2.0.conv2.weight"].shape == (256, 256, 3, 3)
    assert wide["layer4.2.conv3.weight"].shape == (2048, 1024, 1, 1)
    assert wide["layer1.0.downsample.0.weight"].shape == (256, 64, 1, 1)
    assert basic["layer3.0.downsample.0.weight"].shape == (256, 128, 1, 1)
    assert basic["conv1.weight"].shape == (64, 3, 7, 7)


def expected_size(size: int, stride: int, caffe: bool) -> int:
    half = -(-size // 2)  # a padded convolution with stride 2 rounds up
    quarter = 1 + -(-(half - 3) // 2) if caffe else -(-half // 2)
    return -(-quarter * 4 // stride)


@pytest.mark.parametrize("name", backbones.NAMES)
@pytest.mark.parametrize("size", [(64, 64), (65, 97)])
def test_maps_come_in_the_order_asked_with_the_sizes_declared(name, size):
    layers = ("layer3", "layer1", "layer2")
    backbone = backbones.build(name, layers).eval()
    with torch.no_grad():
        features = backbone(torch.rand(2, 3, *size))
    assert backbone.layers == layers
    for feature, channels, stride in zip(
        features, backbone.channels, backbone.strides, strict=True
    ):
        height, width = (expected_size(s, stride, name == "resnet50_caffe") for s in size)
        assert feature.shape == (2, channels, height, width)
    assert backbone.strides == [16, 4, 8]


def test_only_as_deep_as_asked():
    shallow = backbones.build("resnet18", ("layer1",))
    assert {k.partition(".")[0] for k in shallow.state_dict()} == {"conv1", "bn1", "layer1"}
    deep = backbones.build("resnet18", ("layer4",)).eval()
    [feature] = deep(torch.rand(1, 3, 64, 64))
    assert feature.shape == (1, 512, 2, 2)


def plain_resnet50(state: dict, x: torch.Tensor, stages: int, caffe: bool) -> torch.Tensor:
    """The forward pass written out with functionals, as an independent reference."""

    def norm(x, name):
        p = [state[f"{name}.{n}"] for n in ("running_mean", "running_var", "weight", "bias")]
        return F.batch_norm(x, *p)

    def conv(x, name, **options):
        return F.conv2d(x, state[f"{name}.weight"], **options)

    x = F.relu(norm(conv(x, "conv1", stride=2, padding=3), "bn1"))
    x = F.max_pool2d(x, 3, 2, 0, ceil_mode=True) if caffe else F.max_pool2d(x, 3, 2, 1)
    for stage, depth in zip(range(1, stages + 1), (3, 4, 6, 3), strict=False):
        for block in range(depth):
            name = f"layer{stage}.{block}"
            stride = 2 if stage > 1 and block == 0 else 1
            first, second = (stride, 1) if caffe else (1, stride)
            y = F.relu(norm(conv(x, f"{name}.conv1", stride=first), f"{name}.bn1"))
            y = F.relu(norm(conv(y, f"{name}.conv2", stride=second, padding=1), f"{name}.bn2"))
            y = norm(conv(y, f"{name}.conv3"), f"{name}.bn3")
            if block == 0:
                down = conv(x, f"{name}.downsample.0", stride=stride)
                x = norm(down, f"{name}.downsample.1")
            x = F.relu(y + x)
    return x


@pytest.mark.parametrize("name", ["resnet50", "resnet50_caffe"])
def test_bottleneck_networks_equal_the_written_out_forward(name):
    torch.manual_seed(0)
    backbone = backbones.build(name, ("layer2",)).double().eval()
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):  # so that a swapped norm would show
            module.running_mean.normal_()
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_()
    images = torch.rand(2, 3, 48, 40, dtype=torch.float64)
    with torch.no_grad():
        [feature] = backbone(images)
        expected = plain_resnet50(
            backbone.state_dict(), images, stages=2, caffe=name == "resnet50_caffe"
        )
    torch.testing.assert_close(feature, expected)


def test_random_initialisation_is_torchvisions_and_seeded():
    torch.manual_seed(7)
    first = backbones.build("resnet18")
    torch.manual_seed(7)
    second = backbones.build("resnet18", weights="random")
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)
    weight = first.layer3[0].conv1.weight  # kaiming, fan_out: deviation sqrt(2 / (256 * 9))
    assert weight.std().item() == pytest.approx((2 / (256 * 9)) ** 0.5, rel=0.01)
    assert torch.equal(first.bn1.weight, torch.ones(64))
    assert torch.equal(first.bn1.bias, torch.zeros(64))


def test_unknown_names_are_refused_with_what_there_is():
    with pytest.raises(
        ValueError, match=r"unknown backbone 'resnet19'; there are resnet18, .*caffe"
    ):
        backbones.build("resnet19")
    for layers in (("layer5",), (), "layer1"):
        with pytest.raises(
            ValueError, match=r"layers must be .* layer1, layer2, layer3, layer4; got"
        ):
            backbones.build("resnet18", layers)


class Returns(nn.Module):
    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, images):
        return self.value


def test_any_module_that_returns_maps_is_a_backbone():
    maps = (torch.rand(1, 4, 8, 8), torch.rand(1, 8, 4, 4))
    features = backbones.extract(Returns(maps), torch.rand(1, 3, 32, 32))
    assert isinstance(features, list)
    assert all(a is b for a, b in zip(features, maps, strict=True))


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (torch.rand(1, 4, 8, 8), r"a tensor of shape \(1, 4, 8, 8\)"),
        ({"layer1": torch.rand(1, 4, 8, 8)}, r"a dict with keys \['layer1'\]"),
        ([torch.rand(1, 4, 8, 8), torch.rand(1, 10)], r"tensor of shape \(1, 10\)"),
        ([], r"a list of \[\]"),
        (None, "NoneType None"),
    ],
)
def test_other_results_are_named(value, said):
    with pytest.raises(TypeError, match=f"Returns returned .*{said}"):
        backbones.extract(Returns(value), torch.rand(1, 3, 32, 32))


def test_a_fresh_copy_shares_no_values():
    backbone = backbones.build("resnet18", ("layer1",)).requires_grad_(False)
    nn.init.constant_(backbone.bn1.weight, 3.0)
    copied = backbones.fresh_copy(backbone)
    assert not torch.equal(copied.conv1.weight, backbone.conv1.weight)
    assert torch.equal(copied.bn1.weight, torch.ones(64))
    assert all(p.requires_grad for p in copied.parameters())
    assert backbone.bn1.weight[0] == 3


def test_a_fresh_copy_that_would_keep_old_values_is_refused():
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Module())
    module[1].scale = nn.Parameter(torch.ones(4))
    with pytest.raises(ValueError, match=r"its module '1' .* has no reset_parameters"):
        backbones.fresh_copy(module)
