"""One file for a detector: complete, exact, and clear about what is wrong with it."""

import copy
import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from fastad import models
from fastad._safe_file import digest
from fastad.data.facts import ImageFacts
from fastad.inference import Artifact, ArtifactError, load, save
from fastad.inference.serving import machine

IMAGES = torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(1))


def artifact_of(model):
    return Artifact(
        model=model,
        image_size=(32, 48),
        calibration=np.array([0.1, 1 / 3, 0.7]),
        false_positive_rate=0.25,
        threshold=1 / 3,
        pixel_calibration=np.array([0.2, 0.4, 0.9]),
        pixel_threshold=0.4,
        training={"epochs": 2, "losses": [{"distillation": 0.5}]},
    )


@pytest.fixture
def artifact(tiny_stpm):
    return artifact_of(tiny_stpm)


@pytest.fixture
def path(artifact, tmp_path):
    save(tmp_path / "d.fastad", artifact)
    return tmp_path / "d.fastad"


def rewrite(path, **changes):
    """Change the metadata of a file, its checksum too; None removes a key."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() | changes
    tensors = load_file(path)
    if metadata["detector"] is not None and "sha256" not in changes:
        metadata["sha256"] = digest(metadata["detector"], tensors)
    save_file(tensors, path, {k: v for k, v in metadata.items() if v is not None})


def test_round_trip_is_exact(small_model, tmp_path):
    artifact, path = artifact_of(small_model), tmp_path / "d.fastad"
    save(path, artifact)
    random_state = torch.get_rng_state()
    loaded = load(path)
    assert torch.equal(torch.get_rng_state(), random_state)
    for name, tensor in artifact.model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], tensor), name
    assert loaded.model.config == artifact.model.config
    assert not loaded.model.training
    assert loaded.image_size == (32, 48)
    assert np.array_equal(loaded.calibration, artifact.calibration)
    assert loaded.false_positive_rate == 0.25
    assert loaded.threshold == 1 / 3
    assert np.array_equal(loaded.pixel_calibration, artifact.pixel_calibration)
    assert loaded.pixel_threshold == 0.4
    assert loaded.training == artifact.training
    assert loaded.versions["torch"] == torch.__version__
    with torch.inference_mode():
        assert torch.equal(loaded.model(IMAGES).score, artifact.model(IMAGES).score)


@pytest.mark.filterwarnings("ignore:this CPU has no bfloat16")
def test_ways_that_were_refused_stay_so(tiny_stpm, tmp_path):
    artifact, path = artifact_of(tiny_stpm), tmp_path / "d.fastad"
    artifact.serving = {"refused": ["bfloat16", "fused"], "machine": machine(torch.device("cpu"))}
    save(path, artifact)
    loaded = load(path)
    assert loaded.serving == artifact.serving
    of_itself = loaded.predictor(device="cpu")
    assert (of_itself.dtype, of_itself.fused) == (torch.float32, False)
    asked_for = loaded.predictor(device="cpu", precision="bfloat16")
    assert (asked_for.dtype, asked_for.fused) == (torch.bfloat16, True)


def test_files_from_before_anything_was_examined(path):
    with safe_open(path, framework="pt") as file:
        content = json.loads(file.metadata()["detector"])
    for name in ("serving", "pixel_range", "facts"):
        del content[name]
    rewrite(path, detector=json.dumps(content))
    loaded = load(path)
    assert loaded.serving is None
    assert loaded.pixel_range is None
    assert loaded.facts == ImageFacts()
    assert loaded.predictor(device="cpu").fused


def test_predictor_has_everything(small_model, tmp_path):
    artifact, path = artifact_of(small_model), tmp_path / "d.fastad"
    save(path, artifact)
    before = artifact.predictor(device="cpu", precision="float32").predict(IMAGES)
    after = load(path).predictor(device="cpu", precision="float32").predict(IMAGES)
    assert np.array_equal(before.score, after.score)
    assert np.array_equal(before.anomaly_map, after.anomaly_map)
    assert np.array_equal(before.is_anomalous, after.is_anomalous)
    assert np.array_equal(before.p_value, after.p_value)
    assert np.array_equal(before.mask, after.mask)


def test_the_teacher_is_inside_and_its_source_remembered(path, tiny_stpm, tmp_path):
    torch.manual_seed(5)
    model = models.build("stpm", teacher_weights=None, layers=("layer1",))
    model.config.teacher_weights = "/nowhere/teacher.pth"
    save(path, Artifact(model, (32, 32), np.empty(0), 0.01, None, {}))
    loaded = load(path)
    assert loaded.model.config.teacher_weights == "/nowhere/teacher.pth"
    teacher = loaded.model.teacher.state_dict()
    assert all(torch.equal(teacher[k], v) for k, v in model.teacher.state_dict().items())
    assert loaded.threshold is None
    assert loaded.calibration.shape == (0,)


def test_teachers_are_inside_once_and_need_no_weights(small_model, tmp_path, monkeypatch):
    """Their sources are remembered, and looked at no more."""
    monkeypatch.setenv("FASTAD_WEIGHTS", str(tmp_path / "nowhere"))
    model = copy.deepcopy(small_model)
    sources = models.without_weights(model.name)
    for number, source in enumerate(sources):
        setattr(model.config, source, "auto" if number else "/nowhere/teacher.pth")
    save(tmp_path / "d.fastad", artifact_of(model))
    loaded = load(tmp_path / "d.fastad").model
    assert loaded.config == model.config
    assert type(loaded.config) is type(model.config)
    for name, value in vars(model.config).items():
        assert type(getattr(loaded.config, name)) is type(value), name
    tensors = [v for v in model.state_dict().values()]
    weights = sum(v.numel() * v.element_size() for v in tensors)
    assert weights < (tmp_path / "d.fastad").stat().st_size < weights + 1e5


def test_channels_last_weights_are_saved(artifact, tmp_path):
    artifact.model.to(memory_format=torch.channels_last)
    save(tmp_path / "c.fastad", artifact)
    for name, tensor in load(tmp_path / "c.fastad").model.state_dict().items():
        assert torch.equal(tensor, artifact.model.state_dict()[name]), name


def test_a_failed_save_leaves_the_old_file(artifact, path):
    before = path.read_bytes()
    artifact.training = {"bad": object()}
    with pytest.raises(TypeError):
        save(path, artifact)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_a_backbone_of_your_own_cannot_be_saved(artifact, tmp_path):
    class Network(torch.nn.Conv2d):
        def forward(self, images):
            return [super().forward(images)]

    network = Network(3, 4, 3)
    model = models.STPM(models.STPMConfig(backbone=network))
    with pytest.raises(ValueError, match="whose backbone is a Network cannot be saved"):
        save(tmp_path / "x.fastad", Artifact(model, (8, 8), np.empty(0), 0.01, None, {}))


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no detector file .*x\.fastad"):
        load(tmp_path / "x.fastad")
    with pytest.raises(ArtifactError, match="is a folder"):
        load(tmp_path)


@pytest.mark.parametrize("keep", [0, 4, 8, 500, 0.2, 0.5, 0.999])
def test_truncated(path, keep):
    data = path.read_bytes()
    path.write_bytes(data[: keep if isinstance(keep, int) else int(len(data) * keep)])
    text = r"d\.fastad is no fastad detector, or damaged: it is not whole, copy it again$"
    with pytest.raises(ArtifactError, match=text):
        load(path)


@pytest.mark.parametrize("content", [b"path,score\na.png,0.5\n", b"\xff" * 1000, bytes(9)])
def test_a_file_of_another_kind_is_called_so(path, content):
    path.write_bytes(content)
    with pytest.raises(ArtifactError) as caught:
        load(path)
    assert str(caught.value) == f"{path} is no fastad detector, but a file of another kind"


@pytest.mark.parametrize("content", [b"hello", b"\xff" * 1000, b"\x80\x02}q\x00."])
def test_foreign(path, content):
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"d\.fastad is no fastad detector"):
        load(path)


def test_other_safetensors_file(path):
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(ArtifactError, match=r"d\.fastad is a safetensors file, but no fastad"):
        load(path)


def test_a_flipped_bit_in_the_weights(path):
    data = bytearray(path.read_bytes())
    data[-1000] ^= 1
    path.write_bytes(data)
    with pytest.raises(ArtifactError, match=r"d\.fastad is damaged: its checksum"):
        load(path)


def test_a_changed_threshold_is_noticed(path):
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    metadata["detector"] = metadata["detector"].replace('"threshold": 0.33', '"threshold": 0.93')
    rewrite(path, **metadata)
    with pytest.raises(ArtifactError, match=r"d\.fastad is damaged: its checksum"):
        load(path)


def test_newer_format(path):
    rewrite(path, format_version="2")
    with pytest.raises(ArtifactError, match=r"newer fastad \(format 2, .* up to 1\): update"):
        load(path)


@pytest.mark.parametrize(
    "changes",
    [
        {"detector": None},
        {"detector": "not json"},
        {"detector": "[]"},
        {"format_version": None},
        {"format_version": "x"},
        {"sha256": None},
    ],
)
def test_metadata_that_makes_no_sense(path, changes):
    rewrite(path, **changes)
    with pytest.raises(ArtifactError, match=r"d\.fastad cannot be read as a detector"):
        load(path)


@pytest.mark.parametrize(
    ("key", "value", "match"),
    [
        ("model", "future_model", "unknown model 'future_model'"),
        ("config", {"teacher_weights": None}, "KeyError|Missing key|state_dict"),
        ("config", {"teacher_weights": None, "unknown": 1}, "unknown option 'unknown'"),
        ("image_size", [32], "ValueError"),
    ],
)
def test_content_that_does_not_fit(path, key, value, match):
    with safe_open(path, framework="pt") as file:
        content = json.loads(file.metadata()["detector"])
    content[key] = value
    rewrite(path, detector=json.dumps(content))
    with pytest.raises(ArtifactError, match=match):
        load(path)
