"""What "auto" means for prediction."""

import copy

import numpy as np
import pytest
import torch

from fastad import _extension, models
from fastad.engine import precision
from fastad.engine.precision import PRECISIONS, autocast, fallbacks, resolve
from fastad.inference import Predictor
from fastad.training import precision as of_training

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("int16", "amx", "half", "expected"),
    [
        (True, False, True, torch.int16),
        (True, False, False, torch.int16),
        (True, True, True, torch.bfloat16),
        (False, False, True, torch.bfloat16),
        (False, False, False, torch.float32),
    ],
)
def test_auto(monkeypatch, int16, amx, half, expected):
    monkeypatch.setattr(_extension, "cpu_int16", int16)
    monkeypatch.setattr(precision, "has_amx", lambda: amx)
    monkeypatch.setattr(of_training, "cpu_multiplies_in", lambda dtype: half)
    assert resolve("auto", CPU) == expected
    assert resolve("float32", CPU) == torch.float32
    without = torch.float32 if not half and not amx else torch.bfloat16
    assert resolve("auto", CPU, integers=False) == without


@pytest.mark.parametrize("backbone", ["efficientnet_lite0", "resnet18"])
def test_auto_is_the_same_for_all_networks(backbone):
    model = models.build("stpm", backbone=backbone, teacher_weights=None, layers=("layer1",))
    assert Predictor(model, 32, device="cpu").dtype == resolve("auto", CPU)


def test_has_amx(monkeypatch):
    monkeypatch.setattr(of_training, "_cpu_capabilities", lambda: {"amx_bf16": True})
    assert of_training.has_amx()
    monkeypatch.setattr(of_training, "_cpu_capabilities", lambda: {"avx512_bf16": True})
    assert not of_training.has_amx()


def test_by_name(monkeypatch):
    monkeypatch.setattr(_extension, "cpu_int16", True)
    assert resolve("int16", CPU) == torch.int16
    with pytest.raises(ValueError, match="'int16' needs a CPU with AVX-512 VNNI; on cuda"):
        resolve("int16", torch.device("cuda"))
    monkeypatch.setattr(_extension, "cpu_int16", False)
    with pytest.raises(ValueError, match="'int16' needs a CPU with AVX-512 VNNI; on cpu"):
        resolve("int16", CPU)
    with pytest.raises(ValueError, match=f"must be one of {', '.join(PRECISIONS)}; got 'int8'"):
        resolve("int8", CPU)


def test_fallbacks(monkeypatch):
    monkeypatch.setattr(_extension, "cpu_int16", True)
    assert fallbacks(torch.bfloat16, CPU) == [torch.bfloat16, torch.int16, torch.float32]
    assert fallbacks(torch.int16, CPU) == [torch.int16, torch.float32]
    assert fallbacks(torch.float32, CPU) == [torch.float32]
    assert fallbacks(torch.float16, torch.device("cuda")) == [torch.float16, torch.float32]
    assert fallbacks(torch.bfloat16, CPU, integers=False) == [torch.bfloat16, torch.float32]
    monkeypatch.setattr(_extension, "cpu_int16", False)
    assert fallbacks(torch.bfloat16, CPU) == [torch.bfloat16, torch.float32]


def test_autocast():
    for dtype in (torch.float32, torch.int16):
        assert not autocast(dtype)[1]
    assert autocast(torch.bfloat16) == (torch.bfloat16, True)


class Own(models.AnomalyModel):
    name = "own"

    def __init__(self):
        super().__init__(None)
        self.convolution = torch.nn.Conv2d(3, 4, 3)


def test_networks_of_another_make_have_no_integers(monkeypatch):
    monkeypatch.setattr(_extension, "cpu_int16", True)
    monkeypatch.setattr(precision, "has_amx", lambda: False)
    monkeypatch.setattr(of_training, "cpu_multiplies_in", lambda dtype: True)
    own = Own().eval()
    assert Predictor(own, (8, 8), device="cpu").dtype == torch.bfloat16
    with pytest.raises(ValueError, match="'int16' needs a model with a network of this package"):
        Predictor(own, (8, 8), device="cpu", precision="int16")
    known = models.build("stpm", teacher_weights=None, layers=("layer1",))
    assert Predictor(known, (32, 32), device="cpu").dtype == torch.int16


@pytest.mark.skipif(not _extension.cpu_int16, reason="this processor has no AVX-512 VNNI")
def test_a_predictor_in_integers(small_model):
    images = torch.rand(5, 3, 64, 48)
    small_model = copy.deepcopy(small_model)  # a predictor changes the layout of its model
    exact = Predictor(small_model, (64, 48), device="cpu", precision="float32", fused=False)
    found = Predictor(small_model, (64, 48), device="cpu", precision="int16")
    assert found.dtype == torch.int16
    result, expected = found.predict_batch(images), exact.predict_batch(images)
    assert result.score.dtype == result.anomaly_map.dtype == "float32"
    error = abs(result.anomaly_map - expected.anomaly_map).max() / expected.anomaly_map.max()
    assert 0 < error < 0.02
    # One by one and together are alike; what torch multiplies rounds otherwise for other batches.
    for index, image in enumerate(images):
        alone = found.predict_batch(image[None])
        np.testing.assert_allclose(alone.score[0], result.score[index], rtol=1e-3)
        np.testing.assert_allclose(
            alone.anomaly_map[0],
            result.anomaly_map[index],
            rtol=1e-2,
            atol=1e-3 * result.score.max(),
        )
    assert len(found.predict_batch(images[:0]).score) == 0
