"""Subspace against mean and covariance of all patches in float64."""

import pytest
import torch
from torch import nn

from fastad import models
from fastad.models.residual import unexplained


class Mixed(nn.Module):
    """Eight channels of an image at a quarter of its size, of which the last two follow others."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 4, 4)

    def forward(self, images):
        x = self.conv(images)
        return [torch.cat([x, x[:, :1] + x[:, 1:2], x[:, 2:3] - 3], dim=1)]


def fitted(images, **options):
    torch.manual_seed(0)
    model = models.build("subspace", backbone=Mixed(), smoothing=0, **options).eval()
    batches = [{"image": part} for part in images.split(2)]
    with torch.no_grad():
        model.prepare_stage(lambda: iter(batches), lambda: iter(batches))
    return model


def patches_of(model, images):
    with torch.no_grad():
        rows = model.patches(images).permute(0, 2, 3, 1).reshape(len(images), -1, model.width)
    return rows.double()


@pytest.fixture
def normal():
    return torch.rand(7, 3, 20, 24, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("variance", [0.5, 0.9, 0.999999])
def test_residuals_are_what_components_leave(normal, variance):
    model = fitted(normal, variance=variance)
    rows = patches_of(model, normal).flatten(0, 1)
    _, s, axes = torch.linalg.svd(rows - rows.mean(dim=0), full_matrices=False)
    explained = s.square().cumsum(dim=0) / s.square().sum()
    rank = int((explained < variance - 1e-12).sum()) + 1
    images = torch.rand(2, 3, 20, 24)
    off = patches_of(model, images) - rows.mean(dim=0)
    left = off - off @ axes[:rank].mT @ axes[:rank]
    with torch.no_grad():
        prediction = model(images)
    assert model.residual.directions.shape == (model.width - rank, model.width)
    largest = left.norm(dim=2).amax(dim=1)
    # Between the centres of patches the map is lower; at the grid it has the largest.
    size = (images.shape[2] // 4, images.shape[3] // 4)
    maps = torch.nn.functional.interpolate(
        left.norm(dim=2).view(2, 1, *size), (20, 24), mode="bilinear", align_corners=False
    )[:, 0]
    scale = off.norm(dim=2).max().item()
    torch.testing.assert_close(prediction.anomaly_map, maps.float(), rtol=1e-4, atol=2e-6 * scale)
    assert torch.equal(prediction.score, prediction.anomaly_map.amax((1, 2)))
    assert (prediction.score <= largest * 1.001 + 2e-6 * scale).all()


def test_what_normal_images_never_do_counts_fully(normal):
    """Two of eight channels follow from others: leaving their plane is what has a residual."""
    model = fitted(normal, variance=0.999999)
    rows = patches_of(model, normal).flatten(0, 1)

    def distance(x):
        directions, offset = model.residual.directions.double(), model.residual.offset.double()
        return (directions @ x - offset).norm().item()

    mean = rows.mean(dim=0)
    assert distance(mean) < 1e-5
    # Within the plane of the inner places, where the 3x3 mean of a constant is that constant.
    off = torch.zeros(model.width).double()
    off[6] = 1.0
    assert distance(mean + off) > 0.5


def test_mahalanobis(normal):
    model = fitted(normal, distance="mahalanobis")
    rows = patches_of(model, normal).flatten(0, 1)
    mean = rows.mean(dim=0)
    covariance = torch.cov(rows.mT, correction=0)
    covariance += 0.01 * covariance.trace() / 8 * torch.eye(8).double()
    images = torch.rand(2, 3, 20, 24)
    off = patches_of(model, images) - mean
    expected = (off @ covariance.inverse() * off).sum(dim=2).sqrt()
    found = (
        patches_of(model, images) @ model.residual.directions.double().mT
        - model.residual.offset.double()
    ).norm(dim=2)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_autocast_rounds_no_residual(normal, monkeypatch):
    model = fitted(normal)
    images = torch.rand(2, 3, 20, 24)
    with torch.no_grad():
        levels, expected = model.levels(images), model(images)
        monkeypatch.setattr(model, "levels_of", lambda batch: levels)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(model(images).anomaly_map, expected.anomaly_map)


@pytest.mark.parametrize(
    ("variances", "share", "left"),
    [
        ([0.0, 0.0, 1.0, 9.0], 0.85, 3),
        ([0.0, 0.0, 1.0, 9.0], 0.95, 2),
        ([1.0, 1.0, 1.0, 1.0], 0.5, 2),
        ([0.5, 1.0], 0.999, 1),  # never none
        ([0.0, 0.0], 0.9, 2),
    ],
)
def test_axes_that_are_no_components(variances, share, left):
    assert unexplained(torch.tensor(variances, dtype=torch.float64), share) == left


@pytest.mark.parametrize("distance", ["residual", "mahalanobis"])
def test_images_of_one_colour_say_nothing_and_break_nothing(distance):
    images = torch.full((3, 3, 48, 48), 0.5)
    model = fitted(images, distance=distance)
    with torch.no_grad():
        assert model(images).anomaly_map.isfinite().all()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"distance": "cosine"}, "distance must be 'residual' or 'mahalanobis'; got 'cosine'"),
        ({"variance": 1.0}, "variance must be above 0 and below 1; got 1.0"),
        ({"variance": True}, "variance must be above 0 and below 1; got True"),
        ({"smoothing": "much"}, "smoothing must be a number of at least 0"),
    ],
)
def test_a_refusal_names_the_option(options, said):
    with pytest.raises(ValueError, match=said):
        models.build("subspace", teacher_weights=None, **options)
