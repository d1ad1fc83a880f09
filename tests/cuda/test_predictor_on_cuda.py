"""Prediction on a GPU: folded networks, graphs and streams say what the plain model says."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from fastad import _extension, models
from fastad.engine.cuda import MOST_GRAPHS, CudaRunner
from fastad.inference import Predictor

if not torch.cuda.is_available():
    pytest.skip("there is no CUDA device", allow_module_level=True)
if _extension.cuda_obstacle is not None:
    pytest.skip(f"the CUDA kernels are {_extension.cuda_obstacle}", allow_module_level=True)

SIZE = (64, 96)


def model_of(name):
    torch.manual_seed(0)
    return models.build(name, **models.without_weights(name)).eval()


def images_of(count):
    return torch.randint(0, 256, (count, 3, *SIZE), dtype=torch.uint8)


@pytest.mark.parametrize("name", models.MODELS)
@pytest.mark.parametrize(
    ("precision", "tolerance"), [("float32", 1e-3), ("float16", 0.05), ("bfloat16", 0.3)]
)
def test_every_run_of_a_shape_gives_the_plain_model_s_map(name, precision, tolerance):
    model = model_of(name)
    images = images_of(3)
    with torch.inference_mode():
        expected = copy.deepcopy(model).double()(images.double() / 255)
    predictor = Predictor(model, SIZE, device="cuda", precision=precision)
    for _ in range(4):  # kernel by kernel, captured, replayed
        found = predictor.predict_batch(images)
        difference = np.abs(found.anomaly_map - expected.anomaly_map.numpy()).max()
        assert difference < tolerance * expected.anomaly_map.max().item()
    other = images_of(3)
    assert not np.array_equal(predictor.predict_batch(other).anomaly_map, found.anomaly_map)


def test_shapes_take_turns():
    predictor = Predictor(model_of("stpm"), SIZE, device="cuda", batch_size=4)
    images = images_of(23)
    once = predictor.predict(images)
    for count in range(1, MOST_GRAPHS + 4):
        for _ in range(3):
            found = predictor.predict_batch(images[:count])
        np.testing.assert_allclose(found.score, once.score[:count], rtol=0.02)
    runner = predictor._ready[1]
    assert isinstance(runner, CudaRunner)
    assert len(runner._graphs) <= MOST_GRAPHS
    assert torch.equal(*(torch.from_numpy(predictor.predict(images).score) for _ in range(2)))


def test_tensors_on_the_device_and_threads():
    predictor = Predictor(model_of("stpm"), SIZE, device="cuda", batch_size=4)
    batches = [images_of(4) for _ in range(12)]
    expected = [predictor.predict_batch(batch).score for batch in batches]
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda x: predictor.predict_batch(x.cuda()).score, batches))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3)


def test_pickles_and_follows_changes():
    predictor = Predictor(model_of("stpm"), SIZE, device="cuda")
    images = images_of(2)
    before = [predictor.predict_batch(images).score for _ in range(3)][-1]
    again = pickle.loads(pickle.dumps(predictor)).predict_batch(images).score
    np.testing.assert_allclose(again, before, rtol=1e-3)
    with torch.no_grad():
        predictor.model.student.layer1[0].conv1.weight.mul_(-1)
    assert not np.allclose(predictor.predict_batch(images).score, before, rtol=1e-3)
