"""A `Calibrator` takes from images what a training took from them, and learns nothing."""

import copy

import pytest
import torch

from fastad import models
from fastad.training import Calibrator, Trainer, TrainingConfig, map_choice

OPTIONS = {
    "stpm": {"backbone": "resnet18", "layers": ("layer1", "layer2"), "standardize": "channels"},
    "gtrans": {"backbone": "resnet18", "token_width": 16, "smoothing": 1.0},
}


@pytest.fixture(autouse=True)
def few_defects(monkeypatch):
    monkeypatch.setattr(map_choice, "DEFECTS", 15)


@pytest.mark.parametrize("name", OPTIONS)
def test_on_the_same_images_it_comes_to_the_same(name):
    images = torch.randint(0, 256, (20, 3, 32, 32), dtype=torch.uint8)
    images[:, :, 8:16] //= 2  # position means differ by the place
    torch.manual_seed(0)
    model = models.build(name, **OPTIONS[name], **models.without_weights(name))
    options = {"epochs": 1, "batch_size": 4, "device": "cpu", "precision": "float32"}
    config = TrainingConfig.for_model(model, **options, validation_fraction=0.5, workers=0)
    record = Trainer(model, config).fit(images)
    trained = {key: value.clone() for key, value in model.state_dict().items()}

    other = copy.deepcopy(model)
    Calibrator(other, config).fit(images // 2)  # of another product
    assert not torch.equal(other.distance_means, trained["distance_means"])
    of_images = ("distance_means", "subspace", "memory", "composition")
    for key, value in other.state_dict().items():
        assert key.startswith(of_images) or torch.equal(value, trained[key]), key

    found = Calibrator(other, config).fit(images)
    assert found.held_out == record.held_out
    assert found.choice == record.choice
    assert found.epochs == 0
    assert [stage.epochs for stage in found.stages] == [0]
    assert other.chosen == model.chosen
    again = other.state_dict()
    assert again.keys() == trained.keys()
    for key, value in trained.items():
        torch.testing.assert_close(again[key], value, rtol=1e-5, atol=1e-7, msg=key)
    assert "stages" not in vars(other)  # those of its class again
