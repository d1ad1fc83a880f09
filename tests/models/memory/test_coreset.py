"""The greedy coreset against the definition in float64, and the sample that it is chosen of."""

import numpy as np
import pytest
import torch

from fastad.models.memory.coreset import GROUP, Sample, farthest_first, projected


def draw(count, length, seed=0):
    return torch.randn(count, length, generator=torch.Generator().manual_seed(seed))


def plain_farthest_first(points, count):
    points = points.double().numpy()
    distances = np.linalg.norm(points - points.mean(axis=0), axis=1)
    chosen = []
    for _ in range(count):
        chosen.append(int(distances.argmax()))
        distances = np.minimum(distances, np.linalg.norm(points - points[chosen[-1]], axis=1))
    return chosen


@pytest.mark.parametrize(
    ("points", "count"),
    [
        (draw(1, 5), 1),
        (draw(2, 1), 2),
        (draw(GROUP, 7), 60),
        (draw(GROUP + 1, 7), 60),
        (draw(1500, 20), 700),
        (draw(1500, 3, seed=1), 300),
        (torch.cat([draw(900, 8), 50 + 0.1 * draw(300, 8, seed=1)]), 400),  # two clusters
        (draw(900, 4) ** 3, 200),  # far outliers
        (draw(700, 16) + 20, 300),
    ],
)
def test_each_is_the_farthest_from_those_before_it(points, count):
    assert farthest_first(points.double(), count).tolist() == plain_farthest_first(points, count)
    # In float32 it is so within the rounding of the squares.
    chosen = farthest_first(points, count)
    points = points.double() - points.double().mean(dim=0)
    distances, slack = points.norm(dim=1), 1e-6 * points.square().sum(dim=1).max()
    for index in chosen:
        assert distances[index].square() >= distances.max().square() - slack
        distances = torch.minimum(distances, (points - points[index]).norm(dim=1))


def test_more_than_there_are():
    chosen = farthest_first(draw(30, 4), 50)
    assert sorted(chosen.tolist()) == list(range(30))


def test_equal_points_are_chosen_once_each():
    chosen = farthest_first(torch.ones(300, 4), 300)
    assert sorted(chosen.tolist()) == list(range(300))


def test_random_directions_keep_distances():
    points = draw(60, 400)
    torch.manual_seed(0)
    found = projected(points, 128)
    assert found.shape == (60, 128)
    ratio = torch.pdist(found) / torch.pdist(points)
    assert (ratio.std() / ratio.mean()).item() < 0.1
    assert projected(points, 400) is points


def test_a_sample_of_few_is_all():
    sample = Sample(10)
    for part in torch.arange(9.0)[:, None].split(4):
        sample.add(part)
    assert sample.rows()[:, 0].tolist() == list(range(9))
    assert sample.seen == 9


def test_every_row_is_as_likely():
    torch.manual_seed(0)
    counts = torch.zeros(300)
    for _ in range(600):
        sample = Sample(20)
        for part in torch.arange(300)[:, None].split(7):
            sample.add(part)
            assert sum(map(len, sample._rows)) <= 40 + 7
        rows = sample.rows()[:, 0]
        assert len(rows) == len(set(rows.tolist())) == 20
        assert torch.equal(rows, rows.sort().values)
        counts[rows] += 1
    # Binomial: 40 of 600, with a deviation of 6.1, of the mean of a third 0.6.
    assert 10 < counts.min() < counts.max() < 75
    assert all(abs(third.mean() - 40) < 2.5 for third in counts.split(100))
