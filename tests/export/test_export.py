"""Exported files against their detector, in the runtimes that they are made for."""

import copy
import dataclasses
import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import fastad
from fastad import data, models, ops
from fastad.evaluation.shares import promised
from fastad.export.export import (
    ExportError,
    export_detector,
    metadata,
    resize_weights,
    trace,
)
from fastad.export.formats import FORMATS, Format
from fastad.inference import Artifact, conformal_threshold, load, save
from fastad.models import AnomalyModel, Prediction

SIZE = (16, 24)


def needing(name):
    missing = [package for package in FORMATS[name].packages if find_spec(package) is None]
    marks = [pytest.mark.skipif(bool(missing), reason=f"{', '.join(missing)} not installed")]
    if name == "aotinductor":  # half a minute of C++ compilation
        marks.append(pytest.mark.slow)
    return pytest.param(name, marks=marks)


def large(model):
    """Converting the graph of two networks is quick, of more it is not."""
    return pytest.param(model, marks=[] if model in ("stpm", "stpm with all") else pytest.mark.slow)


class Pyramid(nn.Module):
    def __init__(self, *channels):
        super().__init__()
        inputs = (3, *channels)
        self.stages = nn.ModuleList(
            nn.Conv2d(before, after, 3, 2, 1)
            for before, after in zip(inputs, channels, strict=False)
        )

    def forward(self, images):
        features = []
        for stage in self.stages:
            images = stage(images).relu()
            features.append(images)
        return features


def stpm(**options):
    return models.build("stpm", backbone=Pyramid(4, 6), **options)


def standardized():
    model = stpm(weights=[1.0, 0.5], standardize="channels")
    for factor in model.scales.buffers():
        factor.copy_(torch.rand_like(factor) + 0.5)
    return model


def rstpm(**options):
    """With a discriminative network that says something."""
    teachers = {"teacher1": Pyramid(4, 6, 8), "teacher2": Pyramid(5, 7, 9)}
    options = {**teachers, "bottleneck": "learned", "discriminator_width": 8, **options}
    model = models.build("rstpm", **options)
    nn.init.normal_(model.discriminator.head.weight)
    return model


def gtrans():
    return models.build("gtrans", backbone=Pyramid(4, 6, 8), token_width=8, smoothing=1.5)


def prn():
    """With prototypes, as a trained one has."""
    model = models.build("prn", backbone=Pyramid(4, 6, 8))
    images = torch.rand(6, 3, *SIZE)
    model.prepare_stage(lambda: [model.teacher_features(images)], lambda: [])
    return model


def utad():
    """With an expert that says something."""
    options = {"impression_width": 4, "expert_width": 4, "discriminator_width": 2}
    options |= {"latents": 4, "bank": 8, "neighbours": 2, "smoothing": 1.5}
    model = models.build("utad", backbone=Pyramid(4, 6, 8), **options)
    model.factors.copy_(torch.rand_like(model.factors) + 0.5)
    # Impressions with contrast: instance norm makes much of the rounding in flat ones.
    nn.init.normal_(model.impression.output.weight, std=20)
    model.bank.fill(torch.rand(5, 8))
    return model


def without_training(name, images=8, **options):
    """One that has looked at images."""
    model = models.build(name, backbone=Pyramid(4, 6), smoothing=1.5, **options)
    batches = [{"image": torch.rand(images, 3, *SIZE)}]
    with torch.no_grad():
        model.prepare_stage(lambda: batches, lambda: batches)
        model.eval().settle_composition(lambda: batches)
    return model


def with_all():
    """Another scale for the score, which is pooled, and a subspace."""
    model = stpm(scale_maps="position", scale_score="none", pooling=0.05, subspace=True)
    batches = [{"image": torch.rand(6, 3, *SIZE)}]
    with torch.no_grad():
        model.fit_subspace([model.teacher_features(batches[0]["image"])["teacher"]])
        model.calibrate_maps(lambda: batches)
    return model


SMALL = {
    "stpm": standardized,
    "stpm with all": with_all,
    "rstpm": lambda: rstpm(smoothing=1.5),
    "gtrans": gtrans,
    "prn": prn,
    "utad": utad,
    # More vectors than are compared at once.
    "patchcore": lambda: without_training("patchcore", images=12, memory=1100),
    "subspace": lambda: without_training("subspace", variance=0.9, composition=True),
}


