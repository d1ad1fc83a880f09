"""Images with synthesised defects to train on, after DRAEM (V. Zavrtanik et al., ICCV 2021)."""

import hashlib
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from numbers import Integral
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from fastad.data.synthesis.augmentations import augment
from fastad.data.synthesis.shapes import check_shapes, draw_mask
from fastad.data.synthesis.texture_folder import TextureFolder
from fastad.data.synthesis.textures import random_texture

MIN_SIDE = 32  # pixels
# Multiples of it modulo 1 are spread evenly, whatever part of the sequence is looked at.
_GOLDEN = (5**0.5 - 1) / 2

Texture = Callable[[np.random.Generator, int, int], np.ndarray]


def synthesize(
    image: Tensor,
    rng: np.random.Generator,
    *,
    textures: Texture = random_texture,
    shapes: Sequence[str] = ("perlin",),
    opacity: tuple[float, float] = (0.0, 0.8),
) -> tuple[Tensor, Tensor]:
    """Put a defect into an image (3, H, W), uint8 or floating in [0, 1].

    Inside the mask M, never empty, the result is (1 - b) * texture + b * image with b drawn
    uniformly from ``opacity``; outside it is the image to the last bit. The texture goes through
    three of the augmentations first. ``textures`` (rng, height, width) gives uint8 (H, W, 3).

    Returns the image, of the same dtype (uint8 is rounded), and M, bool (H, W).

    Raises:
        TypeError, ValueError: the image is something else or smaller than 32 x 32; unknown shapes;
            an opacity outside [0, 1].
    """
    _check_image(image)
    shapes, (low, high) = check_shapes(shapes), _check_opacity(opacity)
    height, width = image.shape[1:]
    mask = draw_mask((height, width), rng, shapes)
    texture = augment(textures(rng, height, width), rng)
    share = rng.uniform(low, high)
    where = torch.from_numpy(mask).to(image.device)
    exact = torch.promote_types(image.dtype, torch.float32)
    covering = torch.from_numpy(texture[mask].T).to(image.device, exact)  # (3, pixels)
    if image.dtype != torch.uint8:
        covering = covering / 255
    blended = (1 - share) * covering + share * image[:, where].to(exact)
    if image.dtype == torch.uint8:
        blended = blended.round()
    result = image.clone()
    result[:, where] = blended.to(image.dtype)
    return result, where


