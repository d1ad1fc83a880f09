"""Perlin's gradient noise, and the irregular masks that are cut from it.

K. Perlin, "Improving noise", SIGGRAPH 2002, with gradients of unit length at random angles. Masks
as in V. Zavrtanik et al., "DRAEM", ICCV 2021.
"""

import math

import numpy as np
from PIL import Image

MAX_EXPONENT = 5  # at most 2 ** 5 lattice cells along an axis
MIN_CELL = 4  # pixels; noise with a cell of one pixel is zero everywhere
THRESHOLD = 0.5
_AMPLITUDE = math.sqrt(2)  # unit gradients alone reach 1 / sqrt(2)


def perlin_noise(
    shape: tuple[int, int], scales: tuple[float, float], rng: np.random.Generator
) -> np.ndarray:
    """Perlin noise (H, W) float32 in [-1, 1], of ``scales`` lattice cells down and across.

    Pixel (i, j) lies at lattice coordinates (i * scales[0] / H, j * scales[1] / W); the noise is
    zero at every lattice point. Scales need not be whole numbers. Raises ValueError for a shape or
    scale that is not positive.
    """
    if min(shape) < 1 or not min(scales) > 0:
        raise ValueError(f"shape and scales must be positive; got {shape} and {scales}")
    lattice = [math.ceil(scale) + 1 for scale in scales]
    angles = rng.uniform(0, 2 * np.pi, lattice)
    (top, down), (row, far_row) = _axis(shape[0], scales[0])
    (left, right), (column, far_column) = _axis(shape[1], scales[1])
    # The sum over a pixel's four lattice points of weight * (gradient . offset) is, for either
    # component of the gradients, a product of a function of the row and one of the column. It is
    # summed down first, for all columns of the lattice, and then across.
    across, along = np.cos(angles) * _AMPLITUDE, np.sin(angles) * _AMPLITUDE
    across = row[:, None] * across[top] + far_row[:, None] * across[top + 1]
    along = (row * down)[:, None] * along[top] + (far_row * (down - 1))[:, None] * along[top + 1]
    across, along = across.astype(np.float32), along.astype(np.float32)
    return (
        across[:, left] * np.float32(column * right)
        + across[:, left + 1] * np.float32(far_column * (right - 1))
        + along[:, left] * np.float32(column)
        + along[:, left + 1] * np.float32(far_column)
    )


def perlin_mask(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Irregular blobs: bool (H, W), where rotated Perlin noise exceeds 0.5. May be empty.

    The noise has 1, 2, 4, ... 32 cells along each axis, drawn independently, each of at least
    `MIN_CELL` pixels, at a random place in the lattice, and is turned by up to 90 degrees either
    way.
    """
    cells = []
    for side in shape:
        largest = max(0, min(MAX_EXPONENT, int(math.log2(max(1, side / MIN_CELL)))))
        cells.append(side / 2 ** int(rng.integers(largest + 1)))
    angle = rng.uniform(-np.pi / 2, np.pi / 2)
    cos, sin = math.cos(angle), math.sin(angle)
    height, width = shape
    # The noise fills the turned image's bounding box and a random part of a cell beyond, so that
    # blobs are as likely in the image's corners as elsewhere.
    box = (height * abs(cos) + width * abs(sin) + 2, width * abs(cos) + height * abs(sin) + 2)
    canvas = tuple(math.ceil(side + cell) for side, cell in zip(box, cells, strict=True))
    scales = (canvas[0] / cells[0], canvas[1] / cells[1])
    noise = Image.fromarray(perlin_noise(canvas, scales, rng))
    y, x = (
        side / 2 + rng.uniform(0, whole - side) for side, whole in zip(box, canvas, strict=True)
    )
    x -= (cos * width + sin * height) / 2
    y -= (cos * height - sin * width) / 2
    turned = noise.transform(
        (width, height),
        Image.Transform.AFFINE,
        (cos, sin, x, -sin, cos, y),
        Image.Resampling.BILINEAR,
    )
    return np.asarray(turned) > THRESHOLD


def _axis(size: int, scale: float) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
    """Of each pixel: cell and place in it, from 0 to 1; weights of the cell's two ends."""
    place = np.arange(size) * (scale / size)
    cell = place.astype(np.intp)
    place -= cell
    fade = place**3 * (place * (place * 6 - 15) + 10)
    return (cell, place), (1 - fade, fade)
