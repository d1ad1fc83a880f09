"""Synthesised defects to try a detector on: other kinds than those that it is trained on.

Training blends textures into blobs of Perlin noise (`fastad.data.synthesis.anomalies`). What
chooses an epoch or a score, and what tells how much a detector finds, must be of other kinds. Here
are five, after what inspection looks for: scratches, spots, faint stains, parts of the image in a
wrong place (after CutPaste, Li et al., CVPR 2021) and dents.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torch.utils.data import Dataset

from fastad._values import is_integer, plain
from fastad.data.folder import Images
from fastad.data.synthesis.foreground import foreground, within

SIZES = ("small", "medium", "large")
# Of each size the least and the largest share of the image's pixels, and of a scratch's length in
# the image's longer side.
AREAS = {"small": (0.0005, 0.002), "medium": (0.002, 0.01), "large": (0.01, 0.05)}
LENGTHS = {"small": (0.05, 0.1), "medium": (0.1, 0.3), "large": (0.3, 0.9)}
LEAST_PIXELS = 8  # that a defect changes
LEAST_CHANGE = 4  # grey levels by which a pixel must change to belong to the defect
MIN_SIDE = 32  # pixels
_TRIES = 16
_FINE = 4  # by how much finer outlines are drawn than the image

Pixels = np.ndarray  # (H, W, 3) float32, 0 to 255
Place = tuple[float, float]  # y, x


def trial_defect(
    image: np.ndarray,
    kind: str,
    size: str,
    rng: np.random.Generator,
    inside: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """An image (H, W, 3) uint8 with one defect on the product, and its mask, bool (H, W).

    The mask holds the pixels of the defect that changed by `LEAST_CHANGE` grey levels or more, with
    small gaps closed, at least `LEAST_PIXELS`. Outside the defect the image stays the same. A grey
    image stays grey.

    Args:
        kind: one of `KINDS`.
        size: one of `SIZES`.
        inside: (H, W) bool, a region of interest with at least one pixel. The middle of the defect
            lies in it, on the product where that is in it, and the mask is what lies in it. None
            for the whole image.

    Raises:
        ValueError: an unknown kind or size, or an image of another form or below 32 pixels a side.
    """
    if kind not in KINDS or size not in SIZES:
        raise ValueError(
            f"kind must be one of {', '.join(KINDS)} and size one of {', '.join(SIZES)}; "
            f"got {kind!r} and {size!r}"
        )
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"image must be (H, W, 3) uint8; got {image.shape} {image.dtype}")
    if min(image.shape[:2]) < MIN_SIDE:
        raise ValueError(f"image must have at least {MIN_SIDE} pixels a side; got {image.shape}")
    from scipy import ndimage  # only what tries a detector needs it

    allowed = foreground(image)
    if inside is not None:
        allowed = within(allowed, inside)
    product = np.argwhere(allowed)
    pixels, is_grey = image.astype(np.float32), bool((image == image[..., :1]).all())
    # A part of the image in another place, or a dent in an even surface, may change nothing.
    for attempt in range(_TRIES):
        row, column = product[rng.integers(len(product))]
        draw = KINDS[kind] if attempt < _TRIES - 1 else _spot
        changed, covered = draw(pixels, (float(row), float(column)), size, rng)
        if is_grey:  # colour would give the defect away
            changed = changed.mean(axis=2, keepdims=True).repeat(3, axis=2)
        found = np.clip(np.rint(changed), 0, 255).astype(np.uint8)
        red, green, blue = np.moveaxis(np.abs(found.astype(np.int16) - image), 2, 0)
        change = np.maximum(np.maximum(red, green), blue)  # many times as fast as max(axis=2)
        mask = change >= LEAST_CHANGE
        mask = (mask | ndimage.binary_closing(mask, iterations=2)) & covered
        counted = covered if inside is None else covered & inside
        mask &= counted
        if mask.sum() >= max(LEAST_PIXELS, 0.25 * counted.sum()):
            break
    found[~covered] = image[~covered]
    return found, mask


def _scratch(
    image: Pixels, place: Place, size: str, rng: np.random.Generator
) -> tuple[Pixels, np.ndarray]:
    """A thin line, straight or bent, darker or brighter than what it crosses."""
    length = rng.uniform(*LENGTHS[size]) * max(image.shape[:2])
    steps = max(2, math.ceil(length / 3))
    jitter, bend = rng.choice([0.02, 0.3]), rng.normal(0, 0.03)
    headings = rng.uniform(0, 2 * np.pi) + bend * np.arange(steps) + rng.normal(0, jitter, steps)
    walk = np.cumsum(np.stack([np.sin(headings), np.cos(headings)], 1) * (length / steps), axis=0)
    path = np.asarray(place) + walk - walk[steps // 2]
    width = rng.uniform(1, 3)

    def draw(canvas: ImageDraw.ImageDraw) -> None:
        points = (_FINE * path[:, ::-1]).ravel().tolist()
        canvas.line(points, 255, round(width * _FINE), joint="curve")

    return _tinted(image, _drawn(image, draw), _tint(rng, 20, 90))


def _spot(
    image: Pixels, place: Place, size: str, rng: np.random.Generator
) -> tuple[Pixels, np.ndarray]:
    """A round spot of another brightness or colour with a clear edge: a hole, a pore, dirt."""
    outline = _outline(image, place, size, rng, roughness=0.1)
    cover = _drawn(image, lambda canvas: canvas.polygon(outline, fill=255))
    return _tinted(image, cover, _tint(rng, 20, 100))


def _stain(
    image: Pixels, place: Place, size: str, rng: np.random.Generator
) -> tuple[Pixels, np.ndarray]:
    """A faint change of brightness or colour without an edge, of three times the area."""
    radius = math.sqrt(3 * _area(image, size, rng) / math.pi)
    distance = _elliptic_distance(image, place, rng)
    # At its edge, where it is cut, 4 % of the change are left.
    cover = np.exp(-3.2 * (distance / radius) ** 2, dtype=np.float32)
    changed, _ = _tinted(image, cover, _tint(rng, 15, 45))
    return changed, distance < radius


def _patch(
    image: Pixels, place: Place, size: str, rng: np.random.Generator
) -> tuple[Pixels, np.ndarray]:
    """A part of the image in another place, turned over: what is there does not belong there."""
    height, width = image.shape[:2]
    outline = _outline(image, place, size, rng, roughness=0.3)
    cover = _drawn(image, lambda canvas: canvas.polygon(outline, fill=255))[..., None]
    turned = image[:: int(rng.choice([-1, 1])), :: int(rng.choice([-1, 1]))]
    shift = int(rng.integers(height)), int(rng.integers(width))
    moved = np.roll(turned, shift, axis=(0, 1)) + rng.uniform(-15, 15)
    return image + cover * (moved - image), cover[..., 0] > 0


def _dent(
    image: Pixels, place: Place, size: str, rng: np.random.Generator
) -> tuple[Pixels, np.ndarray]:
    """A bump or dent: what is there is drawn together, one side is brighter, the other darker."""
    from scipy import ndimage  # only what tries a detector needs it

    radius = math.sqrt(_area(image, size, rng) / math.pi) * 1.5
    distance = _elliptic_distance(image, place, rng)
    inside = distance < radius
    relief = np.where(inside, (1 - (distance / radius) ** 2).clip(0) ** 2, 0).astype(np.float32)
    rows, columns = np.mgrid[: image.shape[0], : image.shape[1]].astype(np.float32)
    pull = rng.uniform(0.2, 0.6) * rng.choice([-1, 1]) * relief
    sources = (rows + pull * (place[0] - rows), columns + pull * (place[1] - columns))
    warped = np.stack(
        [
            ndimage.map_coordinates(image[..., c], sources, order=1, mode="nearest")
            for c in range(3)
        ],
        axis=2,
    )
    slopes = np.gradient(relief)
    light = rng.uniform(0, 2 * np.pi)
    shade = math.sin(light) * slopes[0] + math.cos(light) * slopes[1]
    shade *= rng.uniform(15, 60) / max(np.abs(shade).max(), 1e-6)
    return warped + shade[..., None], inside


Kind = Callable[[Pixels, Place, str, np.random.Generator], tuple[Pixels, np.ndarray]]
KINDS: dict[str, Kind] = {
    "scratch": _scratch,
    "spot": _spot,
    "stain": _stain,
    "patch": _patch,
    "dent": _dent,
}


class TrialDefects(Dataset):
    """Map-style data set: normal images, each item with one defect of a known kind and size.

    Item i is {"image": (3, H, W) of the source's dtype, "mask": (H, W) bool}. Kinds come in turn,
    then sizes, so that any 15 items in succession hold each of both once. Images come in turn, too.
    A defect depends on (seed, i) alone.

    Args:
        images: data set or tensor whose items are images, or dicts with one as "image".
        indices: of the images to use, such as those held out from a training.
        count: number of items.
        seed: a whole number from 0.
        inside: (H, W) bool, a region of interest in which the defects lie, as of `trial_defect`.

    Attributes:
        is_fixed: whether an item is always the same, as the source says of its own.

    Raises:
        ValueError: no indices, or a count or seed that is no whole number in its range.

    Examples:
        >>> import torch
        >>> from fastad.data import TrialDefects
        >>> images = torch.full((4, 3, 64, 64), 128, dtype=torch.uint8)
        >>> defects = TrialDefects(images, indices=range(4), count=30)
        >>> defects.kind(0), defects.size(0), defects.kind(1), defects.size(5)
        ('scratch', 'small', 'spot', 'medium')
        >>> defects[0]["image"].shape, defects[0]["mask"].any()
        (torch.Size([3, 64, 64]), tensor(True))
    """

    def __init__(
        self,
        images: Images,
        indices: Sequence[int],
        *,
        count: int = 150,
        seed: int = 0,
        inside: np.ndarray | None = None,
    ) -> None:
        self._inside = inside
        self.images, self.indices = images, [int(index) for index in indices]
        self.count, self.seed = plain(count), plain(seed)
        if not self.indices:
            raise ValueError("indices: there is no image to put a defect into")
        if not is_integer(self.count, 1) or not is_integer(self.seed, 0):
            raise ValueError(
                f"count must be a whole number from 1 and seed one from 0; got {count!r}, {seed!r}"
            )
        self.is_fixed = isinstance(images, Tensor) or getattr(images, "is_fixed", False) is True

    def __len__(self) -> int:
        return self.count

    def kind(self, index: int) -> str:
        """The kind of the defect of item ``index``, one of `KINDS`."""
        return list(KINDS)[index % len(KINDS)]

    def size(self, index: int) -> str:
        """The size of the defect of item ``index``, one of `SIZES`."""
        return SIZES[index // len(KINDS) % len(SIZES)]

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if not 0 <= index < self.count:
            raise IndexError(f"there is no item {index} among {self.count}")
        item: Any = self.images[self.indices[index % len(self.indices)]]
        image: Tensor = item["image"] if isinstance(item, Mapping) else item
        is_bytes = image.dtype == torch.uint8
        as_bytes = image if is_bytes else (image.clamp(0, 1) * 255).round().to(torch.uint8)
        rng = np.random.default_rng([self.seed, index, 2])  # no key of `PseudoAnomalies`
        found, mask = trial_defect(
            as_bytes.permute(1, 2, 0).contiguous().cpu().numpy(),
            self.kind(index),
            self.size(index),
            rng,
            self._inside,
        )
        pixels = torch.from_numpy(found).permute(2, 0, 1).contiguous().to(image.device)
        if not is_bytes:  # what did not change keeps its last bit
            pixels = torch.where(pixels == as_bytes, image, pixels.to(image.dtype) / 255)
        return {"image": pixels, "mask": torch.from_numpy(mask).to(image.device)}


def _area(image: Pixels, size: str, rng: np.random.Generator) -> float:
    """Pixels of a defect; small and large ones of a size are equally likely on a log scale."""
    low, high = AREAS[size]
    area = image.shape[0] * image.shape[1] * low * (high / low) ** rng.random()
    return max(area, 3 * LEAST_PIXELS)


def _outline(
    image: Pixels, place: Place, size: str, rng: np.random.Generator, roughness: float
) -> list[float]:
    """A closed outline around ``place``, as x, y, x, y ... on the finer canvas."""
    flatness, turn = rng.uniform(0.5, 1), rng.uniform(0, np.pi)
    radius = math.sqrt(_area(image, size, rng) / (math.pi * flatness))
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    radii = radius * (1 + rng.normal(0, roughness, 24)).clip(0.4, 1.6)
    x, y = radii * np.cos(angles), flatness * radii * np.sin(angles)
    across = place[1] + x * np.cos(turn) - y * np.sin(turn)
    down = place[0] + x * np.sin(turn) + y * np.cos(turn)
    return (_FINE * np.stack([across, down], 1)).ravel().tolist()


def _elliptic_distance(image: Pixels, place: Place, rng: np.random.Generator) -> np.ndarray:
    """Distance in pixels from ``place``, in one direction up to twice as long: (H, W)."""
    stretch, turn = math.sqrt(rng.uniform(1, 2)), rng.uniform(0, np.pi)
    y, x = np.ogrid[: image.shape[0], : image.shape[1]]
    y, x = y - place[0], x - place[1]
    along, across = np.cos(turn) * x + np.sin(turn) * y, np.cos(turn) * y - np.sin(turn) * x
    return np.hypot(along / stretch, across * stretch)


def _drawn(image: Pixels, draw: Callable[[ImageDraw.ImageDraw], None]) -> np.ndarray:
    """Share of each pixel that is covered by what ``draw`` draws white: (H, W) float32."""
    canvas = Image.new("L", (image.shape[1] * _FINE, image.shape[0] * _FINE))
    draw(ImageDraw.Draw(canvas))
    return np.asarray(canvas.reduce(_FINE), dtype=np.float32) / 255


def _tint(rng: np.random.Generator, least: float, most: float) -> np.ndarray:
    """What is added to a colour: darker or brighter, sometimes more in one channel than others."""
    strength = least * (most / least) ** rng.random() * rng.choice([-1, 1])
    channels = np.ones(3) if rng.random() < 0.5 else rng.uniform(0.3, 1, 3)
    return (strength * channels / channels.max()).astype(np.float32)


def _tinted(image: Pixels, cover: np.ndarray, tint: np.ndarray) -> tuple[Pixels, np.ndarray]:
    """The image with ``tint`` added where ``cover`` is; turned over where that would be cut off."""
    middle = np.average(image.mean(axis=2), weights=cover) if cover.any() else 0
    if not 0 <= middle + tint.mean() <= 255:
        tint = -tint
    return image + cover[..., None] * tint, cover > 0
