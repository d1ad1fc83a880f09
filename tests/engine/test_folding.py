"""Folded and fused networks say what the networks they were made of say in float64."""

import copy
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from fastad import backbones
from fastad.backbones.resnet import BasicBlock
from fastad.engine.convolution import Convolution, can_fuse
from fastad.engine.folding import fold
from fastad.inference import Predictor

pytestmark = pytest.mark.skipif(not can_fuse(torch.float32), reason="this torch has no oneDNN")


def trained(model):
    """A copy with statistics and factors of batch norm as a training leaves them."""
    model = copy.deepcopy(model).eval()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.2, generator=generator)
                module.running_var.uniform_(0.5, 1.5, generator=generator)
                module.weight.uniform_(0.5, 1.2, generator=generator)
                module.bias.normal_(0, 0.2, generator=generator)
    return model


def largest_difference(found, expected):
    return ((found - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize("name", backbones.NAMES)
@pytest.mark.parametrize("size", [(39, 64), (7, 90)])
def test_trunks_give_the_same_levels(name, size):
    trunk = trained(backbones.build(name, ("layer1", "layer2", "layer3")))
    folded = fold(trunk, torch.float32)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    with torch.inference_mode():
        for batch in (1, 2):  # weights are laid out for the first
            images = torch.randn(batch, 3, *size)
            found = folded(images)
            exact = copy.deepcopy(trunk).double()(images.double())
            for level, expected in zip(found, exact, strict=True):
                assert level.shape == expected.shape
                assert largest_difference(level, expected) < 1e-5


@pytest.mark.parametrize(("dtype", "most"), [(torch.bfloat16, 0.1), (torch.int16, 5e-3)])
@pytest.mark.parametrize("size", [(39, 64), (7, 90)])
def test_separable_trunks_in_other_numbers(dtype, most, size):
    trunk = trained(backbones.build("efficientnet_lite0", ("layer2", "layer4")))
    folded = fold(trunk, dtype)
    if folded is None:
        pytest.skip(f"no {dtype} on this processor")
    images = torch.randn(2, 3, *size)
    with torch.inference_mode():
        found, exact = folded(images), copy.deepcopy(trunk).double()(images.double())
    for level, expected in zip(found, exact, strict=True):
        assert level.shape == expected.shape
        assert largest_difference(level, expected) < most


def test_models_give_the_same_maps_and_are_not_changed(small_model):
    model = trained(small_model)
    before = copy.deepcopy(model.state_dict())
    folded = fold(model, torch.float32)
    kept = [name for name, m in folded.named_modules() if isinstance(m, nn.BatchNorm2d)]
    assert all(".norms." in f".{name}" for name in kept)  # those that follow no convolution
    images = torch.rand(3, 3, 61, 48)
    with torch.inference_mode():
        found, plain = folded(images), model(images)
        expected = copy.deepcopy(model).double()(images.double())
    # Distances of vectors that nearly agree lose digits in float32, folded or not.
    unavoidable = largest_difference(plain.anomaly_map, expected.anomaly_map)
    difference = largest_difference(found.anomaly_map, expected.anomaly_map)
    assert difference < max(5 * unavoidable, 1e-5)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


@pytest.mark.skipif(not can_fuse(torch.bfloat16), reason="no bfloat16 on this processor")
def test_bfloat16_is_as_close_as_autocast(small_model):
    model = trained(small_model)
    folded = fold(model, torch.bfloat16)
    images = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        expected = model(images).anomaly_map
        with torch.autocast("cpu", torch.bfloat16):
            plain, found = (m(images).anomaly_map for m in (model, folded))
    assert largest_difference(found, expected) < 3 * largest_difference(plain, expected) + 0.01


def test_a_block_in_a_network_of_ones_own_leaves_its_input_as_it_is():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.block = BasicBlock(8, 8, 1, None)

        def forward(self, x):
            return [x, self.block(x), x]

    own, x = trained(Own()), torch.randn(2, 8, 9, 7)
    x = x.contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        expected = copy.deepcopy(own).double()(x.double())
        for level, exact in zip(fold(own, torch.float32)(x), expected, strict=True):
            assert largest_difference(level, exact) < 1e-5


def test_what_is_not_known_stays_as_it_is():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.convolution, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    assert fold(Own(), torch.float32) is None


@pytest.mark.filterwarnings("ignore:this CPU has no")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_a_dtype_without_fused_convolutions_is_predicted_in_plain(small_model, dtype, monkeypatch):
    monkeypatch.setattr("fastad.engine.folding.can_fuse", lambda *_: False)
    assert fold(small_model, dtype) is None
    if dtype != torch.float64:
        precision = str(dtype).removeprefix("torch.")
        # A predictor changes the layout of its model, and others see this one.
        plain = Predictor(copy.deepcopy(small_model), 48, device="cpu", precision=precision)
        assert np.isfinite(plain.predict(IMAGES).score).all()


def test_what_cannot_be_copied_is_not_folded():
    class Locked(nn.Module):
        def __init__(self):
            super().__init__()
            self.trunk = backbones.build("resnet18", ("layer1",))

        def __deepcopy__(self, memo):
            raise RuntimeError("holds a licence")

    assert fold(nn.Sequential(Locked()), torch.float32) is None


def test_a_convolution_with_a_bias_and_groups():
    convolution = nn.Conv2d(8, 6, 3, stride=2, padding=2, dilation=2, groups=2)
    norm = trained(nn.BatchNorm2d(6))
    x, added = torch.randn(2, 8, 13, 9), torch.randn(2, 6, 7, 5)
    with torch.inference_mode():
        expected = copy.deepcopy(norm).double()(copy.deepcopy(convolution).double()(x.double()))
        alone = Convolution(convolution, norm, torch.float32, relu=False)(x)
        joined = Convolution(convolution, norm, torch.float32, relu=True)(x, added.clone())
    assert largest_difference(alone, expected) < 1e-6
    assert largest_difference(joined, (expected + added).relu()) < 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int16])
