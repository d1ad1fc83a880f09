"""What "auto" means for prediction."""

import copy

import pytest
import torch

from fastad import _extension
from fastad.inference import Predictor, precision
from fastad.inference.precision import PRECISIONS, autocast, resolve, ways
from fastad.training import precision as of_training

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("fixed", "amx", "half", "expected"),
    [
        (True, False, True, torch.int16),
        (True, False, False, torch.int16),
        (True, True, True, torch.bfloat16),
        (False, False, True, torch.bfloat16),
        (False, False, False, torch.float32),
    ],
)
def test_auto(monkeypatch, fixed, amx, half, expected):
    monkeypatch.setattr(_extension, "cpu_fixed", fixed)
    monkeypatch.setattr(precision, "has_amx", lambda: amx)
    monkeypatch.setattr(of_training, "cpu_multiplies_in", lambda dtype: half)
    assert resolve("auto", CPU) == expected
    assert resolve("float32", CPU) == torch.float32


def test_has_amx(monkeypatch):
    monkeypatch.setattr(of_training, "_cpu_capabilities", lambda: {"amx_bf16": True})
    assert of_training.has_amx()
    monkeypatch.setattr(of_training, "_cpu_capabilities", lambda: {"avx512_bf16": True})
    assert not of_training.has_amx()


def test_by_name(monkeypatch):
    monkeypatch.setattr(_extension, "cpu_fixed", True)
    assert resolve("int16", CPU) == torch.int16
    with pytest.raises(ValueError, match="'int16' needs a CPU with AVX-512 VNNI; on cuda"):
        resolve("int16", torch.device("cuda"))
    monkeypatch.setattr(_extension, "cpu_fixed", False)
    with pytest.raises(ValueError, match="'int16' needs a CPU with AVX-512 VNNI; on cpu"):
        resolve("int16", CPU)
    with pytest.raises(ValueError, match=f"must be one of {', '.join(PRECISIONS)}; got 'int8'"):
        resolve("int8", CPU)


def test_ways(monkeypatch):
    monkeypatch.setattr(_extension, "cpu_fixed", True)
    assert ways(torch.bfloat16, CPU) == [torch.bfloat16, torch.int16, torch.float32]
    assert ways(torch.int16, CPU) == [torch.int16, torch.float32]
    assert ways(torch.float32, CPU) == [torch.float32]
    assert ways(torch.float16, torch.device("cuda")) == [torch.float16, torch.float32]
    monkeypatch.setattr(_extension, "cpu_fixed", False)
    assert ways(torch.bfloat16, CPU) == [torch.bfloat16, torch.float32]


def test_autocast():
    for dtype in (torch.float32, torch.int16):
        assert not autocast(dtype)[1]
    assert autocast(torch.bfloat16) == (torch.bfloat16, True)


@pytest.mark.skipif(not _extension.cpu_fixed, reason="this processor has no AVX-512 VNNI")
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
    # One by one and together: the same bytes.
    for index, image in enumerate(images):
        alone = found.predict_batch(image[None])
        assert alone.score[0] == result.score[index]
        assert (alone.anomaly_map[0] == result.anomaly_map[index]).all()
    assert len(found.predict_batch(images[:0]).score) == 0
