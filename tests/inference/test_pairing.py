"""Two networks at once give what each gives alone."""

import pytest
import torch

from fastad import _extension, backbones, models
from fastad.inference.convolution import Convolution
from fastad.inference.folding import fold
from fastad.inference.pairing import Pair, pairable

pytestmark = pytest.mark.skipif(
    not _extension.cpu_fixed, reason="this processor has no AVX-512 VNNI"
)


def drawn(module):
    """With statistics and scales of batch norm that are not those of the beginning."""
    for part in module.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.running_mean.normal_()
            part.running_var.uniform_(0.5, 2)
            part.weight.data.uniform_(0.5, 1.5)
            part.bias.data.normal_()
    return module.eval()


def folded(name, layers, dtype=torch.int16):
    return fold(drawn(backbones.build(name, layers)), dtype)


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (("layer1", "layer2"), ("layer1", "layer2")),
        (("layer1", "layer2", "layer3", "layer4"), ("layer3", "layer1")),
        (("layer2",), ("layer3",)),
    ],
)
@pytest.mark.parametrize("name", ["resnet18", "resnet34"])
def test_as_each_alone(name, one, two):
    first, second = folded(name, one), folded(name, two)
    images = torch.randn(3, 3, 64, 40).to(memory_format=torch.channels_last)
    with torch.inference_mode():
        expected = [[x.clone() for x in network(images)] for network in (first, second)]
        assert pairable(first, second)
        pair = Pair(first, second)
        for found, alone in zip(pair(images), expected, strict=True):
            assert len(found) == len(alone)
            for level, of_alone in zip(found, alone, strict=True):
                assert torch.equal(level, of_alone)
        # The networks still run alone, on weights that are held once.
        for network, alone in zip((first, second), expected, strict=True):
            assert all(map(torch.equal, network(images), alone))
    block = pair.stages[first.stages[0]][0].convolutions[0]
    own = first.get_submodule(first.stages[0])[0].convolutions[0]
    assert own.weight.data_ptr() == block.weight.data_ptr()


def test_what_cannot_be_paired():
    layers = ("layer1", "layer2")
    one = folded("resnet18", layers)
    assert pairable(one, folded("resnet18", layers))
    assert not pairable(one, folded("resnet34", layers))
    assert not pairable(one, torch.nn.Identity())
    assert not pairable(one, folded("resnet18", layers, torch.float32))
    # Of one kind but for the padding of the first pool.
    assert not pairable(*(folded(name, ("layer1",)) for name in ("resnet50", "resnet50_caffe")))
    assert pairable(*(folded("resnet50", ("layer1",)) for _ in range(2)))
    other = folded("resnet18", layers)
    other.layer1[0].convolutions[0].relu = False
    assert not pairable(one, other)
    assert not pairable(*(folded("resnet18", layers, torch.bfloat16) for _ in range(2)))


@pytest.mark.parametrize("name", ["stpm", "gtrans", "rstpm"])
def test_models_extract_pairs(name):
    torch.manual_seed(0)
    model = drawn(models.build(name, **models.without_weights(name)))
    quick = fold(model, torch.int16)
    assert isinstance(quick.extract_pair, Pair)
    assert not any(
        part.kernel == "torch"
        for part in quick.extract_pair.modules()
        if isinstance(part, Convolution)
    )
    images = torch.rand(2, 3, 96, 64)
    with torch.inference_mode():
        found, expected = quick(images).anomaly_map, model(images).anomaly_map
    correlation = torch.corrcoef(torch.stack([found.flatten(), expected.flatten()]))[0, 1]
    assert correlation > 0.999
    assert torch.equal(model(images).anomaly_map, expected)
    assert not isinstance(fold(model, torch.bfloat16).__dict__.get("extract_pair"), Pair)
