"""Images cut into tiles to train on."""

import hashlib
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from fastad.data.folder import Images


class TileDataset(Dataset):
    """Map-style data set of tiles: item -> (3, h, w), the tiles of an image one after the other.

    They cover each image, at the same places in each. At its end they overlap.

    Args:
        images: of (3, H, W), or dicts with one as "image".
        size: (H, W).
        tile: (h, w), at most the image's.
        inside: (H, W) bool, what counts of an image. Tiles without any of it are left out.

    Attributes:
        places: (top, left) of the tiles of an image, in pixels.
        each: how many an image has.

    Examples:
        >>> import torch
        >>> from fastad.tiles import TileDataset
        >>> tiles = TileDataset(torch.rand(5, 3, 100, 60), (100, 60), (64, 32))
        >>> len(tiles), tiles.places, tiles[0].shape
        (20, [(0, 0), (0, 28), (36, 0), (36, 28)], torch.Size([3, 64, 32]))
    """

    def __init__(
        self,
        images: Images,
        size: tuple[int, int],
        tile: tuple[int, int],
        inside: Tensor | None = None,
    ) -> None:
        if tile[0] > size[0] or tile[1] > size[1]:
            raise ValueError(
                f"tile: {tile[0]}x{tile[1]} is larger than the images, {size[0]}x{size[1]}"
            )
        self.images, self.tile = images, tile
        rows, columns = (_begins(*sides) for sides in zip(size, tile, strict=True))
        self.places = [
            (top, left)
            for top in rows
            for left in columns
            if inside is None or inside[top : top + tile[0], left : left + tile[1]].any()
        ]
        self.each = len(self.places)
        # What training asks for: whether an index always gives the same pixels.
        self.is_fixed = isinstance(images, Tensor) or getattr(images, "is_fixed", False) is True

    @property
    def fingerprint(self) -> str:
        """Of the images and the places."""
        own = repr((self.tile, self.places)).encode()
        if isinstance(self.images, Tensor):
            return hashlib.sha256(
                own + self.images.contiguous().cpu().numpy().tobytes()
            ).hexdigest()
        return hashlib.sha256(
            own + str(getattr(self.images, "fingerprint", "")).encode()
        ).hexdigest()

    def of_images(self, indices: Iterable[int]) -> list[int]:
        """Indices of the tiles of some images."""
        count = len(self.places)
        return [index * count + place for index in indices for place in range(count)]

    def __len__(self) -> int:
        return len(self.images) * len(self.places)

    def __getitem__(self, index: int) -> Tensor:
        which, place = divmod(int(index), len(self.places))
        item: Any = self.images[which]
        image = item["image"] if isinstance(item, dict) else item
        (top, left), (height, width) = self.places[place], self.tile
        return image[:, top : top + height, left : left + width]


def _begins(length: int, tile: int) -> list[int]:
    """Where tiles begin that cover a length, evenly."""
    count = -(-length // tile)
    return torch.linspace(0, length - tile, count).round().int().tolist()
