"""Patterns on a grid: arithmetic modulo a number, automata, tiles, quilts, coarse pixels."""

import math

import numpy as np
from PIL import Image

from fastad.data.synthesis.texture_parts import (
    TURN,
    Rng,
    coloured,
    fractal_noise,
    palette,
    scale,
    shaded,
    stretched,
    turned,
)
from research.embedded_teacher.programs.parts import (
    cover,
    dropped,
    flat,
    ground,
    laid,
    length,
    tone,
)


def modular(rng: Rng, height: int, width: int) -> np.ndarray:
    """Whole-number arithmetic on the coordinates: x y mod n, exclusive or, sums of squares."""
    step = int(rng.choice([1, 1, 2, 3, 6]))
    rows, columns = math.ceil(height / step), math.ceil(width / step)
    y, x = np.ogrid[:rows, :columns]
    y, x = y + int(rng.integers(0, 200)), x + int(rng.integers(0, 200))
    many, a, b = (int(n) for n in rng.integers(3, 60, 3))
    field = (
        lambda: x * y % many,
        lambda: (x ^ y) % many,
        lambda: (x * x + y * y) // a % many,
        lambda: (x & (y * a // b)) % many,
        lambda: (x * a // b ^ y) % (x // 7 + 2),
    )[rng.integers(5)]()
    field = stretched(field.astype(np.float32)).repeat(step, 0).repeat(step, 1)
    return coloured(field[:height, :width], palette(rng))


def automaton(rng: Rng, height: int, width: int) -> np.ndarray:
    """The history of a cellular automaton with two or three states on a ring of cells."""
    states, step = int(rng.choice([2, 3])), int(rng.choice([1, 2, 3, 5]))
    rows, columns = math.ceil(height / step), math.ceil(width / step)
    rule = rng.integers(states, size=states**3).astype(np.int64)
    rule[0] = 0
    cells = np.empty((rows, columns + 2), np.int64)
    line = rng.integers(states, size=columns + 2) * (rng.random(columns + 2) < rng.uniform(0.02, 1))
    for row in cells:
        row[:] = line
        code = line[:-2] * (states * states) + line[1:-1] * states + line[2:]
        line = np.pad(rule[code], 1, mode="wrap")
    field = cells[:, 1:-1].astype(np.float32).repeat(step, 0).repeat(step, 1)[:height, :width]
    if rng.random() < 0.5:
        field = np.ascontiguousarray(field.T if height == width else field[::-1])
    return coloured(field / (states - 1), palette(rng))


def truchet(rng: Rng, height: int, width: int) -> np.ndarray:
    """Tiles with two quarter circles or a diagonal, turned at random: mazes and meanders."""
    size = max(6, round(scale(rng, 8, 48, height, width)))
    side = math.ceil(math.hypot(height, width)) + 2
    count = side // size + 1
    y, x = (np.mgrid[:size, :size].astype(np.float32) + np.float32(0.5)) / size
    corner = np.minimum(length(x, y), length(1 - x, 1 - y))
    arcs = np.abs(corner - np.float32(0.5))
    lines = np.abs(x + y - 1) * np.float32(0.7) if rng.random() < 0.3 else arcs
    flips = rng.random((count, count)) < rng.uniform(0.2, 0.8)
    tiles = np.stack([lines, lines[:, ::-1]])[flips.astype(np.intp)]
    distance = tiles.transpose(0, 2, 1, 3).reshape(count * size, count * size)[:side, :side]
    distance = np.ascontiguousarray(distance)
    distance = turned(distance, height, width, rng.choice([0, rng.uniform(0, TURN)]))
    kind = rng.integers(3)
    if kind == 0:
        return coloured(stretched(distance), palette(rng))
    if kind == 1:
        wave = np.sin(distance * np.float32(TURN * rng.integers(2, 5)))
        return coloured(stretched(wave), palette(rng))
    share = cover(distance - np.float32(rng.uniform(0.08, 0.25)), 1.5 / size)
    texture = dropped(rng, ground(rng, height, width), share)
    rounded = 1 - np.float32(rng.uniform(0, 2)) * distance
    return laid(texture, share, shaded(flat(height, width, tone(rng)), rounded))


def mosaic(rng: Rng, height: int, width: int) -> np.ndarray:
    """Rectangles within rectangles: a quilt of flat, striped and noisy patches."""
    colours = palette(rng)
    texture = np.empty((height, width, 3), np.uint8)
    smallest, seam = scale(rng, 10, 60, height, width), int(rng.choice([0, 0, 1, 2]))
    waiting = [(0, 0, height, width)]
    while waiting:
        top, left, high, wide = waiting.pop()
        if max(high, wide) > 2 * smallest and (len(waiting) < 3 or rng.random() < 0.9):
            share = rng.uniform(0.3, 0.7)
            if high > wide:
                cut = int(high * share)
                waiting += [(top, left, cut, wide), (top + cut, left, high - cut, wide)]
            else:
                cut = int(wide * share)
                waiting += [(top, left, high, cut), (top, left + cut, high, wide - cut)]
            continue
        field = np.full((high, wide), rng.random(), np.float32)
        kind = rng.integers(4)
        if kind == 1:
            field += np.float32(0.15) * rng.standard_normal((high, wide), np.float32)
        elif kind == 2:
            field += np.float32(0.3) * (np.arange(wide) // int(rng.integers(1, 6)) % 2)
        elif kind == 3:
            field += np.linspace(0, rng.uniform(-0.5, 0.5), high, dtype=np.float32)[:, None]
        patch = coloured(np.clip(field, 0, 1), colours)
        patch[:seam], patch[:, :seam] = colours[0], colours[0]
        texture[top : top + high, left : left + wide] = patch
    return texture


def glitches(rng: Rng, height: int, width: int) -> np.ndarray:
    """A coarse picture enlarged without smoothing, and rows of it out of place."""
    step = int(rng.integers(2, 13))
    rows, columns = math.ceil(height / step), math.ceil(width / step)
    field = fractal_noise(rng, rows, columns, max(2, min(rows, columns) / 3), 0.6)
    grown = Image.fromarray(np.ascontiguousarray(stretched(field, 2)))
    small = np.asarray(grown)
    shifts = np.cumsum(rng.integers(-2, 3, rows)) * (rng.random(rows) < rng.uniform(0, 0.8))
    small = small[np.arange(rows)[:, None], (np.arange(columns) + shifts[:, None]) % columns]
    if rng.random() < 0.5:  # ordered dither
        small = small + (np.indices((rows, columns)).sum(0) % 2) * np.float32(0.12)
    picture = coloured(np.clip(small, 0, 1), palette(rng))
    return picture.repeat(step, 0).repeat(step, 1)[:height, :width]
