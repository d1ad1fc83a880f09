"""The nearest vectors against all distances in float64."""

import pytest
import torch

from fastad.models.patchcore.nearest import QUERIES, VECTORS, nearest


def draw(count, length, seed):
    return torch.randn(count, length, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("vectors", [1, 2, VECTORS - 1, 2 * VECTORS + 3])
@pytest.mark.parametrize("queries", [0, 1, 37])
@pytest.mark.parametrize("length", [5, 13, 384])
def test_distance_and_index_of_the_nearest(queries, vectors, length):
    q, m = draw(queries, length, 0), draw(vectors, length, 1)
    distances, index = nearest(q, m)
    assert (distances.shape, index.shape) == ((queries,), (queries,))
    assert distances.dtype == torch.float32
    apart = torch.cdist(q.double(), m.double(), compute_mode="donot_use_mm_for_euclid_dist")
    expected = apart.min(dim=1)
    torch.testing.assert_close(distances.double(), expected.values, rtol=1e-5, atol=1e-6)
    assert torch.equal(index, expected.indices)


def test_queries_in_blocks():
    q, m = draw(QUERIES + 5, 3, 0), draw(4, 3, 1)
    _, index = nearest(q, m)
    assert torch.equal(index, torch.cdist(q, m).argmin(dim=1))


def test_a_vector_of_the_memory_has_no_distance():
    m = draw(1500, 16, 0) + 100
    distances, index = nearest(m, m)
    assert (distances == 0).all()
    assert torch.equal(index, torch.arange(1500))


def test_long_vectors_close_to_each_other():
    """Where squared norms drown the distance, the one found is almost as near as the nearest."""
    m = 30 + 0.3 * draw(800, 64, 0)
    q = 30 + 0.3 * draw(50, 64, 1)
    distances, _ = nearest(q, m)
    expected = torch.cdist(q.double(), m.double()).amin(dim=1)
    torch.testing.assert_close(distances.double(), expected, rtol=5e-3, atol=0)


def test_autocast_rounds_nothing():
    q, m = 3 + 0.3 * draw(20, 384, 0), 3 + 0.3 * draw(1200, 384, 1)
    expected = nearest(q, m)
    with torch.autocast("cpu", torch.bfloat16):
        found = nearest(q, m)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_double_stays_double():
    q, m = draw(20, 8, 0).double(), draw(1200, 8, 1).double()
    distances, _ = nearest(q, m)
    torch.testing.assert_close(distances, torch.cdist(q, m).amin(dim=1), rtol=1e-12, atol=1e-12)
