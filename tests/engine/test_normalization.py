"""Bytes become the very floats that a model makes of them."""

import copy

import numpy as np
import pytest
import torch

from fastad.engine.convolution import can_fuse
from fastad.engine.folding import fold, takes_bytes
from fastad.engine.normalization import Normalization
from fastad.inference import Predictor

LAYOUTS = {
    "planar": lambda x: x.contiguous(),
    "interleaved": lambda x: x.contiguous(memory_format=torch.channels_last),
    "a part": lambda x: x[:, :, 1:, 2:],
    "turned": lambda x: x.mT,
    "one row for all": lambda x: x[:, :, :1].expand(-1, -1, 7, -1),
}


def pixels(*shape):
    return torch.randint(0, 256, shape, dtype=torch.uint8)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(1, 3, 1, 1), (2, 3, 17, 23), (3, 3, 130, 257), (0, 3, 4, 5)])
def test_the_same_floats(small_model, shape, layout):
    images = LAYOUTS[layout](pixels(*shape))
    found = Normalization(small_model)(images)
    assert torch.equal(found, small_model.normalize(images.float() / 255))
    assert images.numel() == 0 or found.is_contiguous(memory_format=torch.channels_last)
    floats = images.double() / 255
    assert torch.equal(Normalization(small_model)(floats), small_model.normalize(floats))


@pytest.mark.skipif(not can_fuse(torch.float32), reason="this torch has no oneDNN")
def test_a_folded_model_takes_both(small_model):
    # Laid out as a predictor has it.
    model = copy.deepcopy(small_model).to(memory_format=torch.channels_last)
    folded = fold(model, torch.float32)
    assert takes_bytes(folded)
    assert not takes_bytes(small_model)
    images = pixels(2, 3, 64, 48)
    with torch.inference_mode():
        found, expected = folded(images), folded(images.float() / 255)
    assert torch.equal(found.anomaly_map, expected.anomaly_map)


@pytest.mark.skipif(not can_fuse(torch.float32), reason="this torch has no oneDNN")
def test_models_of_another_make_get_floats(small_model):
    class Own(type(small_model)):
        def forward(self, images):
            assert images.is_floating_point()
            return super().forward(images)

    own = copy.deepcopy(small_model)
    own.__class__ = Own
    assert not takes_bytes(fold(own, torch.float32))
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 48, 3), dtype=np.uint8)
    found = Predictor(own, (64, 48), device="cpu", precision="float32").predict(images)
    expected = Predictor(
        copy.deepcopy(small_model), (64, 48), device="cpu", precision="float32"
    ).predict(images)
    np.testing.assert_allclose(found.score, expected.score, rtol=1e-6)


def test_in_torch():
    images, table = pixels(2, 3, 5, 6), torch.rand(3, 256)
    torch.library.opcheck(torch.ops.fastad.normalize_bytes.default, (images, table))
    for wrong in (images.float(), images[:, :2], images[0]):
        with pytest.raises(RuntimeError, match="images must be"):
            torch.ops.fastad.normalize_bytes(wrong, table)
    for wrong in (table.double(), table[:, 1:], table.mT):
        with pytest.raises(RuntimeError, match="table must be"):
            torch.ops.fastad.normalize_bytes(images, wrong)
