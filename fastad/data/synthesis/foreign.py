"""Good images and, beside each, a texture that is not the product."""

from collections.abc import Mapping
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from fastad.data.folder import Images
from fastad.data.synthesis.textures import random_texture

TEXTURES = 64  # that items take, mirrored and turned
LEAST_SIDE = 32  # pixels


class Foreign(torch.utils.data.Dataset):
    """Map-style data set for a student that must not follow its teacher on other images.

    Item i is the source's, as a dict, with "foreign": a generated texture (3, max(H // 2, 32),
    max(W // 2, 32)) uint8. Which one depends on (seed, epoch, i) alone. A quarter of the pixels is
    a quarter of the cost. EfficientAD takes images of ImageNet (Batzner et al., WACV 2024, sec.
    3.2).

    Args:
        images: data set or tensor whose items are images, or dicts with one as "image".
        seed: a whole number from 0.

    Attributes:
        is_fixed: whether "image" of an item is always the same, as the source says of its own.
        images: the source's, where it has them in memory.
    """

    def __init__(self, images: Images, seed: int = 0):
        self._images, self._seed = images, seed
        self.is_fixed = isinstance(images, Tensor) or getattr(images, "is_fixed", False) is True
        self.images = images if isinstance(images, Tensor) else getattr(images, "images", None)

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self.of_epoch(index, 0)

    def of_epoch(self, index: int, epoch: int) -> dict[str, Tensor]:
        """Item ``index`` with the texture of an epoch."""
        if not 0 <= index < len(self):
            raise IndexError(f"there is no item {index} among {len(self)}")
        of_epoch = getattr(self._images, "of_epoch", None)
        found = self._images[index] if of_epoch is None else of_epoch(index, epoch)
        item = dict(found) if isinstance(found, Mapping) else {"image": found}
        rng = np.random.default_rng([self._seed, index, epoch, 7])  # no key of others
        texture = self._textures[int(rng.integers(TEXTURES))]
        mirrored = [axis for axis in (1, 2) if rng.random() < 0.5]
        return {**item, "foreign": texture.flip(mirrored)}

    @cached_property
    def _textures(self) -> list[Tensor]:
        item = self._images[0]
        image: Tensor = item["image"] if isinstance(item, Mapping) else item
        height, width = (max(side // 2, LEAST_SIDE) for side in image.shape[-2:])
        rng = np.random.default_rng([self._seed, 7])
        drawn = (random_texture(rng, height, width) for _ in range(TEXTURES))
        return [torch.from_numpy(np.moveaxis(x, -1, 0).copy()) for x in drawn]
