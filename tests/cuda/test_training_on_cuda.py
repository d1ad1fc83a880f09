"""Training on a GPU: recorded steps come to what the same steps come to kernel by kernel."""

import copy

import pytest
import torch

from fastad import _extension, models
from fastad.training import Trainer, TrainingConfig, TrainingDivergedError, loop
from fastad.training.capture import can_capture

if not torch.cuda.is_available():
    pytest.skip("there is no CUDA device", allow_module_level=True)
if _extension.cuda_obstacle is not None:
    pytest.skip(f"the CUDA kernels are {_extension.cuda_obstacle}", allow_module_level=True)


def fit(model, **options):
    images = torch.randint(0, 256, (23, 3, 64, 64), generator=torch.Generator().manual_seed(1))
    model = copy.deepcopy(model)
    config = TrainingConfig.for_model(model, epochs=3, batch_size=4, device="cuda", **options)
    record = Trainer(model, config).fit(images.to(torch.uint8))
    return model.cpu().state_dict(), record


@pytest.mark.parametrize("name", models.MODELS)
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_recorded_steps_are_the_same_steps(monkeypatch, caplog, name, precision):
    torch.manual_seed(0)
    model = models.build(name, **models.without_weights(name))
    options = {"precision": precision}
    if any(stage.pseudo_anomalies for stage in model.stages):
        options["pseudo_anomalies"] = 16
    found, record = fit(model, **options)
    assert not [m for m in caplog.messages if "without CUDA graphs" in m]
    monkeypatch.setattr(loop, "recorder", lambda device: None)
    expected, of_expected = fit(model, **options)
    tolerance = 1e-3 if precision == "float32" else 3e-2
    for key, value in found.items():
        if value.is_floating_point():
            torch.testing.assert_close(value, expected[key], rtol=tolerance, atol=tolerance)
        else:
            assert torch.equal(value, expected[key])  # how many batches batch norm has seen
    assert record.epochs == of_expected.epochs


def test_a_loss_that_diverges_is_found_at_the_end_of_the_epoch(monkeypatch):
    model = models.build("stpm", **models.without_weights("stpm"))
    loss = type(model).loss

    def diverging(self, batch):
        return {name: value + torch.inf for name, value in loss(self, batch).items()}

    monkeypatch.setattr(type(model), "loss", diverging)
    with pytest.raises(TrainingDivergedError, match="the loss became inf in epoch 1, step 1;"):
        fit(model)


def test_a_loss_that_waits_trains_without_graphs(monkeypatch, caplog):
    torch.manual_seed(0)
    model = models.build("stpm", **models.without_weights("stpm"))
    _, expected = fit(model, precision="float32")
    loss = type(model).loss

    def waiting(self, batch):
        losses = loss(self, batch)
        assert all(value.item() >= 0 for value in losses.values())
        return losses

    monkeypatch.setattr(type(model), "loss", waiting)
    _, record = fit(model, precision="float32")
    said = [m for m in caplog.messages if "without CUDA graphs" in m]
    assert said == ["training without CUDA graphs: the model waits for the device"]
    assert can_capture()
    for found, known in zip(record.losses, expected.losses, strict=True):
        assert found == pytest.approx(known, rel=1e-3)
