"""Blocks of EfficientNet-Lite in one pass, against float64."""

import copy

import pytest
import torch

from fastad import _extension, backbones
from fastad.backbones.efficientnet_lite import MBConv
from fastad.engine.folding import fold
from fastad.engine.separable import SeparableBlock, SeparableStem

pytestmark = pytest.mark.skipif(not _extension.cpu_convolutions, reason="no AVX2")


def trained(block):
    """Values of statistics and weights that a training could have left."""
    generator = torch.Generator().manual_seed(0)
    for module in block.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for values, low, high in (
                (module.running_mean, -0.5, 0.5),
                (module.running_var, 0.5, 2.0),
                (module.weight.data, 0.5, 2.0),
                (module.bias.data, -0.5, 3.0),  # some above 6
            ):
                values.copy_(torch.rand(len(values), generator=generator) * (high - low) + low)
    return block.eval().requires_grad_(False)


# Channels in and out, expansion, side, stride: filters that do not fill a group, the sum, no
# expansion, and more groups than are summed at once.
BLOCKS = [
    (32, 16, 1, 3, 1),
    (16, 24, 6, 3, 2),
    (24, 24, 6, 3, 1),
    (24, 40, 6, 5, 2),
    (40, 40, 6, 5, 1),
    (80, 112, 6, 5, 1),
]


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (9, 16), (33, 18)])
@pytest.mark.parametrize("shape", BLOCKS)
def test_values(shape, size):
    torch.manual_seed(0)
    block = trained(MBConv(*shape))
    fused = SeparableBlock(block)
    assert fused.suits(block)
    x = torch.randn(3, shape[0], *size)
    kept = x.clone()
    found = fused(x)
    expected = copy.deepcopy(block).double()(x.double())
    assert torch.equal(x, kept)
    assert found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(fused(x[1:2]), found[1:2])  # whatever the bands


@pytest.mark.skipif(not _extension.cpu_int16, reason="no AVX-512 VNNI")
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (9, 16), (33, 18)])
@pytest.mark.parametrize("shape", BLOCKS)
def test_values_in_integers(shape, size):
    torch.manual_seed(0)
    block = trained(MBConv(*shape))
    fused, exact = SeparableBlock(block, int16=True), SeparableBlock(block)
    x = torch.randn(3, shape[0], *size)
    x[1] *= 1e-3  # pixels have scales of their own
    x[2, :, 0] = 0
    found, expected = fused(x), copy.deepcopy(block).double()(x.double())
    # Finer than bfloat16, which rounds to 4e-3 of a value.
    largest = expected.abs().amax((1, 2, 3), keepdim=True)
    assert ((found - expected).abs() / largest).max() < 1e-3
    assert not torch.equal(found, exact(x))
    assert torch.equal(fused(x[1:2]), found[1:2])


