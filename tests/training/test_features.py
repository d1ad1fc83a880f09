"""Teachers' features computed once give the same training as those computed in every step."""

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

from fastad import models
from fastad.data import ImageDataset
from fastad.training import Trainer, TrainingConfig
from fastad.training.batches import is_fixed
from fastad.training.features import TeacherFeatures


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
    options = {"epochs": 3, "batch_size": 4, "device": "cpu", "precision": "float32", **changes}
    record = Trainer(model, TrainingConfig.for_model(model, **options)).fit(dataset)
    return model, record, teacher.seen


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.filterwarnings("ignore:this CPU has no bfloat16 units")
def test_training_is_the_same_with_kept_features(images, precision):
    kept, kept_record, seen = train(images, precision=precision)
    computed, record, seen_without = train(images, precision=precision, feature_cache_gib=0)
    assert seen == len(images)
    assert seen_without == 3 * len(images)
    # Kept features are rounded to float16.
    torch.testing.assert_close(kept_record.losses, record.losses, rtol=1e-4, atol=0)
    torch.testing.assert_close(
        kept_record.validation_scores, record.validation_scores, rtol=2e-4, atol=0
    )
    for key, value in computed.state_dict().items():
        torch.testing.assert_close(kept.state_dict()[key], value, rtol=1e-3, atol=3e-4)


def test_images_that_change_have_their_features_computed_in_every_step():
    _, _, seen = train(Varying())
    assert seen == 3 * 10


def test_features_beyond_the_memory_allowed_are_not_kept(images):
    # 8 channels of 8x8 and of 4x4, kept as float16, ten images
    needed = 10 * 8 * (64 + 16) * 2
    _, _, seen = train(images, feature_cache_gib=needed / 2**30)
    assert seen == len(images)
    _, _, seen = train(images, feature_cache_gib=(needed - 1) / 2**30)
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


def test_what_is_fixed(images, tmp_path):
    from PIL import Image

    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    assert is_fixed(images)
    assert is_fixed(ImageDataset([tmp_path / "a.png"], 4))
    assert not is_fixed(Varying())
    assert not is_fixed([images[0]])