class Separate(AnomalyModel):
    """A model of another make: other ops, another score."""

    name = "separate"

    def __init__(self):
        super().__init__(None)
        self.teacher, self.student = Pyramid(4, 6), Pyramid(4, 6)

    def forward(self, images):
        x = self.normalize(images)
        maps = ops.distances(self.teacher(x), self.student(x))
        joined = ops.aggregate_maps(maps, x.shape[2:], aggregate="sum", weights=[2.0, 0.5])
        return Prediction(joined.mean((1, 2)), joined)


def artifact_of(model, threshold=0.2):
    scores = np.array([0.1, 0.2, 0.3])
    return Artifact(model.eval(), SIZE, scores, 0.5, threshold, {}, 2 * scores, 0.4)


@pytest.fixture(scope="module")
def artifacts():
    """Name of a model -> an artifact of a small one."""
    torch.manual_seed(0)
    return {name: artifact_of(make()) for name, make in SMALL.items()}


@pytest.fixture
def artifact(artifacts):
    return artifacts["stpm"]


@pytest.fixture(scope="module")
def exported(artifacts, tmp_path_factory):
    """Format, name of a model -> the file, made once."""
    folder, made = tmp_path_factory.mktemp("exported"), {}

    def path(name, model="stpm"):
        if (name, model) not in made:
            made[name, model] = folder / f"{model}{FORMATS[name].suffix}"
            export_detector(artifacts[model], made[name, model], name)
        return made[name, model]

    return path


def noise(*shape):
    return np.random.default_rng(7).integers(0, 256, shape, dtype=np.uint8)


@settings(deadline=None)
@given(st.integers(1, 70), st.integers(1, 70), st.integers(1, 40), st.integers(1, 40))
def test_the_resize_is_the_one_of_the_package(height, width, to_height, to_width):
    images = torch.from_numpy(noise(2, 3, height, width))
    rows = resize_weights(height, to_height, images.device)
    columns = resize_weights(width, to_width, images.device)
    result = rows @ images.float() @ columns.T
    torch.testing.assert_close(
        result, data.resize(images.float(), (to_height, to_width)), rtol=0, atol=0.01
    )
    grey = data.resize(images, (to_height, to_width)).float()
    assert (result.round() - grey).abs().max() <= 1


def test_an_image_of_the_right_size_is_not_touched():
    assert torch.equal(resize_weights(37, 37, torch.device("cpu")), torch.eye(37))


@pytest.mark.parametrize("name", [needing(name) for name in FORMATS])
@pytest.mark.parametrize("model", [large(model) for model in SMALL])
def test_a_file_gives_what_the_detector_gives(artifacts, exported, name, model):
    """All shapes in one test: processes that share the tests make and open each file once."""
    if name == "aotinductor" and model in ("utad", "prn", "gtrans", "subspace", "stpm with all"):
        pytest.skip("minutes to compile what torch-export gave, which is tested")
    run = FORMATS[name].open(exported(name, model))
    predictor = artifacts[model].predictor(device="cpu", precision="float32")
    for shape in [(1, 16, 24), (3, 16, 24), (3, 41, 29), (1, 7, 95), (2, 1, 1)]:
        if model == "utad" and shape[1:] == (1, 1):
            continue  # of a flat image instance norm leaves nothing but rounding
        images = noise(*shape, 3)
        score, maps = run(images)
        expected = predictor.predict(images)
        assert (score.shape, maps.shape) == ((shape[0],), (shape[0], *SIZE)), shape
        assert score.dtype == maps.dtype == np.float32, shape
        said, atol = f"images of {shape}", 2e-3 * score.max()
        np.testing.assert_allclose(score, expected.score, rtol=2e-3, err_msg=said)
        np.testing.assert_allclose(maps, expected.anomaly_map, rtol=2e-3, atol=atol, err_msg=said)


def read_metadata(name, path):
    if name == "onnx":
        import onnxruntime

        return onnxruntime.InferenceSession(path).get_modelmeta().custom_metadata_map["fastad"]
    if name == "openvino":
        import openvino

        return openvino.Core().read_model(path).get_rt_info(["fastad"]).astype(str)
    if name == "torch-export":
        torch.export.load(path, extra_files=(files := {"fastad.json": ""}))
        return files["fastad.json"]
    return torch._inductor.aoti_load_package(str(path)).get_metadata()["fastad"]


@pytest.mark.parametrize("name", [needing(name) for name in FORMATS])
def test_the_threshold_can_be_changed_from_what_the_file_holds(artifact, exported, name):
    held = json.loads(read_metadata(name, exported(name)))
    assert held == metadata(artifact)
    assert (held["threshold"], held["pixel_threshold"]) == (0.2, 0.4)
    assert held["image_size"] == [16, 24]
    assert held["input_guard"].startswith("none: the graph scores any image")
    assert (held["asked_false_positive_rate"], held["threshold_set_by"]) == (0.5, "rate")
    assert held["kept_false_positive_rate"] == promised(artifact.calibration, 0.2)
    assert held["pixel_calibration_scores"] == [0.2, 0.4, 0.6]
    assert conformal_threshold(held["calibration_scores"], 0.25) == 0.3


