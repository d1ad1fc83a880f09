"""Teachers' features computed once give the same training as those computed in every step."""

import errno
import tempfile

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

from fastad import models
from fastad.data import ImageDataset
from fastad.training import Trainer, TrainingConfig, on_disk
from fastad.training import features as feature_module
from fastad.training import trainer as trainer_module
from fastad.training.batches import is_fixed
from fastad.training.features import TeacherFeatures, as_kept, memory_limit

AT_THE_END = 3 * 8  # of the training images: for the subspace, the memory and the means of the maps


class Counting(nn.Module):
    """A teacher that counts the images it saw."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.seen = 0

    def forward(self, images):
        self.seen += len(images)
        features = self.conv(images)
        return [features, nn.functional.avg_pool2d(features, 2)]


class Varying(Dataset):
    """Another image on every access."""

    def __len__(self):
        return 10

    def __getitem__(self, index):
        return torch.rand(3, 16, 16)


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (10, 3, 16, 16), dtype=torch.uint8, generator=generator)


def train(dataset, **changes):
    torch.manual_seed(0)
    teacher = Counting()
    model = models.build("stpm", backbone=teacher)
    teacher.seen = 0  # after one image that shows its channels
    options = {"epochs": 3, "batch_size": 4, "device": "cpu", "precision": "float32", **changes}
    record = Trainer(model, TrainingConfig.for_model(model, **options)).fit(dataset)
    return model, record, teacher.seen


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.filterwarnings("ignore:this CPU has no bfloat16 units")
def test_training_is_the_same_with_kept_features(images, precision):
    kept, kept_record, seen = train(images, precision=precision)
    computed, record, seen_without = train(images, precision=precision, feature_cache_gib=0)
    assert seen == len(images)
    assert seen_without == 3 * len(images) + AT_THE_END
    torch.testing.assert_close(kept_record.losses, record.losses, rtol=1e-5, atol=0)
    torch.testing.assert_close(
        kept_record.validation_scores, record.validation_scores, rtol=1e-5, atol=0
    )
    for key, value in computed.state_dict().items():
        torch.testing.assert_close(kept.state_dict()[key], value, rtol=1e-4, atol=1e-6)


def test_images_that_change_have_their_features_computed_in_every_step():
    _, _, seen = train(Varying())
    assert seen == 3 * 10 + AT_THE_END


def test_features_beyond_the_memory_allowed_are_not_kept(images):
    # 8 channels of 8x8 and of 4x4, kept as float16, ten images
    needed = 10 * 8 * (64 + 16) * 2
    _, _, seen = train(images, feature_cache_gib=needed / 2**30)
    assert seen == len(images)
    _, _, seen = train(images, feature_cache_gib=(needed - 1) / 2**30, feature_disk_gib=0)
    assert seen > 3 * len(images)


def test_features_are_those_of_the_images_asked_for(images):
    model = models.build("stpm", backbone=Counting())

    def load(indices):
        return {"image": images[indices].float() / 255}

    batches = ((indices, load(indices)) for indices in torch.arange(len(images)).split(3))
    features = TeacherFeatures(model, batches, len(images), 1e9)
    assert features.bytes == 10 * 8 * (64 + 16) * 2
    wanted = torch.tensor([7, 0, 9, 7])
    expected = model.teacher_features(load(wanted)["image"])["teacher"]
    got = features.of(wanted)["teacher"]
    assert [g.shape for g in got] == [e.shape for e in expected]
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=2**-11, atol=1e-7)
        assert one.dtype == other.dtype == torch.float32
        assert one.is_contiguous(memory_format=torch.channels_last)
        assert not one.is_inference()


@pytest.mark.parametrize("scale", [1e-7, 1e-3, 1.0, 1e4, 1e8])
def test_what_float16_cannot_hold_stays_float32(images, scale):
    """Kept or rounded in every step: the same values."""

    class Scaled(Counting):
        def forward(self, images):
            return [scale * level for level in super().forward(images)]

    model = models.build("stpm", backbone=Scaled())
    batch = {"image": images.float() / 255}
    features = TeacherFeatures(model, [(torch.arange(10), batch)], len(images), 1e9)
    held = scale in (1e-3, 1.0, 1e4)
    assert features.bytes == 10 * 8 * (64 + 16) * (2 if held else 4)
    exact = model.teacher_features(batch["image"])
    got, rounded = features.of(torch.arange(10))["teacher"], as_kept(exact)["teacher"]
    for one, two, true in zip(got, rounded, exact["teacher"], strict=True):
        assert torch.equal(one, two)
        assert one.dtype == two.dtype == torch.float32
        assert torch.equal(one, true) == (not held)
        assert (one - true).norm() <= 2**-11 * true.norm()


def test_one_batch_that_float16_cannot_hold_leaves_the_others_as_they_are():
    class Levels(nn.Module):
        def forward(self, images):
            return [images]

    model = models.build("stpm", backbone=Levels(), student=nn.Conv2d(3, 3, 1))
    model.normalize = lambda images: images
    images = torch.rand(4, 3, 2, 2)
    images[2:] *= 1e6
    batches = [(torch.arange(i, i + 2), {"image": images[i : i + 2]}) for i in (0, 2)]
    [got] = TeacherFeatures(model, batches, 4, 1e9).of(torch.arange(4))["teacher"]
    assert torch.equal(got[:2], images[:2].half().float())
    assert torch.equal(got[2:], images[2:])


def test_entries_are_kept_beside_the_features(images):
    model = models.build("stpm", backbone=Counting())
    masks = torch.rand(10, 16, 16) > 0.5
    batch = {"image": images.float() / 255, "mask": masks, "other": torch.arange(10)}
    features = TeacherFeatures(model, [(torch.arange(10), batch)], 10, 1e9, entries=("mask",))
    got = features.of(torch.tensor([7, 2]))
    assert set(got) == {"teacher", "mask"}
    assert torch.equal(got["mask"], masks[[7, 2]])
    assert got["mask"].dtype == torch.bool
    assert features.bytes == 10 * 8 * (64 + 16) * 2 + masks.nbytes


def test_at_most_half_of_the_memory_is_taken(monkeypatch, tmp_path):
    cpu = torch.device("cpu")
    pages = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 1 << 20}
    monkeypatch.setattr(feature_module.os, "sysconf", pages.__getitem__)
    monkeypatch.setattr(feature_module, "_CGROUP_LIMITS", (str(tmp_path / "limit"),))
    assert memory_limit(cpu) == 2**31
    (tmp_path / "limit").write_text("max\n")
    assert memory_limit(cpu) == 2**31
    (tmp_path / "limit").write_text(f"{2**30}\n")
    assert memory_limit(cpu) == 2**29

    def fail(name):
        raise ValueError("unrecognized configuration name")

    monkeypatch.setattr(feature_module.os, "sysconf", fail)
    assert memory_limit(cpu) == 2**29
    (tmp_path / "limit").unlink()
    assert memory_limit(cpu) == float("inf")


def test_a_machine_with_little_memory_keeps_no_features(images, monkeypatch):
    monkeypatch.setattr(trainer_module, "memory_limit", lambda device: 1000.0)
    assert train(images, feature_disk_gib=0)[2] > 3 * len(images)


SMALL = 1000 / 2**30  # GiB that the features of the images do not fit into


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """The folder for temporary files."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(on_disk, "MOUNTS", "nowhere")
    return tmp_path


