"""PatchCore: the distance of a patch from the nearest one of normal images.

Roth et al., "Towards Total Recall in Industrial Anomaly Detection", CVPR 2022, arXiv 2106.08265.
Nothing is trained. A coreset of the patch features of normal images is kept.
"""

import logging

import torch
from torch import Tensor

from fastad.models.base import Batches, Prediction
from fastad.models.patchcore.config import PatchCoreConfig
from fastad.models.patchcore.coreset import Sample, farthest_first, projected
from fastad.models.patchcore.nearest import nearest
from fastad.models.patches import PatchModel, as_rows

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
    learned = ("memory",)
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

    def forward(self, images: Tensor) -> Prediction:
        """Images (N, 3, H, W) in [0, 1] -> score (N,) and anomaly map (N, H, W)."""
        patches = self.patches(images)
        count, _, height, width = patches.shape
        rows = as_rows(patches)
        distances, index = nearest(rows, self.memory)
        anomaly_map = self.as_map(
            distances.view(count, height, width), (images.shape[-2], images.shape[-1])
        )
        places = (count, height * width)
        score, place = distances.view(places).max(dim=1)
        if self.config.neighbours > 0 and len(self.memory) > 1:
            patch = rows.view(*places, self.width)[torch.arange(count, device=rows.device), place]
            found = index.view(places).gather(1, place[:, None])[:, 0]
            score = score * self._factor(patch, score, found)
        return Prediction(score, anomaly_map)

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
