"""Other conditions of the same product: light, position, sharpness and noise, without any defect.

`DISTURBANCES` are fixed and ask what a detector says when the conditions change. `varied` draws at
random, for copies of good images to learn from.
"""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from fastad.data.folder import Images

SHIFT = 5  # pixels by which an image moves
BLUR = 1.0  # pixels, standard deviation of the blur
NOISE = 5.0  # grey levels, standard deviation of the noise
LIGHT = 1.25  # the light of a copy is up to so many times as bright or as dark
CONTRAST = 1.1
WARMTH = 0.05  # by how much red gains and blue loses, or the other way
TURN = 1.0  # degrees
COPY_BLUR = 1.2  # pixels, the largest standard deviation of a copy's blur
COPY_NOISE = 6.0  # grey levels, the largest standard deviation of a copy's noise
GREY = 1e-6  # difference of the channels below which an image is grey

Pixels = np.ndarray  # (H, W, 3) float32, 0 to 255
Change = Callable[[Pixels, np.random.Generator], Pixels]


def _light(factor: float) -> Change:
    return lambda image, rng: image * np.float32(factor)


def _shift(pixels: int) -> Change:
    """Down and to the right; what enters repeats the border."""

    def moved(image: Pixels, rng: np.random.Generator) -> Pixels:
        rows, columns = (
            np.clip(np.arange(length) - pixels, 0, length - 1) for length in image.shape[:2]
        )
        return image[rows][:, columns]

    return moved


def _blur(deviation: float) -> Change:
    def blurred(image: Pixels, rng: np.random.Generator) -> Pixels:
        from scipy import ndimage  # only this needs it

        return ndimage.gaussian_filter(image, (deviation, deviation, 0), mode="nearest")

    return blurred


def _noise(deviation: float) -> Change:
    def noisy(image: Pixels, rng: np.random.Generator) -> Pixels:
        shape = (*image.shape[:2], 1 if _is_grey(image) else 3)
        return image + rng.normal(0, deviation, shape).astype(np.float32)

    return noisy


DISTURBANCES: dict[str, Change] = {
    "light -20 %": _light(0.8),
    "light -10 %": _light(0.9),
    "light +10 %": _light(1.1),
    "light +20 %": _light(1.2),
    f"shift -{SHIFT} px": _shift(-SHIFT),
    f"shift +{SHIFT} px": _shift(SHIFT),
    "mild blur": _blur(BLUR),
    "mild noise": _noise(NOISE),
}


def disturbed(image: Tensor, name: str, seed: int = 0) -> Tensor:
    """An image (3, H, W), uint8 or floating in [0, 1], under other conditions, in the same dtype.

    Args:
        name: one of `DISTURBANCES`. Light is a factor of all pixels, which are cut off at white.
            A shift is down and to the right, and repeats the border. The blur has a standard
            deviation of 1 pixel, the noise one of 5 grey levels.
        seed: of the noise.

    Raises:
        ValueError: an unknown name.
    """
    if name not in DISTURBANCES:
        raise ValueError(f"name must be one of {', '.join(DISTURBANCES)}; got {name!r}")
    return _changed(image, DISTURBANCES[name], np.random.default_rng(seed))


def varied(
    image: Tensor,
    rng: np.random.Generator,
    *,
    position: bool = True,
    inside: np.ndarray | None = None,
) -> Tensor:
    """A copy of a good image (3, H, W), uint8 or floating in [0, 1], under other conditions.

    Light by a factor from 0.8 to 1.25, contrast from 0.9 to 1.1, red against blue by up to 5 %. A
    grey image stays grey. Half of the copies are blurred, by a standard deviation of up to 1.2
    pixels. The others get noise, of a standard deviation of up to 6 grey levels. ``position`` also
    moves the image by up to 5 pixels and turns it by up to 1 degree. What enters repeats the
    border. ``inside`` (H, W) bool is a region of interest: contrast is about its mean colour.
    """
    draws = rng.uniform(-1, 1, 7)

    def change(pixels: Pixels, rng: np.random.Generator) -> Pixels:
        light, contrast, warmth, *place, grain = draws
        pixels = _lit(pixels, light, contrast, warmth, inside)
        if position:
            pixels = _placed(pixels, *place)
        own = _noise(COPY_NOISE * grain) if grain > 0 else _blur(COPY_BLUR * -grain)
        return own(pixels, rng)

    return _changed(image, change, rng)


