"""A detector on EfficientNet-Lite in other runtimes: its padding, its input space, ReLU6."""

from importlib.util import find_spec

import numpy as np
import pytest
import torch

from fastad import models
from fastad.export.export import export_detector
from fastad.export.formats import FORMATS
from fastad.inference import Artifact

SIZE = (37, 48)  # a padding on all sides, and one below and on the right


@pytest.mark.slow
@pytest.mark.parametrize("name", ["onnx", "openvino", "torch-export"])
def test_a_file_gives_what_the_detector_gives(tmp_path, name):
    missing = [package for package in FORMATS[name].packages if find_spec(package) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed")
    torch.manual_seed(0)
    options = {"backbone": "efficientnet_lite0", "layers": ("layer1", "layer2")}
    model = models.build("stpm", **options, teacher_weights=None).eval()
    scores = np.array([0.1, 0.2, 0.3])
    artifact = Artifact(model, SIZE, scores, 0.5, 0.2, {}, 2 * scores, 0.4)
    path = tmp_path / f"detector{FORMATS[name].suffix}"
    export_detector(artifact, path, name)
    images = np.random.default_rng(7).integers(0, 256, (2, *SIZE, 3), dtype=np.uint8)
    score, maps = FORMATS[name].open(path)(images)
    expected = artifact.predictor(device="cpu", precision="float32").predict(images)
    np.testing.assert_allclose(score, expected.score, rtol=2e-3)
    np.testing.assert_allclose(maps, expected.anomaly_map, rtol=2e-3, atol=2e-3 * score.max())
