"""Models in OpenVINO and ONNX Runtime give what they give in PyTorch."""

import importlib.util

import pytest
import torch

from fastad import models
from fastad.engine import runtimes
from fastad.engine.runtimes import EngineError, Runtime

CPU = torch.device("cpu")
SIZE = (32, 64)


def needing(engine):
    missing = [p for p in runtimes.PACKAGES[engine] if importlib.util.find_spec(p) is None]
    reason = f"needs {', '.join(missing)}"
    return pytest.param(engine, marks=pytest.mark.skipif(bool(missing), reason=reason))


ALL = [needing(engine) for engine in runtimes.PACKAGES]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return models.build("stpm", teacher_weights=None, layers=("layer1",)).eval()


@pytest.mark.parametrize("engine", ALL)
def test_values(engine, model):
    images = torch.randint(0, 256, (3, 3, *SIZE), dtype=torch.uint8)
    runtime = Runtime(model, SIZE, engine, torch.float32)
    with torch.no_grad():
        expected = model.double()(images.double() / 255)
        model.float()
    for given in (
        images,
        images.float() / 255,
        images.contiguous(memory_format=torch.channels_last),
    ):
        # As a predictor calls it, which must not reach the graph.
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            found = runtime(given)
        for name in ("score", "anomaly_map"):
            one, other = getattr(found, name), getattr(expected, name)
            assert one.dtype == torch.float32
            torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-6)
    assert runtime(images[:1]).anomaly_map.shape == (1, *SIZE)


@pytest.mark.parametrize("engine", ALL)
def test_a_model_that_cannot_be_converted(engine, model):
    class Odd(models.model_class("stpm")):
        def forward(self, images):
            return super().forward(images * float(images.max()))

    odd = Odd(model.config)
    with pytest.raises(EngineError, match=f"engine '{engine}' cannot run stpm: "):
        Runtime(odd, SIZE, engine, torch.float32)(torch.zeros(1, 3, *SIZE))


def test_what_is_not_there(monkeypatch):
    with pytest.raises(ValueError, match=r"engine must be auto, native, openvino, .* got 'tvm'"):
        runtimes.check_engine("tvm", CPU)
    with pytest.raises(ValueError, match="'openvino' computes on the CPU alone; got device 'cuda'"):
        runtimes.check_engine("openvino", torch.device("cuda"))
    runtimes.check_engine("torch", torch.device("cuda"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        ImportError, match="'onnxruntime' needs onnxruntime and onnx and onnxscript"
    ):
        runtimes.check_engine("onnxruntime", CPU)
    assert runtimes.installed(CPU) == []


def test_precisions(monkeypatch):
    monkeypatch.setattr(runtimes, "cpu_multiplies_in", lambda dtype: True)
    assert runtimes.dtypes("openvino") == [torch.bfloat16, torch.float32]
    assert runtimes.dtypes("openvino", "float32") == [torch.float32]
    assert runtimes.dtypes("onnxruntime") == [torch.float32]
    with pytest.raises(ValueError, match="'torch' computes in float32 here; got precision 'int16'"):
        runtimes.dtypes("torch", "int16")
    monkeypatch.setattr(runtimes, "cpu_multiplies_in", lambda dtype: False)
    assert runtimes.dtypes("openvino") == [torch.float32]