def test_a_large_image_is_in_bands():
    block = trained(MBConv(16, 24, 6, 3, 2))
    x = torch.randn(1, 16, 101, 131)
    expected = copy.deepcopy(block).double()(x.double())
    torch.testing.assert_close(SeparableBlock(block)(x).double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("int16", [False, True])
def test_nan_stays(int16):
    if int16 and not _extension.cpu_int16:
        pytest.skip("no AVX-512 VNNI")
    block = trained(MBConv(16, 24, 6, 3, 1))
    x = torch.zeros(1, 16, 8, 8)
    x[0, 3, 4, 4] = float("nan")
    found = SeparableBlock(block, int16=int16)(x)
    assert found[0, :, 3:6, 3:6].isnan().all()
    assert found[0, :, :3].isfinite().all()


@pytest.mark.parametrize("int16", [False, True])
def test_several_networks(int16):
    if int16 and not _extension.cpu_int16:
        pytest.skip("no AVX-512 VNNI")
    blocks = [trained(MBConv(16, 24, 6, 3, 2)) for _ in range(2)]
    one, two = (SeparableBlock(block, int16=int16) for block in blocks)
    x = torch.randn(4, 16, 9, 12).contiguous(memory_format=torch.channels_last)
    names = ("expand", "depthwise", "project", "bias")
    both = [torch.cat([getattr(block, name) for block in (one, two)]) for name in names]
    found = torch.ops.fastad.separable_block(x, *both, *one.geometry)
    assert torch.equal(found, torch.cat([one(x[:2]), two(x[2:])]))


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (9, 16), (50, 131)])
def test_the_stem(size):
    network = trained(backbones.build("efficientnet_lite0", ("layer1",)))
    images = torch.randn(2, 3, *size)
    expected = copy.deepcopy(network).double().stem(images.double())
    stem = SeparableStem(network)
    found = stem(images)
    assert found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
    images[1, 1, size[0] // 2, size[1] // 2] = float("nan")
    again = stem(images)
    assert torch.equal(again[0], found[0])
    assert again[1].isnan().flatten(1).any(1).all()
    with pytest.raises(RuntimeError, match="images must be"):
        torch.ops.fastad.separable_stem(images[:, :2], stem.scaling, stem.weight, stem.bias)
    with pytest.raises(RuntimeError, match="bias must be"):
        torch.ops.fastad.separable_stem(
            images.contiguous(memory_format=torch.channels_last),
            stem.scaling,
            stem.weight,
            stem.bias[:1],
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int16])
def test_all_blocks_of_a_network_are_in_one_pass(dtype):
    trunk = backbones.build("efficientnet_lite0", ("layer1", "layer3")).eval()
    folded = fold(trunk, dtype)
    if folded is None:
        pytest.skip(f"no {dtype} on this processor")
    kinds = [type(block) for block in folded._blocks]
    assert kinds == [SeparableBlock] * len(trunk._blocks)
    assert type(folded.stem) is SeparableStem
    assert {type(block) for block in trunk._blocks} == {MBConv}


@pytest.mark.parametrize("int16", [False, True])
def test_in_torch(int16):
    if int16 and not _extension.cpu_int16:
        pytest.skip("no AVX-512 VNNI")
    block = SeparableBlock(trained(MBConv(16, 24, 6, 3, 2)), int16=int16)
    x = torch.randn(2, 16, 5, 6).contiguous(memory_format=torch.channels_last)
    weights = (block.expand, block.depthwise, block.project, block.bias)
    ops = torch.ops.fastad
    torch.library.opcheck(ops.separable_block.default, (x, *weights, *block.geometry))
    torch.library.opcheck(ops.pack_separable.default, (torch.randn(32, 6).double(), 4))
    stem = SeparableStem(backbones.build("efficientnet_lite0", ("layer1",)))
    images = torch.randn(2, 3, 5, 6).contiguous(memory_format=torch.channels_last)
    torch.library.opcheck(
        ops.separable_stem.default, (images, stem.scaling, stem.weight, stem.bias)
    )


def test_what_the_op_refuses():
    block = SeparableBlock(trained(MBConv(16, 24, 6, 3, 1)))
    weights = [block.expand, block.depthwise, block.project, block.bias]
    x = torch.randn(2, 16, 8, 8).contiguous(memory_format=torch.channels_last)

    def refuses(message, x=x, weights=weights, geometry=block.geometry):
        with pytest.raises(RuntimeError, match=message):
            torch.ops.fastad.separable_block(x, *weights, *geometry)

    refuses("x must be channels_last", x=x.contiguous())
    refuses("expand must be of the 32 channels", x=torch.randn(1, 32, 1, 1))
    refuses("side must be 3 or 5; got 7", geometry=(24, 7, 1, False))
    refuses("stride must be 1 or 2; got 3", geometry=(24, 3, 3, False))
    refuses("depthwise must be", geometry=(24, 5, 1, False))
    refuses("project must be", geometry=(40, 3, 1, False))
    refuses("the input can be added", geometry=(24, 3, 1, True))
    refuses("bias must be", weights=[*weights[:3], block.bias[:, :-1].contiguous()])
    refuses("as many images", x=x[:1], weights=[w.expand(2, *w.shape[1:]).clone() for w in weights])
    refuses("float32", weights=[block.expand.double(), *weights[1:]])
