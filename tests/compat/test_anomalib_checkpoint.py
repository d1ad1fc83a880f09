"""Checkpoints of anomalib: what is read, what is said, and that nothing in them runs."""

import os
import pickle
import zipfile

import anomalib_files as written
import numpy as np
import pytest
import torch

import fastad
from fastad.compat import anomalib

WRITERS = {".ckpt": written.write_ckpt, ".pt": written.write_pt}


@pytest.fixture(scope="module")
def model():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = written.Stfpm().eval()
        for name, value in model.state_dict().items():
            if "running_var" in name:
                value.uniform_(0.5, 2)
        return model


@pytest.fixture(scope="module", params=WRITERS)
def file(request, model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("anomalib")
    return WRITERS[request.param](folder / f"model{request.param}", model)


@pytest.fixture(scope="module")
def good():
    return np.random.default_rng(0).integers(80, 120, (12, 72, 64, 3), dtype=np.uint8)


def test_what_is_read(file, model):
    found = anomalib.read_checkpoint(file)
    assert (found.backbone, found.layers) == ("resnet18", written.LAYERS)
    assert (found.image_size, found.differences) == ((64, 96), [])
    assert (found.image_threshold, found.pixel_threshold) == (0.25, 0.25)
    for own, name in ((found.teacher, "teacher_model"), (found.student, "student_model")):
        expected = model.model.get_submodule(name).feature_extractor.state_dict()
        assert own.keys() == expected.keys()
        assert all(torch.equal(own[key], expected[key]) for key in own)


def test_the_detector_answers_as_the_model(file, model, good, tmp_path):
    detector = anomalib.import_checkpoint(file, good, false_positive_rate=0.1, device="cpu")
    assert (detector.image_size_, len(detector.calibration_scores_)) == ((64, 96), 12)
    assert detector.threshold_ >= np.sort(detector.calibration_scores_)[-2]
    images = torch.rand(2, 3, 64, 96)
    mean, std = (
        torch.tensor(v)[:, None, None] for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    )
    with torch.no_grad():
        expected = model.model((images - mean) / std)[:, 0]
        found = detector.model_(images)
    assert (found.anomaly_map - expected).abs().max() <= 1e-5 * expected.max()
    assert torch.equal(found.score, found.anomaly_map.amax(dim=(1, 2)))
    detector.save(tmp_path / "part.fastad")
    again = fastad.load(tmp_path / "part.fastad", device="cpu")
    assert np.array_equal(again.predict(good[:2]).score, detector.predict(good[:2]).score)
    assert again.training_record_["imported_from"] == file.name
    assert "which images anomalib trained on is not known" in again.training_record_["notes"][0]


def test_thresholds_may_be_kept(file, good):
    detector = anomalib.import_checkpoint(file, keep_thresholds=True)
    assert (detector.threshold_, detector.pixel_threshold_) == (0.25, 0.25)
    assert detector.false_positive_rate_ is None
    detector = anomalib.import_checkpoint(file, good, keep_thresholds=True, false_positive_rate=0.1)
    assert (detector.threshold_, len(detector.calibration_scores_)) == (0.25, 12)
    with pytest.raises(ValueError, match="calibrate: give good images for a threshold"):
        anomalib.import_checkpoint(file)


@pytest.mark.parametrize("suffix", WRITERS)
def test_differences_are_said(suffix, tmp_path, caplog):
    steps = written.Resize([64, 64], antialias=False), written.CenterCrop([48, 48])
    file = WRITERS[suffix](tmp_path / f"m{suffix}", written.Stfpm(*steps, written.Normalize()))
    detector = anomalib.import_checkpoint(file, keep_thresholds=True, image_size=32)
    first, second, third = detector.training_record_["notes"]
    assert first.startswith("the file's Resize is not antialiased, fastad's is")
    assert second == "the file's transform has CenterCrop, which fastad leaves out"
    assert third == "images are resized to 32x32, the file's are to 64x64"
    assert [r.getMessage() for r in caplog.records] == [first, second, third]


def test_a_file_without_a_transform(model, tmp_path):
    file = written.write_ckpt(tmp_path / "old.ckpt", model, with_transform=False)
    found = anomalib.read_checkpoint(file)
    assert found.image_size == (256, 256)
    assert "the file has no transform, so its image size is not known" in found.differences[0]


@pytest.mark.parametrize("suffix", WRITERS)
@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"steps": [written.Normalize(mean=(0.5, 0.5, 0.5))]}, r"normalises by the mean \[0.5, "),
        ({"steps": [written.Resize(64)]}, "resizes to no fixed size; give one"),
        ({"backbone": "efficientnet_b0"}, "its backbone is 'efficientnet_b0'; resnet18, resnet34"),
        ({"backbone": "resnet34"}, r"layer1\.2\.conv1\.weight of the teacher is missing; resnet34"),
        ({"threshold": float("nan")}, "has none, as it was never validated"),
    ],
)
def test_what_cannot_be_imported(suffix, given, said, tmp_path):
    options = {key: value for key, value in given.items() if key != "steps"}
    foreign = written.Stfpm(*given.get("steps", ()), **options)
    file = WRITERS[suffix](tmp_path / f"model{suffix}", foreign)
    with pytest.raises(ValueError, match=said) as error:
        anomalib.import_checkpoint(file, keep_thresholds=True)
    assert str(file) in str(error.value)