@pytest.mark.parametrize("name", [needing(name) for name in FORMATS])
def test_a_file_names_no_path_of_the_machine_that_made_it(exported, name):
    path = exported(name)
    for file in path.parent.glob(f"{path.name.partition('.')[0]}.*"):
        assert str(Path(fastad.__file__).parent).encode() not in file.read_bytes()


@pytest.mark.parametrize("name", [needing("onnx"), needing("openvino")])
def test_only_batch_height_and_width_are_free(exported, name):
    if name == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(exported(name))
        assert session.get_inputs()[0].shape == ["batch", "height", "width", 3]
        assert [o.shape for o in session.get_outputs()] == [["batch"], ["batch", 16, 24]]
    else:
        import openvino

        model = openvino.Core().read_model(exported(name))
        assert str(model.input("images").partial_shape) == "[?,?,?,3]"
        assert str(model.output("anomaly_map").partial_shape) == "[?,16,24]"


@pytest.mark.slow
@pytest.mark.parametrize("name", [needing("onnx")])
def test_a_detector_from_a_file_exports(tmp_path, tiny_stpm, name):
    save(tmp_path / "d.fastad", artifact_of(tiny_stpm, threshold=None))
    result = export_detector(load(tmp_path / "d.fastad"), tmp_path / "d.onnx", name)
    assert result.images == 7
    assert result.changed_decisions is None
    assert sorted(p.name for p in tmp_path.iterdir()) == ["d.fastad", "d.onnx"]