def test_training_is_the_same_with_features_on_disk(images, temporary, caplog):
    with caplog.at_level("DEBUG", "fastad"):
        mapped, record, seen = train(images, feature_cache_gib=SMALL)
    assert seen == len(images)
    assert any("kept on disk" in message for message in caplog.messages)
    assert not list(temporary.iterdir())
    kept, expected, _ = train(images)
    assert record.losses == expected.losses
    for key, value in kept.state_dict().items():
        assert torch.equal(mapped.state_dict()[key], value), key


@pytest.mark.parametrize("obstacle", ["full", "in memory", "no folder", "too little"])
def test_without_room_on_disk_features_are_computed_in_every_step(
    images, temporary, monkeypatch, caplog, obstacle
):
    options = {}
    if obstacle == "full":

        def full(*arguments):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(on_disk.os, "posix_fallocate", full)
    elif obstacle == "in memory":
        (temporary / "mounts").write_text(f"disk / ext4 rw 0 0\nmemory {temporary} tmpfs rw 0 0\n")
        monkeypatch.setattr(on_disk, "MOUNTS", str(temporary / "mounts"))
    elif obstacle == "no folder":
        monkeypatch.setattr(tempfile, "tempdir", str(temporary / "gone"))
    else:
        options["feature_disk_gib"] = SMALL
    with caplog.at_level("INFO", "fastad"):
        assert train(images, feature_cache_gib=SMALL, **options)[2] >= 3 * len(images)
    said = [message for message in caplog.messages if "in every step: " in message]
    assert len(said) == (0 if options else 1)
    assert not list(temporary.glob("fastad*"))


@pytest.mark.parametrize("scale", [1.0, 1e8])
def test_features_on_disk_are_those_in_memory(images, temporary, scale):
    """Also where a level turns out to need float32."""

    class Levels(nn.Module):
        def forward(self, images):
            return [images if images.shape[0] == 4 else scale * images]

    model = models.build("stpm", backbone=Levels(), student=nn.Identity())
    batches = [
        (indices, {"image": images[indices].float() / 255}) for indices in torch.arange(10).split(4)
    ]
    [memory] = TeacherFeatures(model, batches, 10, 1e9).of(torch.arange(10))["teacher"]
    features = TeacherFeatures(model, batches, 10, 10.0, 1e9)
    assert features.on_disk
    [disk] = features.of(torch.arange(10))["teacher"]
    assert torch.equal(memory, disk)


def test_what_is_fixed(images, tmp_path):
    from PIL import Image

    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    assert is_fixed(images)
    assert is_fixed(ImageDataset([tmp_path / "a.png"], 4))
    assert not is_fixed(Varying())
    assert not is_fixed([images[0]])
