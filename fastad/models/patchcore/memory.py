"""What PatchCore keeps of normal images: a coreset of their patch features."""

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fastad.models.patchcore.coreset import Sample, farthest_first, projected
from fastad.models.patchcore.nearest import nearest
from fastad.models.residual import as_rows

CANDIDATES = 50_000  # patches that the coreset is chosen of; of more a random sample
PROJECTED = 128  # directions in which they are compared for that, as in the authors' code

log = logging.getLogger("fastad")


class Memory(nn.Module):
    """Vectors that stand for the patches of normal images.

    Attributes:
        vectors: (M, D). Zeros in a new model, where all of them are one vector.
    """

    vectors: Tensor

    def __init__(self, count: int, width: int):
        super().__init__()
        self.register_buffer("vectors", torch.zeros(count, width))

    def sample(self) -> Sample:
        """For the patch features of the training images; the coreset is chosen of it."""
        return Sample(max(CANDIDATES, len(self.vectors)))

    def keep(self, sample: Sample) -> None:
        """Take the greedy coreset of a sample."""
        candidates = sample.rows()
        kept = min(len(self.vectors), len(candidates))
        log.info(f"choosing {kept} of {len(candidates)} patches ({sample.seen} were seen)")
        chosen = farthest_first(projected(candidates, PROJECTED), kept)
        self.vectors = candidates[chosen].clone()

    def forward(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        """Of patch features (N, D, h, w) distance and index of the nearest: (N, h, w) each."""
        places = (patches.shape[0], patches.shape[-2], patches.shape[-1])
        distances, index = nearest(as_rows(patches), self.vectors)
        return distances.view(places), index.view(places)

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
