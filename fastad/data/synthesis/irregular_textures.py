"""Textures without a plan: noise, cells, leaves, scratches, stains, fibres and the like.

Each gives uint8 (H, W, 3) for a generator and a size.
"""

import math

import numpy as np
from PIL import Image, ImageDraw

from fastad.data.synthesis.texture_parts import (
    TURN,
    Rng,
    coloured,
    fractal_noise,
    log_uniform,
    palette,
    scale,
    shaded,
    smooth_noise,
    stretched,
    turned,
)


def fractal(rng: Rng, height: int, width: int) -> np.ndarray:
    """Fractal noise: clouds, ridges or marble."""
    grain, kind = log_uniform(rng, 12, 150), rng.integers(3)
    field = fractal_noise(rng, height, width, grain, rng.uniform(0.35, 0.75), ridged=kind == 1)
    if kind == 2:
        field = np.sin(np.float32(rng.uniform(2, 8)) * field)
        return coloured(stretched(field), palette(rng))
    return coloured(stretched(field, 2.5), palette(rng))


def cells(rng: Rng, height: int, width: int) -> np.ndarray:
    """Polygons or pebbles, each of a tone of its own, with membranes between them."""
    nearest, second, tone = _feature_points(rng, height, width, scale(rng, 8, 60, height, width))
    gap = second - nearest
    texture = coloured(tone, palette(rng))
    membrane = np.clip(gap * np.float32(rng.uniform(4, 14)), 0, 1)
    if rng.random() < 0.5:  # pebbles: round towards the membrane
        membrane = np.sqrt(np.clip(gap * np.float32(rng.uniform(1, 2.5)), 0, 1))
    dark = np.float32(rng.uniform(0.1, 0.6))
    return shaded(texture, dark + (1 - dark) * membrane)


def worley(rng: Rng, height: int, width: int) -> np.ndarray:
    """Worley's cellular noise: distances to the nearest and second nearest of random points."""
    nearest, second, _ = _feature_points(rng, height, width, scale(rng, 8, 70, height, width))
    field = (nearest, second, second - nearest, nearest * second)[rng.integers(4)]
    if rng.random() < 0.3:
        field = np.abs(np.sin(np.float32(rng.uniform(4, 12)) * field))
    return coloured(stretched(field), palette(rng))


def dead_leaves(rng: Rng, height: int, width: int) -> np.ndarray:
    """Discs, leaves or blocks of many sizes that cover each other."""
    colours = palette(rng)
    picture = Image.new("RGB", (width, height), tuple(colours[rng.integers(256)].tolist()))
    draw, kind = ImageDraw.Draw(picture), rng.integers(3)
    count, largest = 260, max(8, rng.uniform(0.1, 0.3) * max(height, width))
    sizes = 3 * (largest / 3) ** np.sort(rng.random(count))[::-1]  # the small ones on top
    places = rng.uniform((0, 0), (width, height), (count, 2))
    inks = colours[rng.integers(256, size=count)].tolist()
    turns, flat = rng.uniform(0, TURN, count), rng.uniform(0.25, 1)
    corners = 4 if kind == 2 else 9
    t = np.arange(corners) * (TURN / corners)
    outline = np.stack([np.cos(t), np.sin(t) * flat])
    cos, sin = np.cos(turns), np.sin(turns)
    outlines = np.einsum("ijn,jk->nki", np.array([[cos, -sin], [sin, cos]]), outline)
    outlines = outlines * sizes[:, None, None] + places[:, None]
    for (x, y), size, ink, points in zip(places, sizes, inks, outlines, strict=True):
        if kind == 0:
            draw.ellipse((x - size, y - size, x + size, y + size), tuple(ink))
        else:
            draw.polygon(points.ravel().tolist(), tuple(ink))
    return np.asarray(picture)


def scratches(rng: Rng, height: int, width: int) -> np.ndarray:
    """Straight and bent scratches, parallel or not, on a ground with a little structure."""
    colours = palette(rng)
    ground = np.float32(rng.random()) + np.float32(0.06) * fractal_noise(rng, height, width, 40)
    picture = Image.fromarray(coloured(np.clip(ground, 0, 1), colours))
    draw, main, spread = ImageDraw.Draw(picture), rng.uniform(0, TURN), rng.choice([0.05, 0.4, 3])
    count = int(rng.integers(15, 110))
    angles = main + spread * rng.standard_normal(count)
    angles = angles[:, None] + rng.normal(0, 0.3, count)[:, None] * np.linspace(0, 1, 6)
    lengths = 8 * (max(height, width) / 8) ** rng.random(count)
    steps = np.stack([np.cos(angles), np.sin(angles)], -1) * (lengths / 6)[:, None, None]
    paths = np.cumsum(steps, 1) + rng.uniform((-20, -20), (width + 20, height + 20), (count, 1, 2))
    inks = colours[rng.integers(256, size=count)].tolist()
    widths = rng.choice([1, 1, 2, 3], count).tolist()
    for path, ink, pen in zip(paths.reshape(count, -1).tolist(), inks, widths, strict=True):
        draw.line(path, tuple(ink), pen)
    return np.asarray(picture)


def fibres(rng: Rng, height: int, width: int) -> np.ndarray:
    """Brushed metal, fur or grain of wood: noise drawn out along one direction and bent."""
    side = math.ceil(math.hypot(height, width)) + 2
    field = smooth_noise(rng, side, side, log_uniform(rng, 1.2, 5), log_uniform(rng, 8, 60))
    field = field + smooth_noise(rng, side, side, log_uniform(rng, 4, 20), log_uniform(rng, 4, 20))
    angle, bend = rng.uniform(0, TURN), rng.choice([0, 0.1, 0.25])
    x, y = np.arange(side)[None], np.arange(side)[:, None]
    if bend:
        wave = bend * side / 4 * np.sin(TURN * (x / side * rng.uniform(0.5, 2) + rng.random()))
        field = field[(y + wave.astype(np.intp)) % side, x]
    return coloured(stretched(turned(field, height, width, angle), 2.5), palette(rng))


