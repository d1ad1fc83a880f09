"""PatchCore: the distance of a patch from the nearest one of normal images.

Roth et al., "Towards Total Recall in Industrial Anomaly Detection", CVPR 2022, arXiv 2106.08265.
Nothing is trained. A coreset of the patch features of normal images is kept.
"""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from fastad.models.base import Batches
from fastad.models.map_model import Evidence
from fastad.models.memory import Memory
from fastad.models.memory.levels import unit_patches
from fastad.models.patchcore.config import PatchCoreConfig
from fastad.models.patches import PatchModel
from fastad.models.residual import as_rows, patch_features


class PatchCore(PatchModel):
    """A frozen network, and memories of what it says of patches of normal images.

    Attributes:
        memories: one, of all layers, or one for each layer.
    """

    name = "patchcore"
    Config = PatchCoreConfig
    memories: Sequence[Memory]

    def __init__(self, config: PatchCoreConfig):
        super().__init__(config)
        config = self.config  # with the backbone that "auto" is
        widths = [self.width] if config.joint else self.widths
        memories = nn.ModuleList(Memory(config.memory, width) for width in widths)
        self.memories = cast(Sequence[Memory], memories)
        self._add_maps(len(widths) * (2 if config.unit else 1), widths=self.widths)
        if not config.joint:
            self.level_names = self._names(len(widths) // (2 if self.overview else 1))

    @classmethod
    def options_of_file(cls, options: dict[str, Any]) -> dict[str, Any]:
        return {"joint": True, "unit": False, **options}  # the paper's way was the only one

    def patches_of_memories(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """Levels (N, C_l, H_l, W_l) -> patch features (N, D, h, w) for each memory."""
        if self.config.unit and not self.config.joint:
            return unit_patches(levels)
        if self.config.unit:
            levels = [functional.normalize(level) for level in levels]
        if self.config.joint:
            return [patch_features(levels)]
        return [patch_features([level]) for level in levels]

    def prepare_stage(self, train: Batches, unseen: Batches) -> None:
        """Keep greedy coresets of the training images' patch features."""
        samples = [memory.sample() for memory in self.memories]
        for batch in train():
            patches = self.patches_of_memories(self.levels_of(batch))
            for sample, of_memory in zip(samples, patches, strict=True):
                sample.add(as_rows(self.places(of_memory)))
        for memory, sample in zip(self.memories, samples, strict=True):
            memory.keep(sample)
        self.fit_composition(train)

    @property
    def scales_apart(self) -> bool:
        """Not where patches are of both scales at once."""
        return self.overview > 0 and not self.config.joint

    def level_maps(self, batch: Mapping[str, Any]) -> list[Tensor]:
        """Distances to the nearest patches: a map (N, h, w) of each memory, then of the score."""
        found = self.evidence(batch)
        return [*found.maps, *found.score_maps]

    def evidence(self, batch: Mapping[str, Any]) -> Evidence:
        """Distances to the nearest patches. Of one memory also the paper's factor of the score."""
        levels = self.levels_of(batch)
        patches = self.patches_of_memories(levels)
        pairs = list(zip(self.memories, patches, strict=True))
        found = [memory(of_memory) for memory, of_memory in pairs]
        maps = distances = [distance for distance, _ in found]
        if self.config.unit:
            maps = [
                memory.angles(of_memory, index)
                for (memory, of_memory), (_, index) in zip(pairs, found, strict=True)
            ]
        factor = self._factor(patches[0], *found[0]) if self._has_factor() else None
        composition = self.composition_of(levels)
        score_maps = distances if self.config.unit else ()
        return Evidence(maps, (), factor, score_maps, composition=composition)

    def join(
        self, maps: Sequence[Tensor], factors: Sequence[Tensor], size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """As of `PatchModel`. Of one memory the maxima are those of patches, not smoothed."""
        anomaly_map, maxima = super().join(maps, factors, size)
        if self.config.joint:
            maxima = self._of_region(maps[0]).amax(dim=(1, 2))
        return anomaly_map, maxima

    def inside(self, anomaly_map: Tensor, maxima: Tensor) -> tuple[Tensor, Tensor]:
        """As of every such model, but of one memory the maxima are those of patches."""
        kept, highest = super().inside(anomaly_map, maxima)
        return kept, maxima if self.config.joint else highest

    def falls_with_roi(self) -> bool:
        """Not with the paper's factor, which may be larger for another patch."""
        return super().falls_with_roi() and not self._has_factor()

    def _of_region(self, distances: Tensor) -> Tensor:
        """Distances of patches (N, h, w), 0 where the patch lies outside."""
        if self.roi is None:
            return distances
        inside = self.roi.holds((distances.shape[-2], distances.shape[-1]))
        return torch.where(inside, distances, distances.new_zeros(()))

    def _names(self, count: int) -> tuple[str, ...]:
        """The names of the levels. Raises ValueError where an option has others."""
        config = self.config
        names = tuple(f"level{number}" for number in range(1, count + 1))
        if isinstance(config.backbone, str):
            names = tuple(config.layers)
        for option in ("map_levels", "score_levels"):
            given = getattr(config, option)
            if given != "auto" and not set(given) <= set(names):
                raise ValueError(f"{option} must be 'auto' or of {', '.join(names)}; got {given!r}")
        return names

    def _has_factor(self) -> bool:
        memory = self.memories[0].vectors
        return self.config.joint and self.config.neighbours > 0 and len(memory) > 1

    def _factor(self, patches: Tensor, distances: Tensor, index: Tensor) -> Tensor:
        """1 - exp(s) / Σ exp(‖p - m‖) over the b vectors m nearest to the one nearest to p: (N,).

        Equation 7 of the paper: an image counts for more where what it resembles is rare itself.
        p is the patch that is farthest from the memory, and s its distance.

        Args:
            patches: (N, D, h, w).
            distances: to the nearest in the memory, (N, h, w).
            index: which that is, (N, h, w).
        """
        largest, place = self._of_region(distances).flatten(1).max(dim=1)
        patch = patches.flatten(2).gather(2, place[:, None, None].expand(-1, self.width, 1))
        memory = self.memories[0].vectors
        own = memory[index.flatten(1).gather(1, place[:, None])[:, 0]]
        with torch.autocast(memory.device.type, enabled=False):
            halves = memory.square().sum(dim=1) / 2
            to_own = torch.addmm(halves, own, memory.mT, alpha=-1)
        count = min(self.config.neighbours, len(memory))
        around = memory[to_own.topk(count, dim=1, largest=False).indices]
        to_patch = (patch.mT - around).square().sum(dim=2).sqrt()
        return 1 - (largest - to_patch.logsumexp(dim=1)).exp()

    def _load_from_state_dict(self, state: Any, prefix: str, *rest: Any) -> None:
        if f"{prefix}memory" in state:  # of files before there were several
            state[f"{prefix}memories.0.vectors"] = state.pop(f"{prefix}memory")
        super()._load_from_state_dict(state, prefix, *rest)
