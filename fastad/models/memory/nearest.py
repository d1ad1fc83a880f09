"""How far each of many vectors is from the nearest of a memory.

The floor for N queries of length D and M vectors is one matrix product: 2·N·M·D operations. An
image of 256x256 on ResNet-18's layers 1 to 3 has N = 4096, 1024 and 256, and D = 64, 128 and 256.
With M = 2048 vectors these are 1.9·10⁹ operations. The memories are 3.7 MB. An op of this package
(csrc/convolution/nearest.cpp) keeps the products in registers. Elsewhere blocks of them are written
to memory, and the memories are read once for `QUERIES` queries.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from fastad import _extension

# Rows of a block: their products are 16 MB of float32, however many queries and vectors there are.
QUERIES, VECTORS = 4096, 1024
SIDE_BY_SIDE = 32


class Packed(NamedTuple):
    """A memory (M, D) as the op takes it.

    Attributes:
        vectors: (P, D, 32), 32 vectors side by side, zeros behind the last one.
        halves: (32 P,) half the squared norms, infinity behind the last one.
    """

    vectors: Tensor
    halves: Tensor


def packed(memory: Tensor) -> Packed | None:
    """A memory (M, D) for the op; None where it does not compute it."""
    is_served = _extension.cpu_convolutions and not memory.requires_grad
    if not is_served or memory.device.type != "cpu" or memory.dtype != torch.float32:
        return None
    missing = -len(memory) % SIDE_BY_SIDE
    halves = functional.pad(memory.square().sum(dim=1) / 2, (0, missing), value=torch.inf)
    panels = functional.pad(memory, (0, 0, 0, missing)).view(-1, SIDE_BY_SIDE, memory.shape[1])
    return Packed(panels.mT.contiguous(), halves)


def nearest(
    queries: Tensor, memory: Tensor, of_memory: Packed | None = None
) -> tuple[Tensor, Tensor]:
    """Euclidean distance of queries (N, D) to the nearest of M vectors (M, D), and which that is.

    Both are floating, of one dtype, M is at least 1. Nothing is rounded to half precision, under
    autocast too. The nearest is found by ½‖m‖² - q·m, which orders the vectors as their distances
    do. That rounds in proportion to the squared norms: of vectors that are almost equally near it
    may find the wrong one. The distance is then computed from the difference to the one found. So
    it is exact, and 0 for equal vectors.

    ``of_memory`` is what `packed` makes of the memory. It saves time where it is given.

    Returns:
        Distances (N,), and indices of the nearest (N,) int64.
    """
    is_graph = torch.compiler.is_compiling()
    if of_memory is not None and not is_graph and not queries.requires_grad:
        index = torch.ops.fastad.nearest(queries.contiguous(), *of_memory)
    else:
        # A graph for any number of queries cannot have a loop over them.
        blocks = [queries] if is_graph else queries.split(QUERIES)
        with torch.autocast(queries.device.type, enabled=False):
            index = torch.cat([_index(block, memory) for block in blocks])
    return (queries - memory[index]).square().sum(dim=1).sqrt(), index


@torch.library.register_fake("fastad::nearest")
def _fake(queries: Tensor, vectors: Tensor, halves: Tensor) -> Tensor:
    return queries.new_empty(len(queries), dtype=torch.int64)


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