class PseudoAnomalies(Dataset):
    """Map-style data set of images, some of them with a synthesised defect.

    Item i is {"image": (3, H, W) of the source's dtype, "mask": (H, W) bool} of
    ``images[indices[i]]``. Whether it stays clean, with an empty mask, and its defect are a
    function of (seed, i) alone: the same in every epoch, process and run, and no global generator
    is drawn from.

    Args:
        images: data set or tensor whose items are images, or dicts with one as "image".
        indices: of the images to use; one may be there several times and gets another defect each.
        textures: folder of images to blend in, at any depth, or a `TextureFolder`; None to
            generate textures.
        seed: a whole number from 0.
        clean_share: of the items that stay clean. Which ones is not drawn but follows a sequence
            that is spread evenly, so that any n successive items have this share to within about
            one item.
        opacity: range of the image's own share inside the defect.
        shapes: of the defects: "perlin", "strokes", "spots"; of several each defect draws one.

    Raises:
        TypeError, ValueError: an argument is none of that.
        FileNotFoundError, NotADirectoryError: there is no folder ``textures``.

    Attributes:
        is_fixed: whether an item's image is always the same, as the source says of its own.
        fingerprint: hash of the source's images, the textures' files and the arguments; there is
            none where the source has none.
    """

    def __init__(
        self,
        images: Dataset | Tensor,
        indices: Sequence[int],
        *,
        textures: str | Path | TextureFolder | None = None,
        seed: int = 0,
        clean_share: float = 0.5,
        opacity: tuple[float, float] = (0.0, 0.8),
        shapes: Sequence[str] = ("perlin",),
    ) -> None:
        self.images = images
        self.indices = _check_indices(indices, len(images))
        if textures is not None and not isinstance(textures, (str, Path, TextureFolder)):
            raise TypeError(f"textures must be a folder or None; got {textures!r}")
        if isinstance(textures, (str, Path)):
            textures = TextureFolder(textures)
        self.textures: Texture = random_texture if textures is None else textures
        if not isinstance(seed, Integral) or seed < 0:
            raise ValueError(f"seed must be a whole number of at least 0; got {seed!r}")
        self.seed = int(seed)
        if not 0 <= clean_share <= 1:
            raise ValueError(f"clean_share must be in [0, 1]; got {clean_share}")
        self.clean_share = float(clean_share)
        self.opacity = _check_opacity(opacity)
        self.shapes = check_shapes(shapes)
        self.is_fixed = isinstance(images, Tensor) or getattr(images, "is_fixed", False) is True
        # A key of three words is no item's, and trailing zeros would not tell keys apart.
        self._first = np.random.default_rng([self.seed, 0, 1]).random()

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"there is no item {index} among {len(self)}")
        index = range(len(self))[index]
        image = self.images[self.indices[index]]
        image = image.get("image") if isinstance(image, Mapping) else image
        _check_image(image)
        if self.is_clean(index):
            return {"image": image, "mask": torch.zeros_like(image[0], dtype=torch.bool)}
        image, mask = synthesize(
            image,
            np.random.default_rng([self.seed, index]),
            textures=self.textures,
            shapes=self.shapes,
            opacity=self.opacity,
        )
        return {"image": image, "mask": mask}

    def is_clean(self, index: int) -> bool:
        """Whether item ``index``, counted from 0, stays without a defect."""
        return (self._first + index * _GOLDEN) % 1 < self.clean_share

    @cached_property
    def fingerprint(self) -> str:
        source = _fingerprint(self.images)
        textures = getattr(self.textures, "fingerprint", None)
        facts = (self.indices, textures, self.seed, self.clean_share, self.opacity, self.shapes)
        return hashlib.sha256(repr((source, *facts)).encode()).hexdigest()


def _fingerprint(images: Dataset | Tensor) -> str:
    if not isinstance(images, Tensor):
        return images.fingerprint  # AttributeError where the source has none
    digest = hashlib.sha256(f"{images.dtype} {tuple(images.shape)}".encode())
    for image in images:
        digest.update(image.cpu().contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()


def _check_image(image: Tensor) -> None:
    if not isinstance(image, Tensor):
        raise TypeError(f"image must be a tensor (3, H, W); got {type(image).__name__}")
    if image.dim() != 3 or image.shape[0] != 3 or min(image.shape[1:]) < MIN_SIDE:
        raise ValueError(
            f"image must have shape (3, H, W), H and W at least {MIN_SIDE}; "
            f"got {tuple(image.shape)}"
        )
    if image.dtype != torch.uint8 and not image.is_floating_point():
        raise TypeError(f"image must be uint8 or floating point in [0, 1]; got {image.dtype}")


def _check_opacity(opacity: tuple[float, float]) -> tuple[float, float]:
    try:
        low, high = map(float, opacity)
    except (TypeError, ValueError):
        low = high = math.nan
    if not 0 <= low <= high <= 1:
        raise ValueError(f"opacity must be (low, high) with 0 <= low <= high <= 1; got {opacity!r}")
    return low, high


def _check_indices(indices: Sequence[int], size: int) -> list[int]:
    try:
        checked = [operator.index(index) for index in indices]
    except TypeError:
        raise TypeError(f"indices must be integers; got {indices!r:.100}") from None
    for index in checked:
        if not 0 <= index < size:
            raise ValueError(f"indices: there is no image {index} among {size} (from 0)")
    return checked
