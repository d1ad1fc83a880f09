"""Defects that only the student sees: where they are, when they change, what stays clean."""

import pytest
import torch

from fastad import models, ops
from fastad.data.synthesis import Corrupted, Variants
from fastad.training import Trainer, TrainingConfig
from fastad.training.batches import read_batch, to_device
from fastad.training.stages import plan_stages

IMAGES = torch.randint(
    0, 256, (10, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
)
OPTIONS = {"epochs": 2, "batch_size": 4, "precision": "float32", "device": "cpu"}


def test_defects_change_with_the_epoch_and_images_do_not():
    dataset = Corrupted(IMAGES, range(8), 1.0, seed=3)
    first, second = (read_batch(dataset, range(10), epoch=epoch) for epoch in (1, 2))
    assert torch.equal(first["image"], IMAGES)
    assert torch.equal(second["image"], IMAGES)
    changed = (first["corrupted"] != IMAGES).flatten(1).any(1)
    assert changed.tolist() == [True] * 8 + [False] * 2  # held-out ones stay as they are
    assert (first["corrupted"] != second["corrupted"]).flatten(1).any(1)[:8].all()
    again = read_batch(Corrupted(list(IMAGES), range(8), 1.0, seed=3), [5], epoch=2)
    assert torch.equal(again["corrupted"][0], second["corrupted"][5])


def test_the_share_is_kept_and_the_region_too():
    import numpy as np

    inside = np.zeros((32, 32), bool)
    inside[:, 20:] = True
    dataset = Corrupted(IMAGES, range(10), 0.3, inside=inside)
    drawn = torch.stack([read_batch(dataset, range(10), epoch=e)["corrupted"] for e in range(40)])
    changed = (drawn != IMAGES).any(2)
    assert changed.flatten(2).any(2).double().mean() == pytest.approx(0.3, abs=0.07)
    assert not changed[..., :20].any()


def test_on_the_device_both_are_floating():
    batch = read_batch(Corrupted(IMAGES, range(10), 1.0), [0, 1])
    placed = to_device(batch, torch.device("cpu"), torch.channels_last)
    assert torch.equal(placed["corrupted"], batch["corrupted"].float() / 255)
    assert torch.equal(placed["image"], batch["image"].float() / 255)


@pytest.mark.parametrize("name", ["stpm", "rstpm"])
def test_the_student_sees_the_defect_and_the_teacher_does_not(name):
    torch.manual_seed(0)
    model = models.build(name).eval() if name == "rstpm" else models.build(name, **EMBEDDED).eval()
    model.enter_stage(model.stages[0])
    clean, corrupted = torch.rand(2, 3, 64, 64), torch.rand(2, 3, 64, 64)
    features = model.teacher_features(clean)
    seen = []
    student = model.student if name == "stpm" else model.student1
    student.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        found = model.loss({"image": clean, "corrupted": corrupted, **features})
        plain = model.loss({"image": clean, **features})
    assert torch.equal(seen[0], model.normalize(corrupted))
    assert torch.equal(seen[1], model.normalize(clean))
    if name == "rstpm":
        assert found["pair1"] != plain["pair1"]
        assert found["pair2"] == plain["pair2"]
    else:
        assert found["distillation"] != plain["distillation"]


EMBEDDED = {"teacher_weights": "embedded"}


def test_plans_have_them_with_variants_and_keep_the_held_out_clean():
    model = models.build("stpm", **EMBEDDED)
    config = TrainingConfig.for_model(model, corrupt=1.0, variants=1, **OPTIONS)
    [plan] = plan_stages(model, config, IMAGES, torch.arange(6), torch.arange(6, 10))
    batch = read_batch(plan.train_set, range(16), epoch=1)
    changed = (batch["corrupted"] != batch["image"]).flatten(1).any(1)
    assert changed.tolist() == [True] * 6 + [False] * 4 + [True] * 6
    assert isinstance(plan.train_set, Corrupted)
    assert not isinstance(plan.train_set, Variants)


def test_trainings_are_the_same_with_and_without_kept_features():
    states = []
    for cache, share in ((8.0, 0.5), (0.0, 0.5), (8.0, 0.0)):
        torch.manual_seed(0)
        model = models.build("stpm", **EMBEDDED)
        changes = {"corrupt": share, "feature_cache_gib": cache}
        Trainer(model, TrainingConfig.for_model(model, **OPTIONS, **changes)).fit(IMAGES)
        states.append([value.numpy().tobytes() for value in model.student.state_dict().values()])
    assert states[0] == states[1]
    assert states[0] != states[2]


def test_models_without_use_for_it_refuse_it():
    with pytest.raises(ValueError, match="corrupt: the training of patchcore has no use for it"):
        TrainingConfig.for_model(models.PatchCore, corrupt=0.5)
    with pytest.raises(ValueError, match=r"corrupt must be from 0 to 1; got 1\.5"):
        TrainingConfig(corrupt=1.5)


@pytest.mark.parametrize("name", ["stpm", "rstpm"])
def test_only_hard_distances_count(name):
    torch.manual_seed(0)
    model = models.build(name).eval() if name == "rstpm" else models.build(name, **EMBEDDED).eval()
    model.enter_stage(model.stages[0])
    batch = {"image": torch.rand(2, 3, 64, 64)}
    with torch.no_grad():
        model.config.hard = 0.0
        plain = sum(model.loss(batch).values())
        model.config.hard = 0.9
        found = sum(model.loss(batch).values())
        teachers, students = model.features(batch["image"])
        expected = ops.reference.distillation_loss(
            [t.double() for t in teachers], [s.double() for s in students], hard=0.9
        )
    assert found > 1.1 * plain
    torch.testing.assert_close(found.double(), 2 * expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize("value", [1, -0.1, "all"])
def test_a_quantile_that_is_none_is_refused(value):
    for name in ("stpm", "rstpm"):
        with pytest.raises(ValueError, match=r"hard must be in \[0, 1\)"):
            models.build(name, hard=value)
