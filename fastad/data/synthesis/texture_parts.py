"""What the generated textures are made of: coordinates, noise, palettes, grain.

A field is an array (H, W) float32, a texture (H, W, 3) uint8. Lengths are in pixels.
"""

import colorsys
import math

import numpy as np
from PIL import Image

Rng = np.random.Generator
TURN = 2 * math.pi


def log_uniform(rng: Rng, low: float, high: float) -> float:
    return low * (high / low) ** rng.random()


def scale(rng: Rng, low: float, high: float, height: int, width: int) -> float:
    """A length from ``low`` to ``high``, but no more than half of the shorter side."""
    return log_uniform(rng, low, min(high, min(height, width) / 2))


def turned_coordinates(
    rng: Rng, height: int, width: int, period: float, angle: float | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Fields of the two coordinates in periods, turned and shifted at random; never negative."""
    angle = rng.uniform(0, TURN) if angle is None else angle
    across, down = math.cos(angle) / period, math.sin(angle) / period
    x, y = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)[:, None]
    first = x * np.float32(across) + y * np.float32(down)
    second = y * np.float32(across) - x * np.float32(down)
    for field in (first, second):
        field += np.float32(
            rng.random() - min(field[0, 0], field[0, -1], field[-1, 0], field[-1, -1])
        )
    return first, second


def smooth_noise(rng: Rng, height: int, width: int, grain: float, aspect: float = 1) -> np.ndarray:
    """Noise of about mean 0 and deviation 1, ``grain`` pixels high and ``aspect`` times as wide."""
    sides = [grain, grain * aspect]
    cells = [math.ceil(n / side) + 3 for n, side in zip((height, width), sides, strict=True)]
    grid = Image.fromarray(1.4 * rng.standard_normal(cells, np.float32))
    box = (1, 1, 1 + width / sides[1], 1 + height / sides[0])
    return np.asarray(grid.resize((width, height), Image.Resampling.BICUBIC, box))


def fractal_noise(
    rng: Rng, height: int, width: int, grain: float, roughness: float = 0.5, ridged: bool = False
) -> np.ndarray:
    """Octaves of noise, each of half the grain and ``roughness`` times the height of the last.

    Every octave is drawn on a grid of its own resolution. ``ridged`` folds them at 0.
    """
    octaves = max(1, min(6, round(math.log2(grain))))
    field: np.ndarray | None = None
    for octave in range(octaves):
        zoom = 2 ** (octaves - 1 - octave)
        shape = (math.ceil(height / zoom) + 2, math.ceil(width / zoom) + 2)
        layer = smooth_noise(rng, *shape, max(1.5, grain / 2**octave / zoom))
        layer = (1 - np.abs(layer) if ridged else layer) * np.float32(roughness**octave)
        if field is not None:
            enlarged = Image.fromarray(field).resize(
                shape[::-1], Image.Resampling.BILINEAR, (0, 0, shape[1] / 2, shape[0] / 2)
            )
            layer = layer + np.asarray(enlarged)
        field = np.ascontiguousarray(layer)
    assert field is not None  # there is at least one octave
    return field[:height, :width]


def palette(rng: Rng, flat: float = 0.2) -> np.ndarray:
    """256 colours (256, 3) uint8 from one end to the other: shades of grey, tones, or motley.

    With probability ``flat`` they are a few flat colours instead of passing into each other.
    """
    stops = int(rng.integers(2, 6))
    saturation, spread = rng.choice([0.0, 0.25, 0.6, 0.9]), rng.choice([0.02, 0.08, 0.5])
    contrast = rng.uniform(0.35, 1)
    middle = rng.uniform(contrast / 2, 1 - contrast / 2)
    values = middle + contrast * rng.permutation(np.linspace(-0.5, 0.5, stops))
    hue = rng.random()
    colours = [
        colorsys.hsv_to_rgb(
            (hue + rng.normal(0, spread)) % 1,
            min(1.0, saturation * rng.uniform(0.5, 1.3)),
            float(value),
        )
        for value in values
    ]
    steps = np.linspace(0, 1, 256)
    if rng.random() < flat:
        places = np.sort(rng.uniform(0.1, 0.9, stops - 1))
        return (255 * np.array(colours)[np.searchsorted(places, steps)]).astype(np.uint8)
    places = np.sort(rng.random(stops))
    places[0], places[-1] = 0, 1
    table = np.stack([np.interp(steps, places, band) for band in np.transpose(colours)], axis=-1)
    return (255 * table).astype(np.uint8)


def stretched(field: np.ndarray, tails: float = 0) -> np.ndarray:
    """A field brought to 0 to 1 by its minimum and maximum, or by so many deviations."""
    if tails:
        half = max(tails * float(field.std()), 1e-6)
        return np.clip((field - field.mean()) / np.float32(2 * half) + np.float32(0.5), 0, 1)
    low, high = float(field.min()), float(field.max())
    return (field - np.float32(low)) / np.float32(max(high - low, 1e-6))


def coloured(field: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """A field in [0, 1] -> the colours of a palette."""
    return colours.take(np.uint8(field * np.float32(255)), axis=0)


def shaded(texture: np.ndarray, shade: np.ndarray) -> np.ndarray:
    """A texture times a field (H, W), or one (H, W, 1 or 3), of about 1."""
    shade = shade if shade.ndim == 3 else shade[..., None]
    return np.clip(texture * shade, 0, 255).astype(np.uint8)


def finished(rng: Rng, texture: np.ndarray) -> np.ndarray:
    """Sometimes with uneven light or with grain, as photographs of textures have them."""
    height, width = texture.shape[:2]
    light, grain = rng.random(2) < 0.4
    if light:
        noise = smooth_noise(rng, height, width, max(height, width) / 2)
        texture = shaded(texture, 1 + np.float32(rng.uniform(0.05, 0.2)) * noise)
    if grain:
        noise = rng.standard_normal((height, width, 1), np.float32)
        noisy = texture + np.float32(rng.uniform(3, 16)) * noise
        texture = np.clip(noisy, 0, 255).astype(np.uint8)
    return texture


def turned(field: np.ndarray, height: int, width: int, angle: float) -> np.ndarray:
    """The middle (height, width) of a square picture, uint8 or float32, turned by an angle."""
    side = len(field)
    cos, sin = math.cos(angle), math.sin(angle)
    x, y = (side - cos * width - sin * height) / 2, (side - cos * height + sin * width) / 2
    picture = Image.fromarray(np.ascontiguousarray(field)).transform(
        (width, height),
        Image.Transform.AFFINE,
        (cos, sin, x, -sin, cos, y),
        Image.Resampling.BILINEAR,
    )
    return np.asarray(picture)
