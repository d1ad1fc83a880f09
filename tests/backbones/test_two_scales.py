"""An image and its overview, by one network."""

import pytest
import torch

from fastad import backbones
from fastad.backbones import TwoScales, reduced


@pytest.mark.parametrize("factor", [2, 4])
@pytest.mark.parametrize("size", [(12, 16), (13, 18), (1, 3)])
def test_an_overview_is_of_means_of_squares(factor, size):
    images = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    found = reduced(images, factor)
    height, width = size
    assert found.shape == (2, 3, -(-height // factor), -(-width // factor))
    for row in range(found.shape[2]):
        for column in range(found.shape[3]):
            rows = [min(factor * row + i, height - 1) for i in range(factor)]
            columns = [min(factor * column + i, width - 1) for i in range(factor)]
            expected = images[:, :, rows][..., columns].mean(dim=(2, 3))
            torch.testing.assert_close(found[:, :, row, column], expected)


def test_a_part_has_the_overview_of_the_whole():
    """Also at the end of sides that are no multiples."""
    images = torch.rand(1, 3, 37, 41, generator=torch.Generator().manual_seed(0))
    whole = reduced(images, 4)
    assert torch.equal(reduced(images[:, :, 8:, 12:], 4), whole[:, :, 2:, 3:])
    assert torch.equal(reduced(images[:, :, :24, :8], 4), whole[:, :, :6, :2])


def test_maps_of_the_overview_come_behind():
    torch.manual_seed(0)
    backbone = backbones.build("resnet18", ("layer2", "layer1")).eval()
    both, images = TwoScales(backbone, 2).eval(), torch.rand(1, 3, 45, 64)
    with torch.no_grad():
        expected = [*backbone(images), *backbone(reduced(images, 2))]
        assert all(map(torch.equal, both(images), expected))
        given = both((images, images[:, :, :16, :16]))  # as where tiles see more
        assert torch.equal(given[0], expected[0])
        assert given[2].shape == (1, 128, 2, 2)