@pytest.mark.parametrize("inputs", [32, 24])
def test_relu6_of_every_kernel(dtype, inputs):
    if not can_fuse(dtype):
        pytest.skip(f"no {dtype} on this processor")
    convolution, norm = nn.Conv2d(inputs, 40, 1, bias=False), trained(nn.BatchNorm2d(40))
    x = 20 * torch.randn(2, inputs, 5, 7)
    with torch.inference_mode():
        expected = copy.deepcopy(norm).double()(copy.deepcopy(convolution).double()(x.double()))
        assert expected.max() > 6
        found = Convolution(convolution, norm, dtype, relu=False, relu6=True)(x)
    assert largest_difference(found, expected.clamp(0, 6)) < 0.05
    assert found.min() == 0
    assert found.max() == 6


@pytest.fixture
def predictor(small_model):
    return Predictor(trained(small_model), 48, device="cpu", precision="float32", batch_size=2)


IMAGES = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (3, 3, 48, 48), np.uint8))


def test_a_predictor_follows_its_model(predictor):
    model, learned = predictor.model, []
    if model.name == "patchcore":
        learned = [memory.vectors for memory in model.memories]
    if model.name == "subspace":
        model.residual.fit([model.patches(torch.rand(2, 3, 48, 48))])
        learned = [model.residual.directions, model.residual.offset]
        predictor = Predictor(model, 48, device="cpu", precision="float32", batch_size=2)
    first = predictor.predict(IMAGES)
    with torch.no_grad():
        for parameter in (*model.student_parameters(), *learned):
            parameter.mul_(1.5).add_(0.1)
    second = predictor.predict(IMAGES)
    predictor.fused = False
    plain = predictor.predict(IMAGES)
    assert not np.allclose(first.anomaly_map, second.anomaly_map, rtol=1e-3)
    np.testing.assert_allclose(second.anomaly_map, plain.anomaly_map, rtol=1e-3, atol=1e-6)


def test_a_predictor_that_has_run_can_be_copied_and_pickled(predictor):
    expected = predictor.predict(IMAGES)
    for other in (copy.deepcopy(predictor), pickle.loads(pickle.dumps(predictor))):
        assert np.array_equal(other.predict(IMAGES).anomaly_map, expected.anomaly_map)
