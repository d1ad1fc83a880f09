"""A memory: a coreset of the patch features of normal images."""

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fastad.models.memory.coreset import Sample, farthest_first, projected
from fastad.models.memory.nearest import Packed, nearest, packed
from fastad.models.residual import as_rows

CANDIDATES = 50_000  # patches that the coreset is chosen of; of more a random sample
PROJECTED = 128  # directions in which they are compared for that, as in the authors' code

log = logging.getLogger("fastad")


class Memory(nn.Module):
    """Vectors that stand for the patches of normal images.

    Attributes:
        count: how many vectors are kept at most.
        vectors: (M, D). Zeros in a new model, where all of them are one vector.
    """

    vectors: Tensor

    def __init__(self, count: int, width: int):
        super().__init__()
        self.count = count
        self.register_buffer("vectors", torch.zeros(count, width))
        self._packed: tuple[Tensor, int, Packed | None] | None = None  # of which vectors, and what

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_packed": None}

    def sample(self) -> Sample:
        """For the patch features of the training images; the coreset is chosen of it."""
        return Sample(max(CANDIDATES, self.count))

    def keep(self, sample: Sample) -> None:
        """Take the greedy coreset of a sample."""
        candidates = sample.rows()
        kept = min(self.count, len(candidates))
        log.info(f"choosing {kept} of {len(candidates)} patches ({sample.seen} were seen)")
        chosen = farthest_first(projected(candidates, PROJECTED), kept)
        self.vectors = candidates[chosen].clone()

    def forward(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        """Of patch features (N, D, h, w) distance and index of the nearest: (N, h, w) each."""
        places = (patches.shape[0], patches.shape[-2], patches.shape[-1])
        queries = as_rows(patches)
        of_memory = None if torch.compiler.is_compiling() else self._for(queries)
        distances, index = nearest(queries, self.vectors, of_memory)
        return distances.view(places), index.view(places)

    def _for(self, queries: Tensor) -> Packed | None:
        """The vectors packed for queries of their kind, made anew where they have changed."""
        vectors, known = self.vectors, self._packed
        if (queries.device, queries.dtype) != (vectors.device, vectors.dtype):
            return None
        version = -1 if vectors.is_inference() else vectors._version
        if known is None or known[0] is not vectors or known[1] != version:
            known = self._packed = (vectors, version, packed(vectors))
        return known[2]

    def angles(self, patches: Tensor, index: Tensor) -> Tensor:
        """Distances of the same patch features and vectors, all scaled to length 1: (N, h, w)."""
        found = functional.normalize(self.vectors[index.flatten()])
        return (functional.normalize(as_rows(patches)) - found).norm(dim=1).view(index.shape)

    def _load_from_state_dict(self, state: Mapping[str, Tensor], prefix: str, *rest: Any) -> None:
        # How many patches there are is for the training images to say.
        found = state.get(f"{prefix}vectors")
        if found is not None and found.shape[1:] == self.vectors.shape[1:]:
            self.vectors = self.vectors.new_empty(found.shape)
        super()._load_from_state_dict(state, prefix, *rest)