class Variants(torch.utils.data.Dataset):
    """Map-style data set: images, then ``count`` copies of some of them under other conditions.

    Item i < len(images) is {"image": images[i]}. Behind them come the first copies of ``indices``,
    then the second ones. A copy depends on (seed, number of the copy, index) alone.

    Args:
        images: data set or tensor whose items are images, or dicts with one as "image".
        indices: of the images that are copied.
        count: copies of each, at least 1.
        seed: a whole number from 0.
        position: whether copies also move and turn. See `varied`.
        inside: (H, W) bool, a region of interest.

    Attributes:
        is_fixed: whether an item is always the same, as the source says of its own.
        images: the source's, where it has them in memory. Copies are then kept there, too.
    """

    def __init__(
        self,
        images: Images,
        indices: Tensor,
        count: int,
        seed: int = 0,
        position: bool = True,
        inside: np.ndarray | None = None,
    ):
        self._images, self._indices = images, indices.tolist()
        self._count, self._seed, self._position, self._inside = count, seed, position, inside
        self.is_fixed = isinstance(images, Tensor) or getattr(images, "is_fixed", False) is True
        self.images = images if isinstance(images, Tensor) else getattr(images, "images", None)
        self._kept: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return len(self._images) + self._count * len(self._indices)

    def rows(self) -> Tensor:
        """(1 + count, len(indices)): each image's own item, then those of its copies."""
        first, number = len(self._images), len(self._indices)
        copies = torch.arange(first, len(self)).view(self._count, number)
        return torch.cat([torch.tensor(self._indices, dtype=torch.int64)[None], copies])

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if not 0 <= index < len(self):
            raise IndexError(f"there is no item {index} among {len(self)}")
        if index in self._kept:
            return {"image": self._kept[index]}
        copy, position = divmod(index - len(self._images), max(len(self._indices), 1))
        source = index if copy < 0 else self._indices[position]
        item = self._images[source]
        image: Tensor = item["image"] if isinstance(item, Mapping) else item
        if copy >= 0:
            rng = np.random.default_rng([self._seed, copy, source, 5])  # no key of a defect
            image = varied(image, rng, position=self._position, inside=self._inside)
            if isinstance(self.images, Tensor) and self.is_fixed:
                self._kept[index] = image
        return {"image": image}


def _lit(
    image: Pixels,
    light: float,
    contrast: float,
    warmth: float,
    inside: np.ndarray | None = None,
) -> Pixels:
    """Other light, contrast and warmth; each from -1 to 1."""
    warm = 0.0 if _is_grey(image) else WARMTH * warmth
    factors = LIGHT**light * np.array([1 + warm, 1, 1 - warm], dtype=np.float32)
    mean = image.mean(axis=(0, 1)) if inside is None else image[inside].mean(axis=0)
    return ((image - mean) * np.float32(CONTRAST**contrast) + mean) * factors.astype(np.float32)


def _is_grey(image: Pixels) -> bool:
    return bool(np.ptp(image, axis=2).max() < GREY)


def _placed(image: Pixels, down: float, right: float, turn: float) -> Pixels:
    """Moved and turned about the middle; each from -1 to 1."""
    from scipy import ndimage  # only this needs it

    angle = np.deg2rad(TURN * turn)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    middle = (np.array(image.shape[:2]) - 1) / 2
    offset = middle - rotation @ middle + SHIFT * np.array([down, right])
    channels = [
        ndimage.affine_transform(image[..., c], rotation, offset, order=1, mode="nearest")
        for c in range(3)
    ]
    return np.stack(channels, axis=2)


def _changed(image: Tensor, change: Change, rng: np.random.Generator) -> Tensor:
    is_bytes = image.dtype == torch.uint8
    scale = 1 if is_bytes else 255
    pixels = image.permute(1, 2, 0).cpu().float().numpy() * np.float32(scale)
    found = torch.from_numpy(np.clip(change(pixels, rng), 0, 255)).permute(2, 0, 1).contiguous()
    found = found.round().to(torch.uint8) if is_bytes else (found / 255).to(image.dtype)
    return found.to(image.device)
