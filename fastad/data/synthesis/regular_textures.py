"""Textures with a plan: gratings, cloth, tiles, dots, rings, writing.

Each gives uint8 (H, W, 3) for a generator and a size.
"""

import math

import numpy as np
from PIL import Image, ImageDraw

from fastad.data.synthesis.texture_parts import (
    TURN,
    Rng,
    coloured,
    log_uniform,
    palette,
    scale,
    shaded,
    smooth_noise,
    stretched,
    turned,
    turned_coordinates,
)


def gratings(rng: Rng, height: int, width: int) -> np.ndarray:
    """One to three waves, smooth or square, across each other; sometimes bent."""
    field = np.zeros((height, width), np.float32)
    for _ in range(int(rng.integers(1, 4))):
        period = scale(rng, 4, 60, height, width)
        phase, _ = turned_coordinates(rng, height, width, period)
        if rng.random() < 0.4:
            phase += np.float32(rng.uniform(0.1, 0.6)) * smooth_noise(rng, height, width, 64)
        wave = np.sin(np.float32(TURN) * phase)
        edge = rng.choice([0, 2, 8])
        field += np.tanh(np.float32(edge) * wave) if edge else wave
    return coloured(stretched(field), palette(rng))


def woven(rng: Rng, height: int, width: int) -> np.ndarray:
    """Cloth: plain weave or twill, each thread of a colour of its own within a pattern."""
    u, v = turned_coordinates(rng, height, width, log_uniform(rng, 5, 28))
    warp, weft = u.astype(np.intp), v.astype(np.intp)
    u, v = 2 * (u - warp) - 1, 2 * (v - weft) - 1
    every = int(rng.integers(2, 5))
    over = (warp + weft * int(rng.integers(1, every))) % every < every // 2
    repeat = int(rng.integers(1, 9))
    tones = rng.random((2, repeat), np.float32) * np.float32(rng.choice([0.15, 0.5, 1]))
    tones[1] = 1 - tones[1]
    tone = np.where(over, tones[0, warp % repeat], tones[1, weft % repeat])
    across = np.where(over, u, v)
    along = np.where(over, v, u)
    depth = np.float32(rng.uniform(0.3, 0.75))
    shade = 1 - depth * (0.7 * np.square(across) + 0.3 * np.square(along))
    if rng.random() < 0.5:  # twisted yarn
        shade += np.float32(0.12) * np.sin(np.float32(3) * (along + across) * np.float32(TURN / 2))
    return shaded(coloured(tone, palette(rng)), shade)


def tiles(rng: Rng, height: int, width: int) -> np.ndarray:
    """Chequers, bricks or tiles in irregular tones, with or without joints."""
    u, v = turned_coordinates(rng, height, width, scale(rng, 8, 70, height, width))
    u *= np.float32(rng.choice([1, 1, 0.5]))
    row = v.astype(np.intp)
    u += np.float32(rng.choice([0, 0.5, 0.3])) * (row % 2)
    column = u.astype(np.intp)
    tone = rng.random((16, 16), np.float32)
    if rng.random() < 0.4:
        tone = (np.indices((16, 16)).sum(0) % 2 + np.float32(0.15) * tone) / np.float32(1.15)
    texture = coloured(tone[row % 16, column % 16], palette(rng))
    joint = rng.choice([0, 0.06, 0.12])
    if joint:
        edge = np.minimum(
            np.minimum(u - column, 1 - (u - column)), np.minimum(v - row, 1 - (v - row))
        )
        share = np.clip((np.float32(joint) - edge) * np.float32(20) + np.float32(0.5), 0, 1)
        colour = palette(rng)[rng.integers(256)].astype(np.float32)
        texture = (texture + share[..., None] * (colour - texture)).astype(np.uint8)
    return texture


def dots(rng: Rng, height: int, width: int) -> np.ndarray:
    """Points in a grid, whose size is even, random or that of a halftone."""
    u, v = turned_coordinates(rng, height, width, scale(rng, 6, 48, height, width))
    row = v.astype(np.intp)
    u += np.float32(rng.choice([0, 0.5])) * (row % 2)
    column = u.astype(np.intp)
    kind = rng.integers(3)
    radius: np.ndarray | np.float32 = np.float32(rng.uniform(0.18, 0.42))
    if kind == 1:
        radius = rng.uniform(0.05, 0.45, (32, 32)).astype(np.float32)[row % 32, column % 32]
    elif kind == 2:
        radius = radius * np.clip(1 + smooth_noise(rng, height, width, 80) / 2, 0, 1.2)
    u, v = u - column - np.float32(0.5), v - row - np.float32(0.5)
    distance = np.sqrt(u * u + v * v)
    share = np.clip((radius - distance) * np.float32(12) + np.float32(0.5), 0, 1)
    if rng.random() < 0.4:  # round bodies instead of discs
        share *= np.clip(np.float32(1.1) - distance, 0, 1)
    return coloured(share, palette(rng))


