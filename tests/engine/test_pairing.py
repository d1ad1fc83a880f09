"""Two networks at once give what each gives alone."""

import pytest
import torch

from fastad import _extension, backbones, models
from fastad.engine.convolution import Convolution
from fastad.engine.folding import fold
from fastad.engine.pairing import Pair, pairable

ops = torch.ops.fastad
pytestmark = pytest.mark.skipif(
    not _extension.cpu_int16, reason="this processor has no AVX-512 VNNI"
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


@pytest.mark.parametrize("name", ["resnet18", "resnet50_caffe"])
@pytest.mark.parametrize(
    ("batch", "size", "threads"), [(1, (70, 45), 1), (3, (33, 96), 2), (5, (40, 24), 3)]
)
def test_whole_networks_as_one_convolution_after_the_other(name, batch, size, threads):
    layers = ("layer1", "layer2", "layer3")
    pair = Pair(folded(name, layers), folded(name, ("layer2",)))
    images = torch.randn(batch, 3, *size).to(memory_format=torch.channels_last)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    with torch.inference_mode():
        kept = pair.program(images)
        assert list(kept) == ["layer1", "layer2"]
        program, pair.program = pair.program, None
        expected = pair(images)
        pair.program = program
        program.suits = lambda tasks: True
        for found, levels in zip(pair(images), expected, strict=True):
            for level, exact in zip(found, levels, strict=True):
                assert torch.equal(level, exact)
                assert level.is_contiguous(memory_format=torch.channels_last)
    torch.set_num_threads(before)


def test_when_whole_networks_suit():
    program = Pair(*(folded("resnet18", ("layer1",)) for _ in range(2))).program
    before = torch.get_num_threads()
    for threads, suited, unsuited in ((1, [2, 6], []), (2, [2, 6], []), (4, [4, 18], [2, 6])):
        torch.set_num_threads(threads)
        assert all(program.suits(tasks) for tasks in suited)
        assert not any(program.suits(tasks) for tasks in unsuited)
    torch.set_num_threads(before)


def residual(filters=32, groups=2):
    """The arguments of one residual block after a stem: weights, biases and steps."""
    torch.manual_seed(0)
    stems = [ops.pack_stem(torch.randn(32, 3, 7, 7).double() / 12, True) for _ in range(groups)]
    first = [ops.pack_3x3(torch.randn(32, 32, 3, 3).double() / 17, True) for _ in range(groups)]
    second = [ops.pack_int16(torch.randn(filters, 32, 1, 1).double() / 6) for _ in range(groups)]
    weights = [torch.stack(parts) for parts in (stems, first, second)]
    biases = [torch.randn(groups, 32) for _ in weights]
    return weights, biases, [0, 1, 1, 0, -1, 1, 32, 1, 1, 1, 1, 0, -2, filters]


def test_networks_in_torch():
    images = torch.randn(2, 3, 40, 26).to(memory_format=torch.channels_last)
    weights, biases, steps = residual()
    for padding in (0, 1):
        arguments = (images, weights, biases, steps, padding)
        torch.library.opcheck(ops.residual_networks.default, arguments)
        for group, found in enumerate(ops.residual_networks(*arguments)[0].chunk(2)):
            w, b = ([part[group] for part in parts] for parts in (weights, biases))
            x = ops.stem(images, w[0], b[0], padding, False)
            y = ops.convolve_3x3(x, w[1], b[1], True)
            ops.convolve_int16_add_(x, y, w[2], b[2], 1, True)
            assert torch.equal(found, x)
    assert ops.residual_networks(images[:0], weights, biases, steps, 1)[0].shape == (0, 32, 10, 7)


def test_images_too_large_for_memory_that_is_kept():
    images = torch.rand(1, 3, 2960, 2960).to(memory_format=torch.channels_last)
    weights, biases, steps = residual(groups=1)
    for width in (2960, 64):  # the smaller one's is kept
        part = images[..., :width].contiguous(memory_format=torch.channels_last)
        found = ops.residual_networks(part, weights, biases, steps, 1)[0]
        x = ops.stem(part, weights[0][0], biases[0][0], 1, False)
        y = ops.convolve_3x3(x, weights[1][0], biases[1][0], True)
        ops.convolve_int16_add_(x, y, weights[2][0], biases[2][0], 1, True)
        assert torch.equal(found, x)


def test_errors_of_networks():
    images = torch.randn(1, 3, 40, 26).to(memory_format=torch.channels_last)
    weights, biases, steps = residual()

    def refused(message, at=None, value=None, **changed):
        arguments = {"images": images, "weights": weights, "biases": biases}
        if at is not None:
            changed["steps"] = [value if i == at else field for i, field in enumerate(steps)]
        arguments = arguments | {"steps": steps, "padding": 1} | changed
        with pytest.raises(RuntimeError, match=message):
            ops.residual_networks(**arguments)

    for wrong in (images.double(), images[:, :1], images.contiguous(), images[0]):
        refused("images must be", images=wrong)
    refused("images are too small", images=images[:, :, :4], padding=0)
    refused("padding must be 0 or 1", padding=2)
    refused("as many biases as weights, and 7 numbers", biases=biases[:2])
    refused("as many biases as weights, and 7 numbers", steps=steps[:-1])
    refused("the first weight", weights=[weights[0][0], *weights[1:]])
    refused("the first weight", weights=[])
    refused("bias must be", biases=[biases[0][:1], *biases[1:]])
    refused("weight 2 must be of 2 groups", weights=[*weights[:2], weights[1]])
    refused("weight 1 must be of 2 groups", weights=[weights[0], weights[1][:1], weights[2]])
    refused("bias 1 must be", biases=[biases[0], biases[1].double(), biases[2]])
    refused("step 1 must be a 1x1 or 3x3", 0, 2)
    refused("step 1 must be a 1x1 or 3x3", 1, 2)  # Winograd's has no stride
    refused("step 2 must be a 1x1 or 3x3", 8, 0)
    for stride in (65, 2**40, 2**63 - 1):
        refused("step 2 must be a 1x1 or 3x3", 8, stride)
    refused("step 2 must be a 1x1 or 3x3", 13, 2**63 - 31)
    refused(
        "weight 1 must be of 2 groups", weights=[weights[0], weights[1].flatten()[0], weights[2]]
    )
    refused("step 1 must compute from places that are there", 3, 1)
    refused("step 1 must compute from places that are there", 3, -2)
    refused("step 1 must compute from places that are there", 5, 0)
    refused("step 2 must compute from places that are there", 11, 7)
    refused("step 2 must leave no place out", 12, 3)
    refused("step 2 must leave no place out", 12, -3)
    refused("what step 2 adds", 8, 2)


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
