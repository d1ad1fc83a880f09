"""PRN: its topology, loss, score and options, and the faults of public code that it has not."""

import copy

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional

from fastad import models
from fastad.models.prn.prototypes import Prototypes
from fastad.training import Trainer, TrainingConfig
from fastad.training.batches import split_indices
from fastad.training.stages import plan_stages


def small(**options):
    torch.manual_seed(0)
    given = {"bottleneck": "learned", "teacher_weights": None} | options
    return models.build("prn", **given).eval()


def images(n=2, size=64, seed=0):
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(seed))


def batch(n=2, size=64):
    mask = torch.zeros(n, size, size, dtype=torch.bool)
    mask[0, 8:24, 30:50] = True
    return {"image": images(n, size), "mask": mask}


def trained(model, pseudo_anomalies=8, epochs=1, **options):
    config = TrainingConfig.for_model(
        model, epochs=epochs, pseudo_anomalies=pseudo_anomalies, precision="float32", **options
    )
    record = Trainer(model, config).fit((255 * images(10)).to(torch.uint8))
    return model, record


def test_the_loss_is_smooth_l1_and_five_times_the_focal_loss():
    model, given = small().double(), batch()
    given["image"] = given["image"].double()
    found = model(given["image"]).anomaly_map
    mask = given["mask"].double()
    error = (found - mask).abs()
    smooth = (0.5 * error.square()).mean()  # below 1, where the loss is a parabola
    right = mask * found + (1 - mask) * (1 - found)
    focal = -0.5 * (1 - right) ** 4 * right.log()
    losses = model.loss(given)
    torch.testing.assert_close(losses["smooth_l1"], smooth)
    torch.testing.assert_close(losses["focal"], 5 * focal.mean())
    torch.testing.assert_close(model.validation_score(given).mean(), sum(losses.values()))


def test_the_score_is_the_mean_of_the_hundred_largest():
    model = small()
    with torch.no_grad():
        found = model(images(2, 256))
    expected = found.anomaly_map.flatten(1).sort(descending=True).values[:, :100].mean(dim=1)
    torch.testing.assert_close(found.score, expected)
    with torch.no_grad():
        highest = small(pooling=0)(images(2, 256))
    assert torch.equal(highest.score, highest.anomaly_map.amax((1, 2)))


def test_the_map_is_the_upsampled_probability():
    model, x = small().double(), images().double()
    logits = model.segment(model.teacher(model.normalize(x)))
    assert logits.shape == (2, 16, 16)
    up = functional.interpolate(logits[:, None], (64, 64), mode="bilinear")[:, 0]
    torch.testing.assert_close(model(x).anomaly_map, up.sigmoid())


def test_the_deepest_features_reach_the_decoder_alone():
    torch.manual_seed(0)
    model = models.build("prn", teacher_weights=None, bottleneck="layer4").double().eval()
    levels = model.teacher(model.normalize(images().double()))
    assert len(levels) == 4
    seen = []
    for fusion in (*model.fusions, model.fusion):
        fusion.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    plain = model.segment(levels)
    assert seen == [3, 3, 3]
    assert not torch.allclose(plain, model.segment([*levels[:3], levels[3].flip(0)]))


def test_it_trains_with_the_paper_s_bottleneck():
    model, record = trained(small(bottleneck="layer4"))
    assert record.epochs == 1
    assert len(model.prototypes.level2) == 1
    assert not hasattr(model.prototypes, "level3")


def test_residuals_matter():
    model, _ = trained(small())
    assert len(model.prototypes.level0) == 1  # of eight training images
    x = images()
    with torch.no_grad():
        before = model(x).anomaly_map
        other = copy.deepcopy(model)
        other.prototypes.level1.add_(1.0)
        other.prototypes.squares1.copy_(other.prototypes.level1.square().sum((1, 2, 3)))
        assert not torch.allclose(before, other(x).anomaly_map)


def test_prototypes_are_of_training_images_alone(monkeypatch):
    seen = []
    fit = Prototypes.fit

    def watch(self, batches, key, *rest, **options):
        seen.extend(torch.cat([batch["image"] for batch in batches()]))
        fit(self, batches, key, *rest, **options)

    monkeypatch.setattr(Prototypes, "fit", watch)
    model, record = trained(small(prototypes=0.5))
    kept = [i for i in range(10) if i not in record.held_out]
    expected = (255 * images(10)).to(torch.uint8)[kept] / 255
    torch.testing.assert_close(torch.stack(seen), expected)
    assert len(model.prototypes.level2) == 4


