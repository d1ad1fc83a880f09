"""Compositional patterns: formulas of the coordinates, as shaders have them.

Random expressions, warped patterns, quasi-crystals, moire, kaleidoscopes, repeated outlines.
"""

import math
from collections.abc import Callable

import numpy as np

from fastad.data.synthesis.texture_parts import (
    TURN,
    Rng,
    coloured,
    fractal_noise,
    log_uniform,
    palette,
    scale,
    smooth_noise,
    stretched,
    turned_coordinates,
)
from research.embedded_teacher.programs.parts import (
    cover,
    dropped,
    ground,
    laid,
    length,
    plane,
    tone,
    waviness,
)

_UNARY: tuple[Callable[[np.ndarray], np.ndarray], ...] = (
    lambda a: np.sin(np.float32(3) * a),
    np.abs,
    lambda a: 2 * (a - np.floor(a)) - 1,
    np.tanh,
    lambda a: a * a - np.float32(0.5),
    lambda a: np.float32(0.7) * np.sign(a) + np.float32(0.3) * a,
)
_BINARY: tuple[Callable[[np.ndarray, np.ndarray], np.ndarray], ...] = (
    np.add,
    np.multiply,
    np.maximum,
    length,
    lambda a, b: np.sin(np.float32(2) * a + np.float32(3) * b),
    lambda a, b: a - np.float32(0.5) * np.floor(b * 2),
)


def expressions(rng: Rng, height: int, width: int) -> np.ndarray:
    """A random tree of formulas over x, y, radius, angle and noise; in a palette or as colours."""
    x, y = plane(rng, height, width, log_uniform(rng, 0.8, 5))
    radius = length(x, y)
    leaves = [x, y, radius, np.arctan2(y, x), smooth_noise(rng, height, width, 60)]
    if rng.random() < 0.75:
        return coloured(
            stretched(_tree(rng, leaves, int(rng.integers(3, 5))), rng.choice([0, 1.5])),
            palette(rng),
        )
    bands = [stretched(_tree(rng, leaves, 2), 1.5) for _ in range(3)]
    return np.uint8(np.stack(bands, -1) * np.float32(255))


def warped(rng: Rng, height: int, width: int) -> np.ndarray:
    """Stripes, chequers, dots or rings, drawn out of shape by noise: marbled paper, hides."""
    period = scale(rng, 5, 50, height, width)
    u, v = turned_coordinates(rng, height, width, period)
    grain = log_uniform(rng, 20, 120)
    much = log_uniform(rng, 0.05, 0.6) * grain / period  # no more than would tear it
    u = u + np.float32(much) * fractal_noise(rng, height, width, grain, 0.3)
    v = v + np.float32(much) * fractal_noise(rng, height, width, grain, 0.3)
    a, b = np.sin(np.float32(TURN) * u), np.sin(np.float32(TURN) * v)
    field = (a, a * b, np.maximum(a, b), u - np.floor(u), length(a, b))[rng.integers(5)]
    if rng.random() < 0.4:
        field = np.tanh(field * np.float32(rng.uniform(3, 12)))
    return coloured(stretched(field), palette(rng))


def quasicrystal(rng: Rng, height: int, width: int) -> np.ndarray:
    """Waves of one length in five to thirteen directions: order without a period."""
    period, count = scale(rng, 5, 32, height, width), int(rng.integers(5, 14))
    start = rng.uniform(0, TURN)
    y, x = np.ogrid[:height, :width]
    field = np.zeros((height, width), np.float32)
    for k in range(count):
        angle = start + k * math.pi / count
        across, down = math.cos(angle) * TURN / period, math.sin(angle) * TURN / period
        # cos(a + b), of a row and a column each.
        a, b = np.float32(x * across), np.float32(y * down + rng.uniform(0, TURN))
        field += np.cos(a) * np.cos(b) - np.sin(a) * np.sin(b)
    if rng.random() < 0.4:
        field = np.abs(np.sin(field))
    return coloured(stretched(field, rng.choice([0, 1.2, 2])), palette(rng))


def moire(rng: Rng, height: int, width: int) -> np.ndarray:
    """Two or three nearly equal grids of lines, rings or rays above each other."""
    kind, count = rng.integers(3), rng.uniform(12, 60)
    field = np.ones((height, width), np.float32)
    for _ in range(int(rng.integers(2, 4))):
        x, y = plane(rng, height, width, rng.uniform(0.95, 1.05), turned=False)
        turn, many = rng.uniform(-0.15, 0.15), count * rng.uniform(0.95, 1.05)
        phase = (
            x * math.cos(turn) + y * math.sin(turn),
            length(x, y),
            np.arctan2(y, x) * np.float32(0.6),
        )[kind]
        wave = np.sin(phase * np.float32(many))
        field *= cover(wave, rng.choice([0.4, 2]))
    return coloured(stretched(field), palette(rng))


