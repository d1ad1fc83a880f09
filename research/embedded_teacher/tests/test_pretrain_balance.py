"""Channels made equally loud: the same function but for factors, also with silent channels."""

import copy

import pytest
import torch

from fastad import backbones
from fastad.models.channels import QUIETEST, channel_deviations
from research.embedded_teacher import training
from research.embedded_teacher.balance import balance

LAYERS = ("layer1", "layer2", "layer3")


@pytest.fixture
def trunk():
    """A trunk whose channels differ in loudness, with batch norms as after a training."""
    trunk = backbones.build("resnet18", LAYERS).double().eval()
    for module in trunk.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.data.uniform_(0.2, 2)
            module.bias.data.normal_()
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return trunk


def test_balanced_channels_are_the_same_but_for_factors(trunk):
    images = torch.randn(4, 3, 64, 64, dtype=torch.float64)
    found = channel_deviations([trunk(images)])
    balanced = copy.deepcopy(trunk)
    balance(balanced, found)
    with torch.no_grad():
        before, after = trunk(images), balanced(images)
    for level, scaled, deviation in zip(before, after, found, strict=True):
        factors = (deviation.mean() / deviation.clamp_min(QUIETEST * deviation.mean())).double()
        assert factors.max() > 2 * factors.min()  # there was something to do
        torch.testing.assert_close(scaled, level * factors[:, None, None])
    for old, new in zip(found, channel_deviations([balanced(images)]), strict=True):
        audible = new[old > QUIETEST * old.mean()]
        torch.testing.assert_close(audible, old.mean().expand_as(audible), rtol=1e-4, atol=0)


def test_silent_channels_stay_silent(trunk):
    last = trunk.layer3[1].bn2
    trunk.layer3[0].bn2.bias.data[5] = trunk.layer3[1].bn2.bias.data[5] = -1e3
    assert last.bias[5] == -1e3
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    found = channel_deviations([trunk(images)])
    assert found[2][5] == 0
    balance(trunk, found)
    with torch.no_grad():
        levels = trunk(images)
    assert all(level.isfinite().all() for level in levels)
    assert (levels[2][:, 5] == 0).all()
    # It got the factor of the quietest that still count, not an infinite one.
    torch.testing.assert_close(last.bias[5].item(), -1e3 / QUIETEST, rtol=1e-4, atol=0)


def test_the_file_of_a_training_is_balanced(tmp_path):
    config = training.Config(epochs=1, steps=1, scenes=2, size=32, bank=40, seed=3)
    path = training.train(config, tmp_path)
    trunk = backbones.build("resnet18", LAYERS, str(path)).eval()
    for found in channel_deviations(map(trunk, training._sample(config))):
        loud = found[found > 2 * QUIETEST * found.mean()]
        torch.testing.assert_close(loud, loud.median().expand_as(loud), rtol=0.02, atol=0)
    average = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["average"]
    trunk.load_state_dict({k[7:]: v for k, v in average.items() if k.startswith("module.")})
    spread = channel_deviations(map(trunk.eval(), training._sample(config)))[2]
    assert spread.max() > 2 * spread.min()  # the checkpoint can be prolonged: it is not
