"""The nearest vectors against all distances in float64."""

import pytest
import torch

from fastad import _extension
from fastad.models.memory.memory import Memory
from fastad.models.memory.nearest import QUERIES, VECTORS, packed
from fastad.models.memory.nearest import nearest as nearest_of


@pytest.fixture(params=["blocks", "op"])
def nearest(request):
    """By blocks of products, or by the op of this package."""
    if request.param == "blocks":
        return nearest_of
    if not _extension.cpu_convolutions:
        pytest.skip("this processor has no AVX2")
    return lambda queries, memory: nearest_of(queries, memory, packed(memory))


def draw(count, length, seed):
    return torch.randn(count, length, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("vectors", [1, 2, VECTORS - 1, 2 * VECTORS + 3])
@pytest.mark.parametrize("queries", [0, 1, 37])
@pytest.mark.parametrize("length", [5, 13, 384])
def test_distance_and_index_of_the_nearest(nearest, queries, vectors, length):
    q, m = draw(queries, length, 0), draw(vectors, length, 1)
    distances, index = nearest(q, m)
    assert (distances.shape, index.shape) == ((queries,), (queries,))
    assert distances.dtype == torch.float32
    apart = torch.cdist(q.double(), m.double(), compute_mode="donot_use_mm_for_euclid_dist")
    expected = apart.min(dim=1)
    torch.testing.assert_close(distances.double(), expected.values, rtol=1e-5, atol=1e-6)
    assert torch.equal(index, expected.indices)


def test_queries_in_blocks(nearest):
    q, m = draw(QUERIES + 5, 3, 0), draw(4, 3, 1)
    _, index = nearest(q, m)
    assert torch.equal(index, torch.cdist(q, m).argmin(dim=1))


def test_a_vector_of_the_memory_has_no_distance(nearest):
    m = draw(1500, 16, 0) + 100
    distances, index = nearest(m, m)
    assert (distances == 0).all()
    assert torch.equal(index, torch.arange(1500))


def test_long_vectors_close_to_each_other(nearest):
    """Where squared norms drown the distance, the one found is almost as near as the nearest."""
    m = 30 + 0.3 * draw(800, 64, 0)
    q = 30 + 0.3 * draw(50, 64, 1)
    distances, _ = nearest(q, m)
    expected = torch.cdist(q.double(), m.double()).amin(dim=1)
    torch.testing.assert_close(distances.double(), expected, rtol=5e-3, atol=0)


def test_autocast_rounds_nothing(nearest):
    q, m = 3 + 0.3 * draw(20, 384, 0), 3 + 0.3 * draw(1200, 384, 1)
    expected = nearest(q, m)
    with torch.autocast("cpu", torch.bfloat16):
        found = nearest(q, m)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_double_stays_double(nearest):
    q, m = draw(20, 8, 0).double(), draw(1200, 8, 1).double()
    distances, _ = nearest(q, m)
    torch.testing.assert_close(distances, torch.cdist(q, m).amin(dim=1), rtol=1e-12, atol=1e-12)


@pytest.mark.skipif(not _extension.cpu_convolutions, reason="this processor has no AVX2")
@pytest.mark.parametrize("queries", [0, 1, 11, 96, 97, 1000])
@pytest.mark.parametrize(("vectors", "length"), [(1, 1), (31, 7), (32, 64), (33, 3), (2048, 128)])
def test_the_op_by_its_definition(queries, vectors, length):
    q, m = draw(queries, length, 0), draw(vectors, length, 1)
    of_memory = packed(m)
    assert of_memory.vectors.shape == (-(-vectors // 32), length, 32)
    found = torch.ops.fastad.nearest(q, *of_memory)
    expected = m.double().square().sum(dim=1) / 2 - q.double() @ m.double().mT
    assert torch.equal(found, expected.argmin(dim=1))


@pytest.mark.skipif(not _extension.cpu_convolutions, reason="this processor has no AVX2")
def test_of_equal_vectors_the_first_one_is_taken():
    m = draw(100, 8, 0)
    m[77] = m[40] = m[5]
    assert torch.ops.fastad.nearest(m[5:6].clone(), *packed(m)).tolist() == [5]
    assert torch.ops.fastad.nearest(torch.full((1, 8), torch.nan), *packed(m)).tolist() == [0]


@pytest.mark.skipif(not _extension.cpu_convolutions, reason="this processor has no AVX2")
def test_the_op_as_pytorch_knows_it_and_its_errors():
    q, (vectors, halves) = draw(5, 6, 0), packed(draw(40, 6, 1))
    torch.library.opcheck(torch.ops.fastad.nearest.default, (q, vectors, halves))
    for wrong in (q.double(), q[0], q.mT.contiguous().mT):
        with pytest.raises(RuntimeError, match=r"queries must be \(N, D\)"):
            torch.ops.fastad.nearest(wrong, vectors, halves)
    for wrong in (vectors[:, :5], vectors[..., :16], vectors.double(), vectors[:0]):
        with pytest.raises(RuntimeError, match=r"vectors must be \(M / 32, D, 32\)"):
            torch.ops.fastad.nearest(q, wrong, halves)
    with pytest.raises(RuntimeError, match=r"halves must be \(M,\)"):
        torch.ops.fastad.nearest(q, vectors, halves[1:])


def test_a_memory_that_changes_is_packed_anew():
    memory, patches = Memory(40, 6), draw(2 * 3 * 4, 6, 0).view(2, 3, 4, 6).permute(0, 3, 1, 2)
    for seed in (1, 2):
        memory.vectors.copy_(draw(40, 6, seed))
        with torch.inference_mode():
            _, index = memory(patches)
        rows = patches.permute(0, 2, 3, 1).reshape(-1, 6)
        apart = torch.cdist(rows.double(), memory.vectors.double())
        assert torch.equal(index.flatten(), apart.argmin(dim=1))
    memory.load_state_dict({"vectors": draw(50, 6, 3)})
    assert memory(patches)[1].max() < 50
    other = memory.double()
    assert other(patches.double())[0].dtype == torch.float64
