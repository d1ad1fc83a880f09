"""How far each of many vectors is from the nearest of a memory.

The floor for N queries of length D and M vectors is one matrix product: 2·N·M·D operations. An
image of 256x256 on ResNet-18's layers 1 to 3 has N = 4096, 1024 and 256, and D = 64, 128 and 256.
With M = 2048 vectors these are 1.9·10⁹ operations. The memories are 3.7 MB, read once for `QUERIES`
queries.
"""

import torch
from torch import Tensor

# Rows of a block: their products are 16 MB of float32, however many queries and vectors there are.
QUERIES, VECTORS = 4096, 1024


def nearest(queries: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
    """Euclidean distance of queries (N, D) to the nearest of M vectors (M, D), and which that is.

    Both are floating, of one dtype, M is at least 1. Nothing is rounded to half precision, under
    autocast too. The nearest is found by ½‖m‖² - q·m, which orders the vectors as their distances
    do. That rounds in proportion to the squared norms: of vectors that are almost equally near it
    may find the wrong one. The distance is then computed from the difference to the one found. So
    it is exact, and 0 for equal vectors.

    Returns:
        Distances (N,), and indices of the nearest (N,) int64.
    """
    # A graph for any number of queries cannot have a loop over them.
    blocks = [queries] if torch.compiler.is_compiling() else queries.split(QUERIES)
    with torch.autocast(queries.device.type, enabled=False):
        index = torch.cat([_index(block, memory) for block in blocks])
    return (queries - memory[index]).square().sum(dim=1).sqrt(), index


def _index(queries: Tensor, memory: Tensor) -> Tensor:
    halves = memory.square().sum(dim=1) / 2
    best = index = None
    for start in range(0, len(memory), VECTORS):
        rows = slice(start, start + VECTORS)
        found, place = torch.addmm(halves[rows], queries, memory[rows].mT, alpha=-1).min(dim=1)
        if best is None or index is None:
            best, index = found, place
        else:
            index = torch.where(found < best, place + start, index)
            best = torch.minimum(found, best)
    assert index is not None  # the memory is not empty
    return index