def rings(rng: Rng, height: int, width: int) -> np.ndarray:
    """Rings around one to three points, wavy as in wood or even as in water."""
    field = np.zeros((height, width), np.float32)
    period, wavy = log_uniform(rng, 5, 40), rng.random() < 0.7
    y, x = np.ogrid[:height, :width]
    for _ in range(int(rng.choice([1, 1, 2, 3]))):
        down, across = rng.uniform(-0.4, 1.4) * height, rng.uniform(-0.4, 1.4) * width
        stretch = log_uniform(rng, 0.3, 3)
        dy, dx = np.float32(y - down), np.float32((x - across) * stretch)
        radius = np.sqrt(dx * dx + dy * dy) / np.float32(period)
        if wavy:
            radius += np.float32(rng.uniform(0.2, 1.2)) * smooth_noise(rng, height, width, 50)
        if rng.random() < 0.4:
            field += radius - np.floor(radius)
        else:
            field += np.sin(np.float32(TURN) * radius)
    return coloured(stretched(field), palette(rng))


def writing(rng: Rng, height: int, width: int) -> np.ndarray:
    """Rows of invented letters, turned at random, on paper or a coloured ground."""
    tall = log_uniform(rng, 8, 36)
    letters = _alphabet(rng, round(tall), max(4, round(tall * rng.uniform(0.45, 0.9))))
    side = math.ceil(math.hypot(height, width)) + 2
    rows, columns = side // letters.shape[1] + 1, side // letters.shape[2] + 1
    chosen = rng.integers(len(letters), size=(rows, columns))
    chosen[rng.random((rows, columns)) < 0.15] = 0  # the blank
    page = letters[chosen].transpose(0, 2, 1, 3).reshape(rows * letters.shape[1], -1)
    page = page[:side, :side]
    ink = turned(page, height, width, rng.choice([0, rng.uniform(0, TURN)]))
    colours = palette(rng)
    patches = np.float32(0.4) * stretched(smooth_noise(rng, height, width, 40), 5)
    paper = coloured(patches, colours) if rng.random() < 0.5 else colours[0].astype(np.float32)
    colours = colours.astype(np.float32)
    darkest = colours[np.abs(colours - colours[0]).sum(1).argmax()]  # or brightest, on dark paper
    share = ink[..., None] * np.float32(1 / 255)
    return (paper + share * (darkest - paper)).astype(np.uint8)


def _alphabet(rng: Rng, tall: int, wide: int) -> np.ndarray:
    """32 letters (32, tall, wide) uint8, the first one blank, of two to five strokes each."""
    fine = 3
    letters = np.zeros((32, tall, wide), np.uint8)
    downs = [round(fine * tall * share) for share in (0.15, 0.48, 0.8)]
    acrosses = [round(fine * wide * share) for share in (0.12, 0.5, 0.88)]
    pen = max(fine, round(fine * tall * rng.uniform(0.07, 0.16)))
    for letter in letters[1:]:
        picture = Image.new("L", (wide * fine, tall * fine))
        draw = ImageDraw.Draw(picture)
        x0, y0 = rng.integers(3, size=2).tolist()
        for x1, y1, kind in rng.integers(3, size=(rng.integers(2, 6), 3)).tolist():
            left, right = acrosses[min(x0, x1)], acrosses[max(x0, x1)]
            if kind == 0 and x0 != x1 and y0 != y1:
                box = (left, downs[min(y0, y1)], right, downs[max(y0, y1)])
                draw.arc(box, 90 * x0, 90 * x0 + 120 * (1 + y0), 255, pen)
            else:
                draw.line((acrosses[x0], downs[y0], acrosses[x1], downs[y1]), 255, pen)
            x0, y0 = x1, y1
        letter[:] = np.asarray(picture.reduce(fine))
    return letters
