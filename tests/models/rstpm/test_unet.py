"""The small U-Net: shapes, sizes, what an untrained one says."""

import pytest
import torch
from torch import nn

from fastad.models.rstpm.unet import UNet


@pytest.fixture
def net():
    torch.manual_seed(0)
    return UNet(3, 8).eval()


@pytest.mark.parametrize("size", [(64, 64), (16, 16), (17, 9), (5, 33), (1, 1), (1, 7)])
@pytest.mark.parametrize("n", [0, 1, 2])
def test_one_logit_a_position(net, n, size):
    nn.init.normal_(net.head.weight)
    with torch.no_grad():
        result = net(torch.rand(n, 3, *size))
    assert result.shape == (n, *size)
    assert result.isfinite().all()


def test_untrained_it_says_nothing(net):
    with torch.no_grad():
        assert net(torch.randn(2, 3, 20, 24)).eq(0).all()


def test_it_has_four_scales_and_skips(net):
    assert [block[0].out_channels for block in net.encoder] == [8, 16, 32, 64]
    assert [block[0].in_channels for block in net.decoder] == [64 + 32, 32 + 16, 16 + 8]
    sizes = []
    for block in (*net.encoder, *net.decoder):
        block.register_forward_hook(lambda m, i, out: sizes.append(tuple(out.shape[1:])))
    net(torch.rand(1, 3, 24, 18))
    assert sizes == [
        (8, 24, 18), (16, 12, 9), (32, 6, 5), (64, 3, 3), (32, 6, 5), (16, 12, 9), (8, 24, 18)
    ]  # fmt: skip


def test_it_learns_where_a_map_is_high(net):
    target = torch.zeros(2, 16, 16)
    target[0, :, :7] = 1
    target[1, 4:9, 5:] = 1
    noise = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    x = target[:, None] + 0.3 * noise
    net.train()
    optimizer = torch.optim.Adam(net.parameters(), 0.02)
    for _ in range(40):
        optimizer.zero_grad()
        loss = nn.functional.binary_cross_entropy_with_logits(net(x), target)
        loss.backward()
        optimizer.step()
    assert ((net(x) > 0) == (target > 0)).float().mean() > 0.95
