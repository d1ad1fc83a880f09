"""Batch norm's statistics anew: against exact ones, and what that saves short trainings from."""

import copy

import pytest
import torch
from torch import nn
from toy import RandomToy, Toy, options

from fastad.training import Trainer
from fastad.training.batch_norm import MOST_BATCHES, chosen_batches, taken_anew, trained_norms


@pytest.mark.parametrize(
    ("items", "batch_size", "sizes"),
    [
        (167, 32, [32, 32]),
        (167, 8, [8] * 8),
        (32, 8, [8] * 4),
        (33, 9, [9] * 3),  # equally large, so that each image counts as much
        (10, 4, [4, 4]),
        (3, 8, [3]),
        (1, 8, [1]),
        (700, 32, [32] * 5),
        (5000, 32, [32] * MOST_BATCHES),
        (5000, 1, [1] * MOST_BATCHES),
    ],
)
def test_batches_are_few_and_spread_over_the_images(items, batch_size, sizes):
    chosen = chosen_batches(torch.arange(items) + 5, batch_size)
    assert [len(batch) for batch in chosen] == sizes
    found = torch.cat(chosen) - 5
    assert found.unique().tolist() == found.tolist()
    assert found[0] == 0
    assert found[-1] + (items / len(found)) >= items - 1


@pytest.mark.parametrize("momentum", [0.1, 0.01, None])
@pytest.mark.parametrize("half", [False, True])
def test_statistics_are_the_exact_ones(momentum, half):
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5, momentum=momentum)).train()
    with torch.no_grad():
        layer(torch.rand(4, 3, 9, 9) - 7)  # what went before counts for nothing
    batches = torch.rand(3, 4, 3, 9, 9)
    with torch.no_grad(), taken_anew([layer[1]]), torch.autocast("cpu", enabled=half):
        for batch in batches:
            layer(batch)
    assert layer[1].momentum == momentum
    assert layer[1].running_mean.dtype == layer[1].running_var.dtype == torch.float32
    exact = copy.deepcopy(layer[0]).double()
    of_batches = [exact(batch.double()) for batch in batches]
    mean = sum(x.mean((0, 2, 3)) for x in of_batches) / 3
    variance = sum(x.var((0, 2, 3)) for x in of_batches) / 3
    tolerance = {"rtol": 0.01, "atol": 2e-3} if half else {"rtol": 1e-5, "atol": 1e-6}
    torch.testing.assert_close(layer[1].running_mean.double(), mean, **tolerance)
    torch.testing.assert_close(layer[1].running_var.double(), variance, **tolerance)


def test_a_norm_that_nothing_goes_through_stays_as_it_was():
    norm = nn.BatchNorm2d(2)
    norm(torch.rand(4, 2, 3, 3))
    before = copy.deepcopy(norm.state_dict())
    with taken_anew([norm]):
        pass
    assert all(torch.equal(value, before[name]) for name, value in norm.state_dict().items())


def test_only_norms_that_the_stage_trains():
    model = Toy()
    model.train()
    model.other = nn.BatchNorm2d(4).eval()  # of another stage
    model.frozen = nn.BatchNorm2d(4).requires_grad_(False)
    model.without = nn.BatchNorm2d(4, track_running_stats=False)
    model.plain = nn.BatchNorm2d(4, affine=False)
    assert trained_norms(model) == [model.student.norm, model.plain]


def slow(momentum):
    """A toy whose statistics follow the weights by such a momentum."""
    model = Toy()
    model.student.norm.momentum = momentum
    return model


def test_few_steps_with_a_small_momentum_validate_like_exact_statistics(images):
    """0.01 leaves the moving average at its start after four steps."""
    scores = []
    for momentum in (0.01, 0.1, 0.9):
        model = slow(momentum)
        record = Trainer(model, options(epochs=2, batch_size=4)).fit(images)
        scores.append(record.validation_scores)
        norm = model.student.norm
        with torch.no_grad():
            train = [index for index in range(10) if index not in record.held_out]
            x = model.student.conv(model.normalize(images[train] / 255)).double()
        assert (norm.running_mean.double() - x.mean((0, 2, 3))).abs().max() < 1e-5
        assert (norm.running_var.double() / x.var((0, 2, 3)) - 1).abs().max() < 0.05
        assert norm.momentum == momentum
    assert scores[0] == scores[1] == scores[2]


def test_weights_and_draws_of_the_training_stay_what_they_were(images, monkeypatch):
    """Statistics are read by no step: taking them changes neither losses nor weights."""

    def run():
        model = RandomToy()
        return model, Trainer(model, options(epochs=3)).fit(images)

    model, record = run()
    monkeypatch.setattr("fastad.training.loop.trained_norms", lambda model: [])
    plain, without = run()
    assert record.losses == without.losses
    assert record.validation_scores != without.validation_scores
    assert record.best_epoch == without.best_epoch == 3
    assert torch.equal(model.student.conv.weight, plain.student.conv.weight)