@pytest.mark.parametrize(
    "make",
    [
        lambda: Separate(),
        lambda: stpm(aggregate_size="layer"),
        lambda: stpm(aggregate="sum", weights=[0.5, 3.0]),
        with_all,
        pytest.param(lambda: rstpm(), marks=pytest.mark.slow),
        pytest.param(
            lambda: rstpm(aggregate="sum", smoothing=1.5, pooling=0.01, attention=False),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_any_model_becomes_plain_ops(make):
    torch.manual_seed(1)
    model = make().eval()
    program = trace(artifact_of(model))
    assert "fastad" not in {getattr(n.target, "namespace", "") for n in program.graph.nodes}
    images = torch.from_numpy(noise(3, *SIZE, 3))
    result = program.module()(images)
    with torch.no_grad():
        expected = model(images.permute(0, 3, 1, 2) / 255)
    torch.testing.assert_close(result["score"], expected.score)
    torch.testing.assert_close(result["anomaly_map"], expected.anomaly_map)


def test_exporting_leaves_the_model_as_it_was(artifact):
    layouts = [p.stride() for p in artifact.model.parameters()]
    trace(artifact)
    assert [p.stride() for p in artifact.model.parameters()] == layouts
    assert all(p.requires_grad for p in artifact.model.student_parameters())
    assert len(list(artifact.model.student_parameters())) > 0


def test_fused_ops_stay_where_that_is_asked_for(artifact, tmp_path):
    export_detector(artifact, tmp_path / "f.pt2", "torch-export", fused_ops=True)
    program = torch.export.load(tmp_path / "f.pt2")
    assert torch.ops.fastad.anomaly_map.default in {n.target for n in program.graph.nodes}
    assert metadata(artifact, fused_ops=True)["needs_fastad"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["torch-export", "aotinductor"])
def test_plain_files_run_without_this_package(exported, name):
    open_file = {
        "torch-export": "torch.export.load(sys.argv[1]).module()",
        "aotinductor": "torch._inductor.aoti_load_package(sys.argv[1])",
    }
    code = (
        f"import sys, torch; run = {open_file[name]};"
        "print(tuple(run(torch.zeros(1, 33, 20, 3, dtype=torch.uint8))['anomaly_map'].shape));"
        "assert 'fastad' not in sys.modules"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, exported(name)], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "(1, 16, 24)"


@pytest.fixture
def fake(monkeypatch, artifact):
    """A format that needs nothing: a file and its weights, and the detector's results changed."""

    def install(change=lambda score, maps: (score, maps), write=None):
        def put(program, path, text):
            path.write_text(text)
            path.with_suffix(".bin").write_text("new")

        def run(images):
            result = artifact.predictor(device="cpu", precision="float32").predict(images)
            return change(result.score, result.anomaly_map)

        monkeypatch.setattr("fastad.export.export.trace", lambda artifact, fused_ops: None)
        kind = Format(".fake", (), False, write or put, lambda path: run)
        monkeypatch.setitem(FORMATS, "fake", kind)

    return install


def test_a_file_and_its_weights_replace_older_ones(artifact, fake, tmp_path):
    fake()
    for name in ("d.fake", "d.bin"):
        (tmp_path / name).write_text("old")
    result = export_detector(artifact, tmp_path / "d.fake", "fake")
    assert (result.score_error, result.map_error, result.changed_decisions) == (0, 0, 0)
    assert json.loads((tmp_path / "d.fake").read_text()) == metadata(artifact)
    assert (tmp_path / "d.bin").read_text() == "new"
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    "change",
    [
        lambda score, maps: (score * 1.01, maps),
        lambda score, maps: (score, maps * 0.99),
        lambda score, maps: (score, maps[:, ::-1]),
        lambda score, maps: (score[::-1], maps),
        lambda score, maps: (score * np.nan, maps),
        lambda score, maps: (score, maps + np.nan),
    ],
)
def test_a_file_that_differs_is_not_kept(artifact, fake, tmp_path, change):
    fake(change)
    (tmp_path / "d.fake").write_text("old")
    with pytest.raises(ExportError, match=r"fake file does not agree .*above 0\.005\): relative"):
        export_detector(artifact, tmp_path / "d.fake", "fake")
    assert [p.name for p in tmp_path.iterdir()] == ["d.fake"]
    assert (tmp_path / "d.fake").read_text() == "old"


def test_a_failed_conversion_says_so_in_one_line(artifact, fake, tmp_path):
    def fail(program, path, text):
        path.write_text("half")
        raise RuntimeError("no such op: a\nand much more")

    fake(write=fail)
    with pytest.raises(ExportError, match=r"^stpm cannot be exported to fake: no such op: a$"):
        export_detector(artifact, tmp_path / "d.fake", "fake")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["onnx", "openvino"])
def test_a_missing_package_is_named_with_its_cure(artifact, tmp_path, monkeypatch, name):
    monkeypatch.setattr("importlib.util.find_spec", lambda package: None)
    packages = FORMATS[name].packages
    text = f"{name} needs {' and '.join(packages)}: pip install {' '.join(packages)}$"
    with pytest.raises(ImportError, match=text):
        export_detector(artifact, tmp_path / f"d{FORMATS[name].suffix}", name)


def test_wrong_arguments_are_named(artifact, fake, tmp_path):
    fake()
    with pytest.raises(ValueError, match="unknown format 'tflite'; there are: onnx, openvino"):
        export_detector(artifact, tmp_path / "d.tflite", "tflite")
    with pytest.raises(ValueError, match=r"torch-export must end in \.pt2; got .*d\.onnx"):
        export_detector(artifact, tmp_path / "d.onnx", "torch-export")
    with pytest.raises(ValueError, match="fake cannot hold fastad's fused ops"):
        export_detector(artifact, tmp_path / "d.fake", "fake", fused_ops=True)
    with pytest.raises(ValueError, match="no images to verify on"):
        export_detector(artifact, tmp_path / "d.fake", "fake", images=[])
    with pytest.raises(FileNotFoundError, match=f"no folder {tmp_path / 'no'}"):
        export_detector(artifact, tmp_path / "no" / "d.fake", "fake")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", [needing(name) for name in FORMATS])
@pytest.mark.parametrize("model", [large(model) for model in SMALL])
def test_the_graph_knows_its_region_of_interest(artifacts, name, model, tmp_path):
    if name == "aotinductor" and model != "stpm":
        pytest.skip("minutes to compile what torch-export gave, which is tested")
    inside = torch.zeros(SIZE, dtype=torch.bool)
    inside[2:11, 5:17] = True
    own = dataclasses.replace(artifacts[model], model=copy.deepcopy(artifacts[model].model))
    own.model.set_roi(inside)
    path = tmp_path / f"a{FORMATS[name].suffix}"
    export_detector(own, path, name)
    score, maps = FORMATS[name].open(path)(noise(3, 41, 29, 3))
    expected = own.predictor(device="cpu", precision="float32").predict(noise(3, 41, 29, 3))
    np.testing.assert_allclose(score, expected.score, rtol=2e-3)
    np.testing.assert_allclose(maps, expected.anomaly_map, rtol=2e-3, atol=2e-3 * score.max())
    assert (maps[:, ~inside.numpy()] == 0).all()
    assert maps.any()
    assert json.loads(read_metadata(name, path))["roi_share"] == inside.float().mean().item()
