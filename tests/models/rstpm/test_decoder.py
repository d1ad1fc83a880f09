"""The decoder: its shapes, and gates that change what is compared."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fastad.models.bottleneck import bottleneck_stage
from fastad.models.rstpm.decoder import Decoder, Gate


def decoder(channels=(8, 12, 20), inputs=6, attention=True, blocks=(2, 3, 4), reduction=16):
    torch.manual_seed(0)
    return Decoder(
        inputs, channels, blocks=blocks, attention=attention, attention_reduction=reduction
    )


def guides(*sizes, n=2, channels=(8, 12, 20)):
    return [torch.rand(n, c, *size) for c, size in zip(channels, sizes, strict=True)]


def shift_norms(module):
    """Batch norms as after a training: without shifts the network is positively homogeneous."""
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.bias, 0, 0.3)
            nn.init.normal_(layer.running_mean, 0, 0.3)


@pytest.mark.parametrize("attention", [True, False])
@pytest.mark.parametrize("n", [0, 1, 2])
@pytest.mark.parametrize(
    ("small", "sizes"),
    [
        ((2, 2), [(16, 16), (8, 8), (4, 4)]),
        ((2, 2), [(9, 12), (5, 6), (3, 3)]),
        ((1, 1), [(1, 1)] * 3),
    ],
)
def test_the_levels_have_the_shapes_of_the_guides(attention, n, small, sizes):
    levels = guides(*sizes, n=n)
    with torch.no_grad():
        result = decoder(attention=attention).eval()(torch.rand(n, 6, *small), levels)
    assert [f.shape for f in result] == [g.shape for g in levels]
    assert all(f.isfinite().all() for f in result)


def test_blocks_of_the_largest_level_come_first_in_the_option():
    model = decoder(blocks=(2, 3, 4))
    assert [len(level.blocks) for level in model.levels] == [2, 1, 0]  # small to large
    assert [level.last.conv3.out_channels for level in model.levels] == [20, 12, 8]


def test_the_hidden_channels_of_the_gates():
    model = decoder(channels=(8, 160, 320), reduction=16)
    assert [level.gate.layers[0].out_channels for level in model.levels] == [20, 10, 8]
    assert all(level.gate is None for level in decoder(attention=False).levels)


def test_upsampling_after_the_first_convolution_is_upsampling_before_it():
    up = decoder().levels[0].up.eval()
    shift_norms(up)
    x = torch.rand(2, 6, 3, 5)
    big = F.interpolate(x, (6, 10))
    with torch.no_grad():
        y = up.relu(up.bn1(up.conv1(big)))
        y = up.relu(up.bn2(up.conv2(y)))
        expected = up.relu(up.bn3(up.conv3(y)) + up.shortcut(big))
        torch.testing.assert_close(up(x, (6, 10)), expected, rtol=1e-4, atol=1e-5)


def test_a_gate_is_one_number_between_zero_and_one():
    gate = Gate(8, 4).eval()
    with torch.no_grad():
        result = gate(10 * torch.randn(2, 8, 5, 7))
    assert result.shape == (2, 1, 5, 7)
    assert (result > 0).all()
    assert (result < 1).all()
    assert result.std() > 0


class Fixed(nn.Module):
    """A gate of given values."""

    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, features):
        return self.value.expand(len(features), 1, *features.shape[-2:])


@pytest.mark.parametrize("level", [0, 1, 2])
def test_a_gate_changes_the_normalised_features(level):
    model = decoder().eval()
    shift_norms(model)
    x, levels = torch.rand(2, 6, 2, 2), guides((16, 16), (8, 8), (4, 4))

    def directions(value):
        model.levels[level].gate = Fixed(torch.tensor(value))
        with torch.no_grad():
            return F.normalize(model(x, levels)[2 - level], dim=1)

    closed, half, opened = directions(1e-4), directions(0.5), directions(1.0)
    assert (closed - opened).abs().max() > 0.05
    assert (half - opened).abs().max() > 0.01


def test_a_gate_behind_the_last_convolution_would_cancel():
    """Why the gate stands where it does: this is what it must not be."""
    model = decoder().eval()
    shift_norms(model)
    with torch.no_grad():
        features = model(torch.rand(2, 6, 2, 2), guides((16, 16), (8, 8), (4, 4)))[0]
        gated = features * torch.rand(2, 1, 16, 16).clamp(1e-3)
    torch.testing.assert_close(F.normalize(gated, dim=1), F.normalize(features, dim=1))


def test_gates_learn():
    model = decoder()
    x, levels = torch.rand(2, 6, 2, 2), guides((16, 16), (8, 8), (4, 4))
    loss = sum(
        1 - F.cosine_similarity(s, t).mean() for s, t in zip(model(x, levels), levels, strict=True)
    )
    loss.backward()
    for level in model.levels:
        assert all(p.grad.abs().sum() > 0 for p in level.gate.parameters())


@pytest.mark.parametrize(
    ("size", "expected"), [((4, 4), (2, 2)), ((5, 7), (3, 4)), ((1, 1), (1, 1))]
)
def test_the_learned_bottleneck_halves_and_rounds_up(size, expected):
    assert bottleneck_stage(6, 10).eval()(torch.rand(1, 6, *size)).shape == (1, 10, *expected)
