"""Copies of a model in training: as good as the model, as it is now, and apart from it."""

import pytest
import torch

from fastad import models
from fastad.engine.fast_copy import FastCopy
from fastad.training import Trainer, TrainingConfig, judging

IMAGES = torch.randint(
    0, 256, (30, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
)


def near(found, expected):
    """Level maps of pair 1 of 16-bit products beside those in float32."""
    for a, b in zip(found[:3], expected[:3], strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=2e-3 * float(b.max()))


@pytest.mark.parametrize("name", ["stpm", "rstpm"])
def test_copy_follows_what_is_trained(name):
    torch.manual_seed(0)
    options = {"discriminator_width": 8, "teacher2": "resnet18"} if name == "rstpm" else {}
    model = models.build(name, **models.without_weights(name), **options).eval()
    model.enter_stage(model.stages[0])
    fast, images = FastCopy("auto"), torch.rand(2, 3, 64, 64)
    batches = {"image": images, **model.teacher_features(images)}
    for _ in range(2):
        copy = fast(model)
        with torch.no_grad():
            expected = model.level_maps(batches)
            near(copy.level_maps(batches), expected)
            near(copy.level_maps({"image": images}), expected)
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.mul_(1 + 0.1 * torch.randn_like(parameter))
            model.distance_means.uniform_(0.5, 1.5)
        assert not torch.equal(copy.level_maps(batches)[0], model.level_maps(batches)[0])
    assert torch.equal(fast(model).distance_means, model.distance_means)
    if name == "rstpm":
        model.enter_stage(model.stages[1])
        assert fast(model) is not copy  # other parts are trained now


def test_other_precisions_and_networks_have_none():
    model = models.build("stpm", **models.without_weights("stpm"))
    assert FastCopy("bfloat16")(model) is None
    own = torch.nn.ModuleDict({"layer1": torch.nn.Conv2d(3, 8, 3)})
    own.stage = None
    assert FastCopy("float32")(own) is None


def test_a_training_is_judged_alike(monkeypatch):
    found = {}
    monkeypatch.setattr(judging, "WORTH_A_COPY", 0)
    looks = []
    ready = judging.Judge.ready
    monkeypatch.setattr(
        judging.Judge, "ready", lambda judge: looks.append(ready(judge)) or looks[-1]
    )
    for fast in (None, FastCopy("float32")):
        torch.manual_seed(0)
        model = models.build("stpm", teacher_weights="embedded")
        config = TrainingConfig.for_model(
            model, epochs=3, batch_size=8, precision="float32", device="cpu"
        )
        record = Trainer(model, config, fast_copy=fast).fit(IMAGES)
        stage = record.stages[0]
        found[fast] = stage.losses, stage.validation_scores, stage.qualities
    assert [look.is_copy for look in looks] == [False] * 3 + [True] * 3
    plain, copied = found.values()
    assert plain[0] == copied[0]
    assert copied[1] == pytest.approx(plain[1], rel=1e-3)
    assert copied[2] == pytest.approx(plain[2], abs=0.02)
