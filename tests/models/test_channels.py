"""Channels made equally loud, against the definition in higher precision."""

import pytest
import torch

from fastad.models.channels import QUIETEST, ChannelScales, channel_deviations, equalizing


def test_deviations_are_over_all_images_and_places():
    batches = [
        [torch.randn(n, 5, 7, 3) * 3 + 100, torch.randn(n, 2, 4, 9).to(torch.bfloat16)]
        for n in (3, 1, 2)
    ]
    found = channel_deviations(iter(batches))
    for level, deviation in enumerate(found):
        rows = torch.cat([b[level].double() for b in batches]).transpose(0, 1).flatten(1)
        expected = rows.std(dim=1, correction=0)
        torch.testing.assert_close(deviation, expected.float(), rtol=1e-6, atol=0)


def test_equalized_channels_have_the_mean_deviation():
    levels = [torch.randn(4, c, 6, 5) * torch.rand(c, 1, 1).add(0.1) * 9 for c in (3, 8)]
    scales = ChannelScales([3, 8])
    assert all(torch.equal(a, b) for a, b in zip(scales(levels), levels, strict=True))
    before = channel_deviations([levels])
    scales.equalize(before)
    for old, new in zip(before, channel_deviations([scales(levels)]), strict=True):
        torch.testing.assert_close(new, old.mean().expand_as(new), rtol=1e-5, atol=0)
    assert [level.dtype for level in scales([v.half() for v in levels])] == [torch.float16] * 2
    scales.reset()
    assert all(torch.equal(a, b) for a, b in zip(scales(levels), levels, strict=True))


def test_silent_channels_are_not_amplified_without_bound():
    factors = equalizing(torch.tensor([1.0, 3.0, 0.0, 1e-9]))
    assert factors.max() == pytest.approx(1 / QUIETEST)
    assert factors[0] == pytest.approx(1.0)
    assert torch.equal(equalizing(torch.zeros(3)), torch.ones(3))
