"""Textures on which a student must not follow its teacher: what they are, and what they change."""

import pytest
import torch

from fastad import models
from fastad.data.synthesis import Corrupted, Foreign, Variants
from fastad.training import Trainer, TrainingConfig
from fastad.training.batches import read_batch, to_device
from fastad.training.stages import plan_stages

IMAGES = torch.randint(
    0, 256, (8, 3, 80, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
)
OPTIONS = {"epochs": 3, "batch_size": 4, "precision": "float32", "device": "cpu"}


def test_textures_change_with_the_epoch_and_images_do_not():
    first, second, again = (read_batch(Foreign(IMAGES, 3), range(8), epoch=e) for e in (1, 2, 1))
    assert torch.equal(first["image"], IMAGES)
    assert first["foreign"].shape == (8, 3, 40, 32)
    assert torch.equal(first["foreign"], again["foreign"])
    assert not torch.equal(first["foreign"], second["foreign"])
    floating = Foreign(IMAGES.float() / 255, 3)
    placed = to_device(read_batch(floating, [2, 3]), torch.device("cpu"), torch.channels_last)
    assert torch.equal(placed["image"], floating.images[2:4])
    assert 0.1 < placed["foreign"].mean() < 0.9


def test_beside_defects_and_variants():
    made = Corrupted(Variants(IMAGES, torch.arange(8), 1, 5), range(16), 1.0)
    dataset = Foreign(made, 3)
    first, second = (read_batch(dataset, range(16), epoch=epoch) for epoch in (1, 2))
    assert dataset.is_fixed
    assert torch.equal(first["image"], second["image"])
    assert not torch.equal(first["corrupted"], second["corrupted"])
    assert first["foreign"].shape == (16, 3, 40, 32)


@pytest.mark.parametrize("name", ["stpm", "rstpm"])
def test_loss_is_the_positive_cosine_of_the_first_pair(name):
    torch.manual_seed(0)
    options = {"teacher_weights": "embedded"} if name == "stpm" else {}
    model = models.build(name, **options).train()
    model.enter_stage(model.stages[0])
    image, foreign = torch.rand(2, 3, 64, 64), torch.rand(3, 3, 32, 48)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with torch.no_grad():
        plain = model.loss({"image": image})
        model.load_state_dict(before)
        found = model.loss({"image": image, "foreign": foreign})
        statistics = {k: v.clone() for k, v in model.state_dict().items()}
        model.eval()
        if name == "stpm":
            teacher, student = model.features(foreign)
        else:
            teacher, student = (x[:3] for x in model.extract_pair(model.normalize(foreign)))
    cosines = (
        torch.nn.functional.cosine_similarity(t.double(), s.double())
        for t, s in zip(teacher, student, strict=True)
    )
    expected = sum(c.clamp_min(0).mean() for c in cosines)
    assert found["foreign"] == pytest.approx(expected.item(), rel=1e-4)
    assert found.keys() - plain.keys() == {"foreign"}
    assert all(found[key] == plain[key] for key in plain)
    model.load_state_dict(before)
    model.train()
    with torch.no_grad():
        model.loss({"image": image})
    assert all(torch.equal(v, statistics[k]) for k, v in model.state_dict().items())


def test_training_turns_the_student_away_from_textures():
    agreements = []
    for foreign in (False, True):
        torch.manual_seed(0)
        model = models.build("stpm", teacher_weights="embedded")
        config = TrainingConfig.for_model(model, foreign=foreign, **OPTIONS)
        record = Trainer(model, config).fit(IMAGES)
        assert ("foreign" in record.stages[0].losses[-1]) is foreign
        model.eval()
        with torch.no_grad():
            textures = read_batch(Foreign(IMAGES, 9), range(8))["foreign"].float() / 255
            agreements.append(model.loss({"image": textures, "foreign": textures})["foreign"])
    assert agreements[1] < agreements[0] - 0.1


def test_features_are_kept_once_and_other_models_refuse():
    model = models.build("stpm", teacher_weights="embedded")
    config = TrainingConfig.for_model(model, foreign=True, **OPTIONS)
    [plan] = plan_stages(model, config, IMAGES, torch.arange(6), torch.arange(6, 8))
    assert isinstance(plan.train_set, Foreign)
    assert plan.validation_set is plan.train_set
    with pytest.raises(ValueError, match="foreign: the training of patchcore has no use for it"):
        TrainingConfig.for_model(models.MODELS["patchcore"], foreign=True)
    with pytest.raises(ValueError, match="foreign"):
        TrainingConfig(foreign=2)
