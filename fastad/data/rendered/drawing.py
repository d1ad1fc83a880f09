"""What the synthetic products are drawn with: noise, soft edges, light, strokes.

A drawing is an array of (EXTENT, EXTENT) values or (3, EXTENT, EXTENT) colours in [0, 1], float32,
finer than the image that it becomes. Positions and lengths are in pixels of that image.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

SIZE, FINE = 256, 2  # pixels of an image, and by how much finer it is drawn
EXTENT = SIZE * FINE
LIGHT_X, LIGHT_Y = -0.574, -0.819  # towards the light, in the image plane

Y, X = (np.mgrid[:EXTENT, :EXTENT].astype(np.float32) + 0.5) / FINE
Rng = np.random.Generator


def noise(rng: Rng, width: float, height: float | None = None) -> np.ndarray:
    """Smooth noise of mean 0 and deviation 1 whose grains are so many pixels wide and high."""
    cells = [max(2, round(SIZE / grain) + 3) for grain in (height or width, width)]
    grains = Image.fromarray(rng.standard_normal(cells, np.float32))
    values = np.asarray(grains.resize((EXTENT, EXTENT), Image.Resampling.BICUBIC))
    return (values - values.mean()) / values.std()


def blur(values: np.ndarray, radius: float) -> np.ndarray:
    picture = Image.fromarray(np.uint8(values * np.float32(255)))
    blurred = picture.filter(ImageFilter.GaussianBlur(radius * FINE))
    return np.asarray(blurred, np.float32) / np.float32(255)


def shadow(solid: np.ndarray, right: int, down: int, softness: float) -> np.ndarray:
    return blur(np.roll(solid, (down * FINE, right * FINE), (0, 1)), softness)


def ridge(distance: np.ndarray, width: float) -> np.ndarray:
    """1 where the distance is 0, falling off like a bell."""
    return np.exp(-np.square(distance / width))


def blend(colour: np.ndarray, over: tuple[float, ...], share: np.ndarray) -> np.ndarray:
    full = np.array(over, np.float32)[:, None, None]
    return colour + (full - colour) * np.asarray(share, np.float32)


def tint(shade: np.ndarray, *rgb: float) -> np.ndarray:
    return np.array(rgb, np.float32)[:, None, None] * shade


def length(dx: np.ndarray, dy: np.ndarray) -> np.ndarray:
    return np.sqrt(dx * dx + dy * dy)


def lit(dx: np.ndarray, dy: np.ndarray, r: np.ndarray) -> np.ndarray:
    """Cosine between the direction (dx, dy), of length r, and the light."""
    return (dx * LIGHT_X + dy * LIGHT_Y) / np.maximum(r, 1e-3)


def pair(rng: Rng, low: float, high: float) -> tuple[float, float]:
    # Python floats, because numpy's would make every array float64.
    return rng.uniform(low, high), rng.uniform(low, high)


def point(centre: Sequence[float], radius: float, angle: float) -> tuple[float, float]:
    x, y = centre
    return float(x + radius * np.cos(angle)), float(y + radius * np.sin(angle))


def curve(rng: Rng, start: Sequence[float], end: Sequence[float], bend: float) -> np.ndarray:
    """Points (40, 2), x and y in pixels, from start to end, bent at random."""
    t, first, last = np.linspace(0, 1, 40)[:, None], np.array(start), np.array(end)
    middle = (first + last) / 2 + rng.normal(0, bend, 2)
    return (1 - t) ** 2 * first + 2 * t * (1 - t) * middle + t**2 * last


def stroke(points: np.ndarray, width: float) -> np.ndarray:
    """1 on a line through the points, softly falling to 0 beside it."""
    picture = Image.new("L", (EXTENT, EXTENT))
    line = [tuple(point) for point in points * FINE]
    ImageDraw.Draw(picture).line(line, 255, max(1, round(width * FINE)), joint="curve")
    return blur(np.asarray(picture, np.float32) / np.float32(255), 0.3)


def patch(rng: Rng, x: float, y: float, radius: float) -> np.ndarray:
    """1 in the middle of a patch of irregular outline, 0 at the outline, negative outside."""
    outline = radius * (1 + 0.16 * noise(rng, 0.8 * radius))
    return 1 - length(X - x, Y - y) / np.maximum(outline, 1)
