"""A memory of each level of a teacher, and how far new images are from all of them."""

from collections.abc import Callable, Iterable, Sequence
from typing import cast

from torch import Tensor, nn
from torch.nn import functional

from fastad.models.memory.memory import Memory
from fastad.models.residual import as_rows, patch_features

VECTORS = 2048  # of a level, as many as PatchCore keeps


def unit_patches(levels: Sequence[Tensor]) -> list[Tensor]:
    """Of levels (N, C_l, H_l, W_l), scaled to length 1 at each place, the means over 3 x 3."""
    return [patch_features([functional.normalize(level)]) for level in levels]


class LevelMemories(nn.Module):
    """The distances of PatchCore (`fastad.models.PatchCore`), for a model that has its teacher.

    Attributes:
        memories: one of each level. They have no vectors before `fit`.
    """

    memories: Sequence[Memory]

    def __init__(self, widths: Sequence[int]):
        super().__init__()
        memories = [Memory(VECTORS, width) for width in widths]
        for memory in memories:
            memory.vectors = memory.vectors[:0].clone()
        self.memories = cast(Sequence[Memory], nn.ModuleList(memories))

    @property
    def is_filled(self) -> bool:
        """Whether `fit` was called."""
        return all(len(memory.vectors) > 0 for memory in self.memories)

    def fit(
        self, batches: Iterable[Sequence[Tensor]], places: Callable[[Tensor], Tensor] = lambda x: x
    ) -> None:
        """Keep coresets of the levels (N, C_l, H_l, W_l) of batches of normal images.

        ``places`` cuts patch features (N, C_l, H_l, W_l) to those that count.
        """
        samples = [memory.sample() for memory in self.memories]
        for levels in batches:
            for sample, patches in zip(samples, self._patches(levels), strict=True):
                sample.add(as_rows(places(patches)))
        for memory, sample in zip(self.memories, samples, strict=True):
            memory.keep(sample)

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """Levels (N, C_l, H_l, W_l) -> distances (N, H_l, W_l) to the nearest of normal images."""
        pairs = zip(self.memories, self._patches(levels), strict=True)
        return [memory(patches)[0] for memory, patches in pairs]

    def _patches(self, levels: Sequence[Tensor]) -> list[Tensor]:
        dtype = self.memories[0].vectors.dtype
        return unit_patches([level.to(dtype) for level in levels])
