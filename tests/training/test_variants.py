"""Training images under other conditions: who sees them, how often, and that nothing else does."""

import pytest
import torch

from fastad import models
from fastad.training import CheckpointError, Trainer, TrainingConfig
from fastad.training.batches import one_variant_each
from fastad.training.stages import plan_stages

IMAGES = torch.randint(
    0, 256, (10, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
)


def small_stpm():
    torch.manual_seed(0)
    return models.build("stpm", teacher_weights="embedded")


def trained(tmp_path=None, epochs=2, **changes):
    model = small_stpm()
    options = {"epochs": epochs, "batch_size": 4, "precision": "float32", "device": "cpu"}
    config = TrainingConfig.for_model(model, **options, **changes)
    return model, config


def test_an_epoch_takes_each_image_once_as_one_of_its_variants():
    items = torch.arange(12).view(3, 4)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.stack([one_variant_each(items, generator) for _ in range(300)])
    assert torch.equal(drawn % 4, torch.arange(4).expand(300, 4))
    shares = torch.stack([(drawn // 4 == row).double().mean(0) for row in range(3)])
    assert (shares - 1 / 3).abs().max() < 0.1
    before = generator.get_state()
    assert one_variant_each(items[0], generator) is not None
    assert torch.equal(generator.get_state(), before)  # without variants nothing is drawn


def test_held_out_images_have_no_variants():
    model, config = trained(variants=2)
    train, held_out = torch.tensor([0, 2, 3, 5, 7]), torch.tensor([1, 4, 6, 8, 9])
    [plan] = plan_stages(model, config, IMAGES, train, held_out)
    assert plan.train_items.shape == (3, 5)
    assert torch.equal(plan.train_items[0], train)
    assert torch.equal(plan.looked_at, plan.train_items.flatten())
    assert torch.equal(plan.validation_items, held_out)
    assert len(plan.images) == 10 + 2 * 5
    assert plan.validation_set is plan.train_set is plan.images
    assert all(torch.equal(plan.images[i]["image"], IMAGES[i]) for i in range(10))


def test_kept_features_are_those_of_the_variants():
    bytes_of = []
    for cache in (8.0, 0.0):
        model, config = trained(variants=2, feature_cache_gib=cache)
        record = Trainer(model, config).fit(IMAGES)
        bytes_of.append([v.numpy().tobytes() for v in model.student.state_dict().values()])
    assert record.stages[0].n_train == 8
    assert bytes_of[0] == bytes_of[1]
    model, config = trained()
    Trainer(model, config).fit(IMAGES)
    assert bytes_of[0] != [v.numpy().tobytes() for v in model.student.state_dict().values()]


def test_a_model_without_training_looks_at_all_of_them(monkeypatch):
    from fastad.models.memory.coreset import Sample

    seen = []
    add = Sample.add
    monkeypatch.setattr(Sample, "add", lambda self, rows: (seen.append(len(rows)), add(self, rows)))
    counts = []
    for variants in (0, 2):
        torch.manual_seed(0)
        model = models.build("patchcore", teacher_weights="embedded")
        config = TrainingConfig.for_model(model, variants=variants, device="cpu")
        seen.clear()
        Trainer(model, config).fit(IMAGES)
        counts.append(sum(seen))
    assert counts[1] == 3 * counts[0]


def test_an_interrupted_training_goes_on_with_the_same_variants(tmp_path):
    model, config = trained(variants=1, epochs=3)
    Trainer(model, config).fit(IMAGES)
    first, short = trained(variants=1, epochs=2)
    Trainer(first, short).fit(IMAGES, checkpoint=tmp_path / "c")
    again, _ = trained(variants=1, epochs=3)
    Trainer(again, config).fit(IMAGES, checkpoint=tmp_path / "c", resume=True)
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    other, without = trained(epochs=4)
    with pytest.raises(CheckpointError, match="variants"):
        Trainer(other, without).fit(IMAGES, checkpoint=tmp_path / "c", resume=True)