def test_the_frozen_network_does_not_drift():
    """In public code it is left in training mode, and its batch norm follows the images."""
    model = small()
    before = copy.deepcopy(model.teacher.state_dict())
    model, _ = trained(model, epochs=2)
    after = model.teacher.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    model.train()
    assert not any(module.training for module in model.teacher.modules())


def test_the_epoch_is_chosen_by_held_out_images():
    """In public code it is the one with the best score on the test set."""
    model = small()
    config = TrainingConfig.for_model(model, pseudo_anomalies=12)
    train, held_out = split_indices(20, 0.2, 0)
    (plan,) = plan_stages(model, config, torch.zeros(20, 3, 64, 64), train, held_out)
    assert set(plan.validation_set.indices) == set(held_out.tolist())
    assert set(plan.train_set.indices) <= set(train.tolist())
    assert plan.train_set.own_patches == 0.5
    assert plan.train_set.on_foreground
    assert plan.train_set.clean_share == 0.5


def test_real_defects_are_learned_from_but_choose_no_epoch(tmp_path):
    for folder, values in (("hole", 200), ("ground_truth/hole", 255)):
        pixels = np.zeros((64, 64), np.uint8)
        pixels[20:40, 20:40] = values
        (tmp_path / folder).mkdir(parents=True)
        Image.fromarray(pixels).save(tmp_path / folder / "0.png")
    model = small()
    config = TrainingConfig.for_model(model, pseudo_anomalies=12, defects=tmp_path)
    train, held_out = split_indices(20, 0.2, 0)
    (plan,) = plan_stages(model, config, torch.zeros(20, 3, 64, 64), train, held_out)
    assert len(plan.train_set.defects.paths) == 1
    assert plan.validation_set.defects is None


def test_a_module_of_one_s_own():
    class Pyramid(nn.Module):
        def __init__(self, *channels):
            super().__init__()
            pairs = zip((3, *channels), channels, strict=False)
            self.stages = nn.ModuleList(nn.Conv2d(a, b, 3, 2, 1) for a, b in pairs)

        def forward(self, x):
            return [x := stage(x).relu() for stage in self.stages]

    x = images(2, 48)
    for channels, bottleneck in (((8, 16, 32), "learned"), ((8, 16, 32, 64), "layer4")):
        model = models.build("prn", backbone=Pyramid(*channels)).eval()
        assert model.config.bottleneck == bottleneck
        with torch.no_grad():
            assert model(x).anomaly_map.shape == (2, 48, 48)
    with pytest.raises(ValueError, match="three feature maps"):
        models.build("prn", backbone=Pyramid(8, 16, 32), bottleneck="layer4")


def test_what_auto_comes_to(offline):
    model = models.build("prn")
    assert (model.config.bottleneck, model.config.teacher_weights) == ("learned", "embedded")
    assert models.build("prn", teacher_weights=None).config.bottleneck == "layer4"


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"bottleneck": "layer3"}, "bottleneck must be 'auto' or 'layer4' or 'learned'"),
        ({"prototypes": 1.5}, "prototypes must be a share from 0 to 1; got 1.5"),
        ({"residuals": "abs"}, "residuals must be 'scaled' or 'squared'; got 'abs'"),
        ({"max_prototypes": 0}, "max_prototypes must be an integer of at least 1; got 0"),
        ({"focal_gamma": -1}, "focal_gamma must be a number from 0 to 100; got -1"),
        ({"focal_alpha": float("nan")}, "focal_alpha must be a number from 0 to 1; got nan"),
        ({"pooling": "all"}, "pooling must be a share"),
        ({"backbone": "resnet19"}, "unknown backbone 'resnet19'"),
    ],
)
def test_options_that_cannot_be(options, match):
    with pytest.raises(ValueError, match=match):
        small(**options)


def test_it_learns_to_see_a_defect():
    """A few steps on one image with a bright square: the map is higher there."""
    model = small().train()
    given = batch(4)
    given["image"] = given["image"] * 0.2
    given["image"][0, :, 8:24, 30:50] = 1.0
    optimizer = torch.optim.Adam(model.student_parameters(), 1e-3)
    for _ in range(12):
        optimizer.zero_grad()
        sum(model.loss(given).values()).backward()
        optimizer.step()
    with torch.no_grad():
        found = model.train()(given["image"]).anomaly_map.numpy()
    mask = given["mask"].numpy()
    assert found[mask].mean() > np.quantile(found[~mask], 0.9)