def stains(rng: Rng, height: int, width: int) -> np.ndarray:
    """Blots with soft or hard outlines and dark rims, in layers over each other."""
    colours = palette(rng, flat=0).astype(np.float32)
    inks = colours[rng.permutation([0, 85, 170, 255])]
    texture = np.broadcast_to(inks[0], (height, width, 3))
    for ink in inks[1 : rng.integers(2, 5)]:
        level = fractal_noise(rng, height, width, log_uniform(rng, 30, 120), rng.uniform(0.2, 0.5))
        level = level - level.mean() - np.float32(rng.uniform(-0.4, 0.8)) * level.std()
        inside = np.clip(level * np.float32(log_uniform(rng, 2, 30)), 0, 1)
        rim = np.exp(-np.square(level * np.float32(rng.uniform(6, 15)))) * inside
        share = inside * np.float32(rng.uniform(0.4, 1))
        texture = texture + share[..., None] * (ink - texture)
        texture *= 1 - np.float32(rng.uniform(0, 0.6)) * rim[..., None]
    return texture.astype(np.uint8)


def speckle(rng: Rng, height: int, width: int) -> np.ndarray:
    """Grains of several sizes and colours, as in granite, sand and terrazzo."""
    colours = palette(rng)
    tones = np.full((height, width), rng.random(), np.float32)
    for _ in range(int(rng.integers(2, 5))):
        grains = smooth_noise(rng, height, width, log_uniform(rng, 1.2, 10))
        tones[grains > np.float32(rng.uniform(0.5, 1.5))] = rng.random()
    tones += np.float32(rng.uniform(0.02, 0.12)) * rng.standard_normal((height, width), np.float32)
    return coloured(np.clip(tones, 0, 1), colours)


def reaction_diffusion(rng: Rng, height: int, width: int) -> np.ndarray:
    """Turing patterns: spots, stripes and mazes.

    du/dt = D lap(u) + u - u^3 - v + k with an inhibitor v = u / (1 - 10 D lap) that is always in
    balance, solved on a coarse periodic grid in Fourier space, diffusion implicitly.
    """
    n, step = 64, 0.5
    waves = np.fft.fftfreq(n)[:, None] ** 2 + np.fft.rfftfreq(n)[None] ** 2
    spread = TURN**2 * waves * log_uniform(rng, 0.3, 1.2)
    linear = 1 / (1 + step * (spread + 2 / (1 + 10 * spread) - 0.4))
    bias, field = step * rng.uniform(-0.25, 0.25), rng.normal(0, 0.3, (n, n))
    for _ in range(30):
        growth = field * (1 + step * (0.6 - field * field)) + bias
        field = np.fft.irfft2(np.fft.rfft2(growth) * linear, s=(n, n))
    zoom = log_uniform(rng, 1.2, 4)
    down, across = math.ceil(height / zoom) + 2, math.ceil(width / zoom) + 2
    tiled = np.pad(np.float32(field), [(0, max(0, down - n)), (0, max(0, across - n))], mode="wrap")
    grown = Image.fromarray(tiled).resize(
        (width, height), Image.Resampling.BICUBIC, (0, 0, width / zoom, height / zoom)
    )
    return coloured(stretched(np.asarray(grown)), palette(rng))


def shading(rng: Rng, height: int, width: int) -> np.ndarray:
    """A plain surface: one colour, or slowly changing into others, and fine roughness."""
    field = smooth_noise(rng, height, width, max(height, width) / rng.uniform(1, 4))
    rough = smooth_noise(rng, height, width, log_uniform(rng, 1, 6))
    field = np.float32(0.5) + np.float32(rng.uniform(0.02, 0.2)) * field
    field = field + np.float32(rng.uniform(0.01, 0.06)) * rough
    return coloured(np.clip(field, 0, 1), palette(rng, flat=0))


def _feature_points(
    rng: Rng, height: int, width: int, cell: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fields of distances, in cells, to the nearest two of one random point a cell; its tone.

    Of the 3 x 3 cells around a pixel, which nearly always hold both.
    """
    size = max(2, round(cell))
    rows, columns = math.ceil(height / size) + 2, math.ceil(width / size) + 2
    jitter = rng.uniform(0.6, 1)
    down, across, tones = rng.random((3, rows, columns), np.float32)
    down = (down * jitter + np.arange(rows, dtype=np.float32)[:, None]) * size
    across = (across * jitter + np.arange(columns, dtype=np.float32)) * size
    points = [grid.repeat(size, 0).repeat(size, 1) for grid in (down, across, tones)]
    y = np.arange(size, size + height, dtype=np.float32)[:, None]
    x = np.arange(size, size + width, dtype=np.float32)
    nearest = np.full((height, width), np.inf, np.float32)
    second, tone = nearest.copy(), np.zeros_like(nearest)
    for i in range(0, 3 * size, size):
        for j in range(0, 3 * size, size):
            window = np.s_[i : i + height, j : j + width]
            dy, dx = points[0][window] - y, points[1][window] - x
            distance = dy * dy + dx * dx
            np.minimum(second, np.maximum(nearest, distance), out=second)
            np.copyto(tone, points[2][window], where=distance < nearest)
            np.minimum(nearest, distance, out=nearest)
    return np.sqrt(nearest) / size, np.sqrt(second) / size, tone
