"""PatchCore: the distance of a patch from the nearest one of normal images.

Roth et al., "Towards Total Recall in Industrial Anomaly Detection", CVPR 2022, arXiv 2106.08265.
Nothing is trained. A coreset of the patch features of normal images is kept.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fastad.models.base import Batches
from fastad.models.map_model import Evidence
from fastad.models.patchcore.config import PatchCoreConfig
from fastad.models.patchcore.coreset import Sample, farthest_first, projected
from fastad.models.patchcore.nearest import nearest
from fastad.models.patches import PatchModel
from fastad.models.residual import as_rows

CANDIDATES = 50_000  # patches that the coreset is chosen of; of more a random sample
PROJECTED = 128  # directions in which they are compared for that, as in the authors' code

log = logging.getLogger("fastad")


class PatchCore(PatchModel):
    """A frozen network, and a memory of what it says of patches of normal images.

    Attributes:
        memory: (M, D) patch features. Zeros in a new model, where all of them are one vector.
    """

    name = "patchcore"
    Config = PatchCoreConfig
    memory: Tensor

    def __init__(self, config: PatchCoreConfig):
        super().__init__(config)
        self.register_buffer("memory", torch.zeros(config.memory, self.width))

    def prepare_stage(self, train: Batches, unseen: Batches) -> None:
        """Keep a greedy coreset of the training images' patch features."""
        sample = Sample(max(CANDIDATES, self.config.memory))
        for rows in self.rows_of(train):
            sample.add(rows)
        candidates = sample.rows()
        kept = min(self.config.memory, len(candidates))
        log.info(f"choosing {kept} of {len(candidates)} patches ({sample.seen} were seen)")
        chosen = farthest_first(projected(candidates, PROJECTED), kept)
        self.memory = candidates[chosen].clone()

    def level_maps(self, batch: Mapping[str, Any]) -> list[Tensor]:
        """Distances to the nearest patch of the memory: one map (N, h, w)."""
        return [self._nearest(self.patches(batch["image"]))[0]]

    def evidence(self, batch: Mapping[str, Any]) -> Evidence:
        """The distances, and the paper's factor of the score: that of the patch farthest off."""
        patches = self.patches(batch["image"])
        distances, index = self._nearest(patches)
        if self.config.neighbours == 0 or len(self.memory) < 2:
            return Evidence([distances])
        largest, place = self._of_region(distances).flatten(1).max(dim=1)
        patch = patches.flatten(2).gather(2, place[:, None, None].expand(-1, self.width, 1))
        found = index.flatten(1).gather(1, place[:, None])[:, 0]
        return Evidence([distances], score_factor=self._factor(patch[:, :, 0], largest, found))

    def join(
        self, maps: Sequence[Tensor], factors: Sequence[Tensor], size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """As of `PatchModel`, but the maxima are those of patches, before any smoothing."""
        anomaly_map, _ = super().join(maps, factors, size)
        return anomaly_map, self._of_region(maps[0]).amax(dim=(1, 2))

    def inside(self, anomaly_map: Tensor, maxima: Tensor) -> tuple[Tensor, Tensor]:
        """As of every such model, but the maxima are those of patches."""
        return super().inside(anomaly_map, maxima)[0], maxima

    def falls_with_roi(self) -> bool:
        """Not with the paper's factor, which may be larger for another patch."""
        return super().falls_with_roi() and self.config.neighbours == 0

    def _of_region(self, distances: Tensor) -> Tensor:
        """Distances of patches (N, h, w), 0 where the patch lies outside."""
        if self.roi is None:
            return distances
        inside = self.roi.holds((distances.shape[-2], distances.shape[-1]))
        return torch.where(inside, distances, distances.new_zeros(()))

    def _nearest(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        """Of patch features (N, D, h, w) distance and index of the nearest: (N, h, w) each."""
        places = (patches.shape[0], patches.shape[-2], patches.shape[-1])
        distances, index = nearest(as_rows(patches), self.memory)
        return distances.view(places), index.view(places)

    def _factor(self, patches: Tensor, distances: Tensor, index: Tensor) -> Tensor:
        """1 - exp(s) / Σ exp(‖p - m‖) over the b vectors m nearest to the one nearest to p: (N,).

        Equation 7 of the paper: an image counts for more where what it resembles is rare itself.

        Args:
            patches: p, (N, D).
            distances: s, their distances to the nearest in the memory, (N,).
            index: which that is, (N,).
        """
        memory, own = self.memory, self.memory[index]
        with torch.autocast(memory.device.type, enabled=False):
            halves = memory.square().sum(dim=1) / 2
            to_own = torch.addmm(halves, own, memory.mT, alpha=-1)
        count = min(self.config.neighbours, len(memory))
        around = memory[to_own.topk(count, dim=1, largest=False).indices]
        to_patch = (patches[:, None] - around).square().sum(dim=2).sqrt()
        return 1 - (distances - to_patch.logsumexp(dim=1)).exp()

    def _load_from_state_dict(self, state: Mapping[str, Tensor], prefix: str, *rest: Any) -> None:
        # How many patches there are is for the training images to say.
        found = state.get(f"{prefix}memory")
        if found is not None and found.shape[1:] == self.memory.shape[1:]:
            self.memory = self.memory.new_empty(found.shape)
        super()._load_from_state_dict(state, prefix, *rest)
