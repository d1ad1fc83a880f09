"""Memories of several levels against nearest neighbours in float64."""

import pytest
import torch
import torch.nn.functional as F

from fastad.models.memory import LevelMemories

WIDTHS, SIZES = (3, 5, 4), ((7, 6), (4, 3), (2, 2))


def draw(count, seed):
    generator = torch.Generator().manual_seed(seed)
    pairs = zip(WIDTHS, SIZES, strict=True)
    return [torch.randn(count, width, *size, generator=generator) for width, size in pairs]


def plain_patches(level):
    """Directions, averaged over 3x3 with zeros beyond the edge, by unfold: (N, h * w, C)."""
    n, c, h, w = level.shape
    unit = level.double() / level.double().norm(dim=1, keepdim=True)
    means = F.unfold(unit, 3, padding=1).view(n, c, 9, h * w).mean(dim=2)
    return means.mT


def test_distances_to_the_nearest_of_each_level():
    normal, new = draw(4, 0), draw(3, 1)
    memory = LevelMemories(WIDTHS)
    assert not memory.is_filled
    memory.fit([[level[:2] for level in normal], [level[2:] for level in normal]])
    assert memory.is_filled
    for found, known, level in zip(memory(new), normal, new, strict=True):
        expected = torch.cdist(plain_patches(level), plain_patches(known).flatten(0, 1)[None])
        nearest = expected.min(dim=2).values.view(found.shape)
        torch.testing.assert_close(found.double(), nearest, rtol=1e-4, atol=1e-5)


def test_only_places_that_count_are_kept():
    memory = LevelMemories(WIDTHS)
    memory.fit([draw(4, 0)], places=lambda patches: patches[..., :1, :])
    rows = [4 * w for _, w in SIZES]
    assert [len(one.vectors) for one in memory.memories] == rows


def test_a_new_one_takes_the_state_of_a_filled_one():
    memory, other = LevelMemories(WIDTHS), LevelMemories(WIDTHS)
    memory.fit([draw(4, 0)])
    other.load_state_dict(memory.state_dict())
    new = draw(3, 1)
    for found, expected in zip(other(new), memory(new), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_levels_in_half_precision_are_compared_in_float32(dtype):
    memory = LevelMemories(WIDTHS)
    normal = [level.to(dtype) for level in draw(4, 0)]
    memory.fit([normal])
    for found in memory(normal):
        assert found.dtype == torch.float32
        assert found.max() < 1e-3
