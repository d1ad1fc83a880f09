"""What the programs share: coordinates, light on height fields, grounds, shadows.

A field is an array (H, W) float32, a texture (H, W, 3) uint8. Lengths are in pixels.
"""

import math

import numpy as np
from PIL import Image, ImageFilter

from fastad.data.synthesis.irregular_textures import fibres, fractal, shading, speckle
from fastad.data.synthesis.texture_parts import (
    TURN,
    Rng,
    fractal_noise,
    log_uniform,
    palette,
    smooth_noise,
)


def plane(
    rng: Rng, height: int, width: int, zoom: float = 1, turned: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates x and y around a random point near the middle; the shorter side is 2 ``zoom``."""
    unit = 2 * zoom / min(height, width)
    y, x = np.ogrid[:height, :width]
    x = np.float32((x - width * rng.uniform(0.3, 0.7)) * unit)
    y = np.float32((y - height * rng.uniform(0.3, 0.7)) * unit)
    angle = rng.uniform(0, TURN) if turned else 0.0
    cos, sin = math.cos(angle), math.sin(angle)
    return x * cos + y * sin, y * cos - x * sin


def length(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Of vectors; numpy's hypot takes several times as long."""
    return np.sqrt(x * x + y * y)


def tone(rng: Rng) -> np.ndarray:
    """One colour (3,) float32 from 0 to 255, often grey."""
    return palette(rng)[rng.integers(256)].astype(np.float32)


def flat(height: int, width: int, colour: np.ndarray) -> np.ndarray:
    """A texture of one colour."""
    texture = np.empty((height, width, 3), np.uint8)
    texture[:] = np.clip(colour, 0, 255).astype(np.uint8)
    return texture


def ground(rng: Rng, height: int, width: int) -> np.ndarray:
    """Something for other things to lie on: plain, rough, brushed, grainy or cloudy; often calm."""
    kind = rng.integers(6)
    if kind < 2:
        return flat(height, width, tone(rng))
    texture = (shading, fibres, speckle, fractal)[kind - 2](rng, height, width)
    picture = Image.fromarray(texture)
    plain = Image.new("RGB", picture.size, tuple(texture[height // 2, width // 2].tolist()))
    return np.asarray(Image.blend(picture, plain, rng.choice([0, 0.4, 0.8])))


def cover(distance: np.ndarray, soft: float = 1) -> np.ndarray:
    """1 inside an outline (negative distance), 0 outside, softly between."""
    return np.clip(np.float32(0.5) - distance * np.float32(1 / soft), 0, 1)


def laid(texture: np.ndarray, share: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """Lay a texture, or a colour (3,), over so much of another."""
    lower = Image.fromarray(texture)
    if upper.ndim == 1:
        over = Image.new("RGB", lower.size, tuple(np.uint8(np.clip(upper, 0, 255)).tolist()))
    else:
        over = Image.fromarray(upper)
    return np.asarray(Image.composite(over, lower, Image.fromarray(np.uint8(share * 255))))


def blurred(field: np.ndarray, radius: float) -> np.ndarray:
    """A field of 0 to 1, softened."""
    picture = Image.fromarray(np.uint8(field * np.float32(255)))
    soft = picture.filter(ImageFilter.BoxBlur(radius)).filter(ImageFilter.BoxBlur(radius))
    return np.asarray(soft, np.float32) / np.float32(255)


def dropped(rng: Rng, texture: np.ndarray, share: np.ndarray) -> np.ndarray:
    """A texture with the soft shadow of what will lie on it."""
    radius, angle = log_uniform(rng, 1, 10), rng.uniform(0, TURN)
    reach = radius * rng.uniform(0, 1.5)
    shift = (round(reach * math.sin(angle)), round(reach * math.cos(angle)))
    shade = np.roll(blurred(share, radius), shift, (0, 1))
    return laid(texture, shade * np.float32(rng.uniform(0.1, 0.8)), np.zeros(3))


def slopes(height: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Derivatives of a height field to the right and down."""
    across, down = np.empty_like(height), np.empty_like(height)
    across[:, 1:-1] = height[:, 2:] - height[:, :-2]
    across[:, 0], across[:, -1] = across[:, 1], across[:, -2]
    down[1:-1] = height[2:] - height[:-2]
    down[0], down[-1] = down[1], down[-2]
    return across * np.float32(0.5), down * np.float32(0.5)


def lit(rng: Rng, height: np.ndarray, albedo: np.ndarray, steep: float = 1) -> np.ndarray:
    """A texture on a height field, in the light of one lamp: Lambert's law, gloss, cast shadows."""
    azimuth, elevation = rng.uniform(0, TURN), rng.uniform(0.4, 1.2)
    x, y, z = _direction(azimuth, elevation)
    across, down = slopes(height * np.float32(steep))
    upright = 1 / np.sqrt(1 + across * across + down * down)
    light = np.maximum((z - across * x - down * y) * upright, 0)
    if rng.random() < 0.5:
        light *= 1 - np.float32(rng.uniform(0.3, 0.9)) * _cast(height * steep, azimuth, elevation)
    ambient = rng.uniform(0.1, 0.5)
    light = (light * ((1 - ambient) / max(z, 0.5)) + ambient) * np.float32(rng.uniform(0.6, 1))
    gloss, metal = None, rng.random() < 0.5
    if rng.random() < 0.6:
        # The half vector lies between the lamp and the viewer, who is above.
        x, y, z = (float(w) / math.hypot(x, y, z + 1) for w in (x, y, z + 1))
        gloss = np.maximum((z - across * x - down * y) * upright, 0)
        for _ in range(int(rng.integers(2, 7))):
            gloss *= gloss
        gloss *= np.float32(rng.uniform(0.2, 0.9))
    texture = np.empty_like(albedo)
    for channel in range(3):  # numpy is slow on a last axis of three
        band = albedo[..., channel] * light
        if gloss is not None:
            band += gloss * (albedo[..., channel] if metal else np.float32(255))
        texture[..., channel] = np.minimum(band, 255)
    return texture


def material(rng: Rng, height: int, width: int) -> np.ndarray:
    """What things are made of: one colour, or a ground."""
    colour = tone(rng) * np.float32(0.7) + np.float32(40)
    if rng.random() < 0.4:
        return flat(height, width, colour)
    rough = smooth_noise(rng, height, width, log_uniform(rng, 1, 8), log_uniform(rng, 1, 12))
    rough = 1 + np.float32(rng.uniform(0.02, 0.12)) * rough
    return np.uint8(np.clip(colour * rough[..., None], 0, 255))


def waviness(rng: Rng, height: int, width: int) -> np.ndarray:
    """A gentle field of about -1 to 1 to bend things by."""
    return fractal_noise(rng, height, width, log_uniform(rng, 20, 120), 0.4)


def _direction(azimuth: float, elevation: float) -> tuple[float, float, float]:
    flat = math.cos(elevation)
    return flat * math.cos(azimuth), flat * math.sin(azimuth), math.sin(elevation)


def _cast(height: np.ndarray, azimuth: float, elevation: float) -> np.ndarray:
    """1 where higher ground towards the lamp keeps its light away."""
    shade, fall = np.zeros_like(height), math.tan(elevation)
    for reach in (1, 2, 3, 5, 8, 12, 18):
        shift = (-round(reach * math.sin(azimuth)), -round(reach * math.cos(azimuth)))
        above = np.roll(height, shift, (0, 1)) - height - np.float32(reach * fall)
        np.maximum(shade, above, out=shade)
    return np.clip(shade * np.float32(0.5), 0, 1)
