"""Images with synthesised defects to train on, after DRAEM (V. Zavrtanik et al., ICCV 2021)."""

import hashlib
import math
import operator
import os
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from fastad._values import is_integer, is_number, plain
from fastad.data.folder import Images
from fastad.data.synthesis.augmentations import augment
from fastad.data.synthesis.foreground import foreground, within
from fastad.data.synthesis.own_patches import own_patches as rearranged
from fastad.data.synthesis.real_defects import RealDefects
from fastad.data.synthesis.shapes import MIN_PIXELS, check_shapes, draw_mask
from fastad.data.synthesis.texture_folder import TextureFolder
from fastad.data.synthesis.textures import random_texture

MIN_SIDE = 32  # pixels
REAL_SHARE = 0.5  # of the items with defects that get a real one, where there are any (PRN's)
_TRIES = 32  # for a mask that lies on the product
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
    own_patches: float = 0.0,
    on_foreground: bool = False,
    inside: np.ndarray | None = None,
) -> tuple[Tensor, Tensor]:
    """Put a defect into an image (3, H, W), uint8 or floating in [0, 1].

    Inside the mask M, never empty, the result is (1 - b) * texture + b * image with b drawn
    uniformly from ``opacity``; outside it is the image to the last bit. The texture goes through
    three of the augmentations first. ``textures`` (rng, height, width) gives uint8 (H, W, 3); with
    the probability ``own_patches`` the image's own patches in another order are taken instead.
    ``on_foreground`` keeps M on the product, where one stands out from its background. ``inside``,
    (H, W) bool, keeps M in a region of interest.

    Returns the image, of the same dtype (uint8 is rounded), and M, bool (H, W).

    Raises:
        TypeError, ValueError: the image is something else or smaller than 32 x 32; unknown shapes;
            an opacity or a probability outside [0, 1].
    """
    _check_image(image)
    shapes, (low, high) = check_shapes(shapes), _check_opacity(opacity)
    _check_share("own_patches", own_patches)
    height, width = image.shape[1:]
    allowed = foreground(_as_bytes(image)) if on_foreground else None
    if inside is not None:
        allowed = inside if allowed is None else within(allowed, inside)
    if allowed is None:
        mask = draw_mask((height, width), rng, shapes)
    else:
        mask = _mask_within(allowed, rng, shapes)
    if own_patches and rng.random() < own_patches:
        texture = rearranged(_as_bytes(image), rng)
    else:
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
    ``images[indices[i]]``. Whether it stays clean, with an empty mask, and its defect depend on
    (seed, i) alone. They are the same in every epoch, process and run. No global generator is drawn
    from.

    Args:
        images: data set or tensor whose items are images, or dicts with one as "image".
        indices: of the images to use. An image that is there several times gets another defect each
            time.
        textures: folder of images to blend in, at any depth, or a `TextureFolder`. None generates
            textures.
        seed: a whole number from 0.
        clean_share: share of the items that stay clean. They are spread evenly: any n successive
            items have this share to within about one item.
        opacity: range of the image's own share inside the defect.
        shapes: of the defects: "perlin", "strokes", "spots". Of several each defect draws one.
        own_patches: probability that a defect is made of the image's own patches. See `synthesize`.
        on_foreground: keep the defects on the product. See `synthesize`.
        defects: folder of real defects with masks, for half of the items that do not stay clean. A
            defect is cut out of its image and pasted, with ``on_foreground`` onto the product. A
            quarter of these items are such an image itself.
        inside: (H, W) bool, a region of interest in which the defects lie. A real image stays as it
            is, and its mask is what lies inside.

    Raises:
        TypeError: an argument is of a wrong type.
        ValueError: an argument is out of its range.
        FileNotFoundError: there is no folder ``textures``.
        NotADirectoryError: ``textures`` is a file.

    Attributes:
        is_fixed: whether an item's image is always the same, as the source says of its own.
        fingerprint: hash of the source's images, the textures' files and the arguments. Missing
            where the source has none.

    Examples:
        >>> import torch
        >>> from fastad.data import PseudoAnomalies
        >>> images = torch.full((8, 3, 64, 64), 128, dtype=torch.uint8)
        >>> dataset = PseudoAnomalies(images, indices=range(8), seed=0)
        >>> [dataset.is_clean(i) for i in range(8)].count(True)
        4
        >>> item = dataset[2]
        >>> item["image"].shape, item["mask"].shape, item["mask"].any()
        (torch.Size([3, 64, 64]), torch.Size([64, 64]), tensor(True))
    """

    def __init__(
        self,
        images: Images,
        indices: Sequence[int],
        *,
        textures: str | Path | TextureFolder | None = None,
        seed: int = 0,
        clean_share: float = 0.5,
        opacity: tuple[float, float] = (0.0, 0.8),
        shapes: Sequence[str] = ("perlin",),
        own_patches: float = 0.0,
        on_foreground: bool = False,
        defects: str | Path | RealDefects | None = None,
        inside: np.ndarray | None = None,
    ) -> None:
        self.images, self.inside = images, inside
        self.indices = _check_indices(indices, len(images))
        if textures is not None and not isinstance(textures, (str, os.PathLike, TextureFolder)):
            raise TypeError(f"textures must be a folder or None; got {textures!r}")
        if isinstance(textures, (str, os.PathLike)):
            textures = TextureFolder(textures)
        self.textures: Texture = random_texture if textures is None else textures
        self.seed = plain(seed)
        if not is_integer(self.seed, 0):
            raise ValueError(f"seed must be a whole number of at least 0; got {self.seed!r:.200}")
        self.clean_share = _check_share("clean_share", clean_share)
        self.own_patches = _check_share("own_patches", own_patches)
        self.on_foreground = bool(on_foreground)
        if defects is not None and not isinstance(defects, (str, os.PathLike, RealDefects)):
            raise TypeError(f"defects must be a folder or None; got {defects!r}")
        self.defects = RealDefects(defects) if isinstance(defects, (str, os.PathLike)) else defects
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
        item = self.images[self.indices[index]]
        image: Any = item.get("image") if isinstance(item, Mapping) else item
        _check_image(image)
        if self.is_clean(index):
            return {"image": image, "mask": torch.zeros_like(image[0], dtype=torch.bool)}
        rng = np.random.default_rng([self.seed, index])
        if self.is_real(index):
            image, mask = self._with_real_defect(image, rng)
        else:
            image, mask = synthesize(
                image,
                rng,
                textures=self.textures,
                shapes=self.shapes,
                opacity=self.opacity,
                own_patches=self.own_patches,
                on_foreground=self.on_foreground,
                inside=self.inside,
            )
        return {"image": image, "mask": mask}

    def is_clean(self, index: int) -> bool:
        """Whether item ``index``, counted from 0, stays without a defect."""
        return self._place(index) < self.clean_share

    def is_real(self, index: int) -> bool:
        """Whether item ``index``, counted from 0, gets a real defect."""
        if self.defects is None or self.is_clean(index):
            return False
        return self._place(index) < self.clean_share + (1 - self.clean_share) * REAL_SHARE

    def _place(self, index: int) -> float:
        return (self._first + index * _GOLDEN) % 1

    def _with_real_defect(self, image: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        pixels = _as_bytes(image)
        height, width = pixels.shape[:2]
        allowed = foreground(pixels) if self.on_foreground else np.ones((height, width), bool)
        if self.inside is not None:
            allowed = within(allowed, self.inside)
        assert self.defects is not None  # `is_real` says so
        found, mask = self.defects(pixels, allowed, rng)
        mask = mask if self.inside is None else mask & self.inside
        changed = (found != pixels).any(axis=2)
        covering = torch.from_numpy(found[changed].T.copy()).to(image.device)
        if image.dtype != torch.uint8:
            covering = covering.to(image.dtype) / 255
        result = image.clone()
        result[:, torch.from_numpy(changed).to(image.device)] = covering
        return result, torch.from_numpy(mask).to(image.device)

    @cached_property
    def fingerprint(self) -> str:
        source = _fingerprint(self.images)
        textures = getattr(self.textures, "fingerprint", None)
        facts: tuple[object, ...]
        facts = (self.indices, textures, self.seed, self.clean_share, self.opacity, self.shapes)
        # As long as it was before there were others, so that trainings of then can be resumed.
        if self.own_patches or self.on_foreground or self.defects is not None:
            defects = None if self.defects is None else self.defects.fingerprint
            facts += (self.own_patches, self.on_foreground, defects)
        if self.inside is not None:
            facts += (np.packbits(self.inside).tobytes(),)
        return hashlib.sha256(repr((source, *facts)).encode()).hexdigest()


def _fingerprint(images: Images) -> str:
    if not isinstance(images, Tensor):
        return cast(Any, images).fingerprint  # AttributeError where the source has none
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


def _mask_within(
    allowed: np.ndarray, rng: np.random.Generator, shapes: Sequence[str]
) -> np.ndarray:
    """A mask of which only what is ``allowed`` is left; drawn again where that is too little."""
    for _ in range(_TRIES):
        mask = draw_mask(allowed.shape, rng, shapes) & allowed
        if np.count_nonzero(mask) >= MIN_PIXELS:
            return mask
    return allowed.copy()


def _as_bytes(image: Tensor) -> np.ndarray:
    """An image (3, H, W), uint8 or floating in [0, 1], as (H, W, 3) uint8."""
    if image.dtype != torch.uint8:
        image = (image.clamp(0, 1) * 255).round().to(torch.uint8)
    return image.permute(1, 2, 0).contiguous().cpu().numpy()


def _check_share(name: str, share: float) -> float:
    if not is_number(share := plain(share), 0) or share > 1:
        raise ValueError(f"{name} must be in [0, 1]; got {share!r:.200}")
    return float(share)


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
