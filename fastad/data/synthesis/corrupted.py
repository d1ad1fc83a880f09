"""Good images and, beside some of them, the same image with a synthesised defect."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from fastad.data.folder import Images
from fastad.data.synthesis.anomalies import synthesize


class Corrupted(torch.utils.data.Dataset):
    """Map-style data set for a student that must see past defects (DeSTSeg, arXiv 2211.11317).

    Item i is {"image": images[i], "corrupted": the same with a defect, or the image itself}. What
    has a defect, and which, depends on (seed, epoch, i) alone. The image is that of the source.

    Args:
        images: data set or tensor whose items are images, or dicts with one as "image".
        indices: of the items that may get a defect.
        share: probability of a defect, from 0 to 1.
        seed: a whole number from 0.
        inside: (H, W) bool, a region of interest in which the defects lie.

    Attributes:
        is_fixed: whether "image" of an item is always the same, as the source says of its own.
        images: the source's, where it has them in memory.
    """

    def __init__(
        self,
        images: Images,
        indices: Sequence[int],
        share: float,
        seed: int = 0,
        inside: np.ndarray | None = None,
    ):
        self._images, self._indices = images, frozenset(map(int, indices))
        self._share, self._seed, self._inside = share, seed, inside
        self.is_fixed = isinstance(images, Tensor) or getattr(images, "is_fixed", False) is True
        self.images = images if isinstance(images, Tensor) else getattr(images, "images", None)

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self.of_epoch(index, 0)

    def of_epoch(self, index: int, epoch: int) -> dict[str, Tensor]:
        """Item ``index`` with the defect of an epoch."""
        if not 0 <= index < len(self):
            raise IndexError(f"there is no item {index} among {len(self)}")
        item = self._images[index]
        image: Tensor = item["image"] if isinstance(item, Mapping) else item
        corrupted = image
        if index in self._indices:
            rng = np.random.default_rng([self._seed, index, epoch, 6])  # no key of others
            if rng.random() < self._share:
                corrupted, _ = synthesize(image, rng, inside=self._inside)
        return {"image": image, "corrupted": corrupted}