def test_files_of_another_kind(tmp_path):
    for name, content in (("text.ckpt", b"no checkpoint"), ("empty.pt", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"{name} cannot be read as a checkpoint"):
            anomalib.read_checkpoint(tmp_path / name)
    torch.save({"state_dict": {"model.encoder.conv1.weight": torch.ones(1)}}, tmp_path / "rd.ckpt")
    with pytest.raises(ValueError, match=r"no teacher and student .* it holds model\.encoder"):
        anomalib.read_checkpoint(tmp_path / "rd.ckpt")
    for odd in ([1, 2], {"state_dict": 3}, {"model": torch.ones(2)}, torch.ones(3)):
        torch.save(odd, tmp_path / "odd.ckpt")
        with pytest.raises(ValueError, match="it holds no tensors"):
            anomalib.read_checkpoint(tmp_path / "odd.ckpt")
    with pytest.raises(FileNotFoundError, match=r"there is no file .*none\.ckpt"):
        anomalib.read_checkpoint(tmp_path / "none.ckpt")


class Call:
    """Calls a function with arguments where it is unpickled."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


HOSTILE = {
    "os.system": lambda mark: Call(os.system, f"touch {mark}"),
    "eval": lambda mark: Call(eval, f"open({str(mark)!r}, 'w').close()"),
    "exec": lambda mark: Call(exec, f"open({str(mark)!r}, 'w').close()"),
    "open": lambda mark: Call(open, str(mark), "w"),
    "torch.save": lambda mark: Call(torch.save, {}, str(mark)),
    "getattr": lambda mark: Call(getattr, Call(__import__, "os"), "system"),
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("place", ["hyper_parameters", "model", "state_dict"])
def test_a_hostile_file_runs_nothing(name, place, tmp_path, monkeypatch):
    mark, file = tmp_path / "it_ran", tmp_path / "model.ckpt"
    torch.save({place: HOSTILE[name](mark)}, file)
    with pytest.raises(ValueError, match=r"model\.ckpt"):
        anomalib.read_checkpoint(file)
    assert not mark.exists()


def test_a_hostile_part_of_a_whole_file_runs_nothing(model, tmp_path):
    mark, file = tmp_path / "it_ran", tmp_path / "model.ckpt"
    content = {
        "state_dict": model.state_dict(),
        "hyper_parameters": {"backbone": "resnet18", "layers": list(written.LAYERS)},
        "callbacks": {"mine": HOSTILE["eval"](mark)},
    }
    torch.save(content, file)
    assert anomalib.read_checkpoint(file).backbone == "resnet18"
    assert not mark.exists()


def test_a_module_of_the_file_is_never_imported(tmp_path, monkeypatch):
    mark = tmp_path / "it_ran"
    (tmp_path / "trap.py").write_text(f"open({str(mark)!r}, 'w').close()\nclass Trap: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "model.pt"
    torch.save({"model": 0}, file)
    parts = {i: zipfile.ZipFile(file).read(i) for i in zipfile.ZipFile(file).namelist()}
    with zipfile.ZipFile(file, "w") as archive:
        for entry, content in parts.items():
            hostile = b"\x80\x02}X\x05\x00\x00\x00modelctrap\nTrap\n)\x81s."
            archive.writestr(entry, hostile if entry.endswith("data.pkl") else content)
    with pytest.raises(ValueError, match=r"model\.pt holds no teacher"):
        anomalib.read_checkpoint(file)
    assert not mark.exists()
    with zipfile.ZipFile(file) as archive:  # the trap is one
        [entry] = [name for name in archive.namelist() if name.endswith("data.pkl")]
        assert type(pickle.loads(archive.read(entry))["model"]).__name__ == "Trap"
    assert mark.exists()