def kaleidoscope(rng: Rng, height: int, width: int) -> np.ndarray:
    """Noise or a pattern folded around a point: rosettes, snow flakes, turbines."""
    x, y = plane(rng, height, width)
    radius, fold = length(x, y), int(rng.integers(3, 13))
    twist = rng.choice([0, 0, 1.5])
    sector = (np.arctan2(y, x) + np.float32(twist) * radius) * np.float32(fold / TURN)
    sector = np.abs(2 * (sector - np.floor(sector)) - 1) * np.float32(math.pi / fold)
    side, zoom = 128, rng.uniform(25, 70)
    source = fractal_noise(rng, side, side, log_uniform(rng, 5, 50), 0.6)
    row = (radius * np.cos(sector) * np.float32(zoom)).astype(np.int32) % side
    column = (radius * np.sin(sector) * np.float32(zoom)).astype(np.int32) % side
    field = source[row, column]
    if rng.random() < 0.5:
        field = field + np.float32(rng.uniform(0.3, 1)) * np.sin(radius * np.float32(zoom / 3))
    return coloured(stretched(field, 2.2), palette(rng))


def repeats(rng: Rng, height: int, width: int) -> np.ndarray:
    """One outline over and over, in cells: filled, lined, glowing, each of its own size."""
    u, v = turned_coordinates(rng, height, width, scale(rng, 10, 80, height, width))
    if rng.random() < 0.3:
        u = u + np.float32(0.15) * waviness(rng, height, width)
    row = np.floor(v)
    u = u + np.float32(rng.choice([0, 0.5])) * (row % 2)
    column = np.floor(u)
    cell = np.intp(row) % 16, np.intp(column) % 16
    vary = rng.choice([0, 0.25, 0.5])
    size = (1 - vary * rng.random((16, 16), np.float32))[cell] * np.float32(rng.uniform(0.25, 0.45))
    turn = rng.uniform(0, TURN) + rng.choice([0, 0, 1]) * rng.uniform(0, TURN, (16, 16))
    cos, sin = (np.float32(f(turn))[cell] for f in (np.cos, np.sin))
    x, y = u - column - np.float32(0.5), v - row - np.float32(0.5)
    distance = _outline(rng, x * cos + y * sin, y * cos - x * sin, size)
    if rng.random() < 0.4:
        distance = np.abs(distance + np.float32(0.05)) - np.float32(rng.uniform(0.02, 0.06))
    soft = rng.choice([0.04, 0.08, 0.3])
    share, colours = cover(distance, soft), palette(rng)
    tones = rng.random((16, 16), np.float32)[cell]
    texture = ground(rng, height, width)
    if rng.random() < 0.5:
        texture = dropped(rng, texture, share)
    if rng.random() < 0.6:
        return laid(texture, share, tone(rng))
    return laid(texture, share, coloured(tones, colours))


def _tree(rng: Rng, leaves: list[np.ndarray], depth: int) -> np.ndarray:
    """The value of a random expression of this depth."""
    if depth == 0:
        leaf = leaves[rng.integers(len(leaves))]
        return leaf * np.float32(rng.uniform(0.5, 2)) + np.float32(rng.uniform(-1, 1))
    if rng.random() < 0.4:
        return _UNARY[rng.integers(len(_UNARY))](_tree(rng, leaves, depth - 1))
    first, second = (_tree(rng, leaves, depth - 1) for _ in range(2))
    return _BINARY[rng.integers(len(_BINARY))](first, second)


def _outline(rng: Rng, x: np.ndarray, y: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Distance to a disc, rectangle, cross, polygon, star or drop of this size."""
    kind = rng.integers(6)
    if kind == 0:
        return length(x, y * np.float32(rng.choice([1, 1.6]))) - size
    if kind == 1:
        return np.maximum(np.abs(x), np.abs(y) * np.float32(rng.uniform(1, 3))) - size
    if kind == 2:
        long, short = np.maximum(np.abs(x), np.abs(y)), np.minimum(np.abs(x), np.abs(y))
        return np.maximum(long - size, short - np.float32(rng.uniform(0.2, 0.5)) * size)
    sides, radius = int(rng.integers(3, 9)), length(x, y)
    wave = np.cos(sides * np.arctan2(y, x))
    if kind == 3:
        sector = np.float32(TURN / sides)
        angle = np.arctan2(y, x)
        angle = angle - sector * np.floor(angle / sector + np.float32(0.5))
        return radius * np.cos(angle) - size * np.float32(0.85)
    if kind == 4:
        return radius - size * (1 + np.float32(rng.uniform(0.2, 0.5)) * wave) / np.float32(1.3)
    return radius + np.float32(0.8) * x - size
