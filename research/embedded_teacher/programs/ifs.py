"""Fractals: attractors of iterated function systems, and Julia sets.

As in FractalDB (H. Kataoka et al., ACCV 2020) the systems are drawn at random, and an attractor
becomes points, a density, or a tint of which map came last. Instead of playing the chaos game for
each point, whole sets of points go through every map at once.
"""

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from fastad.data.synthesis.texture_parts import (
    TURN,
    Rng,
    coloured,
    log_uniform,
    palette,
    shaded,
    stretched,
)
from research.embedded_teacher.programs.parts import (
    blurred,
    dropped,
    flat,
    ground,
    laid,
    lit,
    plane,
)
from research.embedded_teacher.programs.parts import tone as random_tone

POINTS = 60_000  # about as many of an attractor
FILLED = 0.2  # at least, of a grid of 24 x 24 cells around an attractor


@dataclass(frozen=True)
class Attractor:
    """Points x, y in [0, 1], and of each a tone that tells the maps it came through."""

    x: np.ndarray
    y: np.ndarray
    tone: np.ndarray


def attractor(rng: Rng, points: int = POINTS, bent: bool = False) -> Attractor:
    """Of a random system of contractions; ``bent`` ones are not affine."""
    for _ in range(6):  # until one is more than a few specks
        system = _system(rng, int(rng.integers(2, 8)), bent)
        sample = _play(rng, system, 1500)
        place = np.int32(np.clip(sample.y, 0, 0.99) * 24) * 24
        place += np.int32(np.clip(sample.x, 0, 0.99) * 24)
        if np.count_nonzero(np.bincount(place)) > FILLED * 24 * 24:
            break
    return _play(rng, system, points)


def ifs_points(rng: Rng, height: int, width: int) -> np.ndarray:
    """One attractor in one colour on another, of single points or of small squares."""
    count, _ = _density(attractor(rng), height, width, rng.uniform(0.02, 0.2))
    ink = Image.fromarray(np.uint8(np.minimum(count, 1) * 255))
    size = int(rng.choice([1, 3, 3, 5]))
    if size > 1:
        ink = ink.filter(ImageFilter.MaxFilter(size))
    share = np.asarray(ink, np.float32) * np.float32(1 / 255)
    first, second = palette(rng)[rng.permutation([5, 250])]
    return laid(flat(height, width, first), share, second)


def ifs_density(rng: Rng, height: int, width: int) -> np.ndarray:
    """One attractor, its density in colours, seen whole or from close by."""
    margin = rng.choice([0.05, -0.3, -0.8])
    count, _ = _density(attractor(rng, 2 * POINTS), height, width, margin)
    field = np.log1p(count * np.float32(log_uniform(rng, 0.3, 3)))
    return coloured(stretched(field), palette(rng))


def ifs_flame(rng: Rng, height: int, width: int) -> np.ndarray:
    """A bent attractor that glows in the tones of its maps, as S. Draves' flames do."""
    margin = rng.choice([0.02, -0.2, -0.6])
    count, tone = _density(attractor(rng, 2 * POINTS, bent=True), height, width, margin)
    glow = np.sqrt(blurred(stretched(np.log1p(count)), 0.5))
    texture = shaded(coloured(tone, palette(rng, flat=0)), glow)
    if rng.random() < 0.5:
        return laid(flat(height, width, random_tone(rng)), glow, texture)
    return 255 - texture if rng.random() < 0.3 else texture


def ifs_torus(rng: Rng, height: int, width: int) -> np.ndarray:
    """An attractor wrapped around several times: a dense texture without an edge."""
    points, times = attractor(rng, bent=rng.random() < 0.5), log_uniform(rng, 1.5, 6)
    side = int(min(max(height, width), log_uniform(rng, 48, 256)))
    row = (points.y * np.float32(times * side)).astype(np.int32) % side
    column = (points.x * np.float32(times * side)).astype(np.int32) % side
    place = row * side + column
    count = np.bincount(place, minlength=side * side).astype(np.float32)
    if rng.random() < 0.5:
        count = np.bincount(place, points.tone, side * side).astype(np.float32)
    tile = np.log1p(count).reshape(side, side)
    tile = np.pad(tile, ((0, max(0, height - side)), (0, max(0, width - side))), mode="wrap")
    field = stretched(tile[:height, :width], rng.uniform(1.5, 3))
    return coloured(field, palette(rng))


def ifs_overlaid(rng: Rng, height: int, width: int) -> np.ndarray:
    """Two to four attractors, like ferns or flakes, on a ground and above each other's shadows."""
    texture = ground(rng, height, width)
    for _ in range(int(rng.integers(2, 5))):
        high, wide = (max(8, int(side * rng.uniform(0.3, 0.9))) for side in (height, width))
        count, tone = _density(attractor(rng, POINTS // 5), high, wide, 0.03)
        top = int(rng.integers(-high // 3, height - high // 2))
        left = int(rng.integers(-wide // 3, width - wide // 2))
        rows = slice(max(0, top), min(height, top + high))
        columns = slice(max(0, left), min(width, left + wide))
        inner = np.s_[
            rows.start - top : rows.stop - top, columns.start - left : columns.stop - left
        ]
        ink = Image.fromarray(np.uint8(np.minimum(count, 1) * 255)).filter(ImageFilter.MaxFilter(3))
        share = np.zeros((height, width), np.float32)
        share[rows, columns] = np.asarray(ink, np.float32)[inner] / 255
        colours = coloured(tone, palette(rng))
        if rng.random() < 0.6:
            texture = dropped(rng, texture, share)
        here = (rows, columns)
        texture = texture.copy()
        texture[here] = laid(texture[here], share[here], colours[inner])
    return texture


def ifs_relief(rng: Rng, height: int, width: int) -> np.ndarray:
    """An attractor as a relief: etched into or grown out of a ground."""
    points = attractor(rng, bent=rng.random() < 0.3)
    count, _ = _density(points, height, width, rng.choice([0.05, -0.3]))
    level = np.uint8(np.minimum(count * 90, 255))
    soft = Image.fromarray(level).filter(ImageFilter.GaussianBlur(log_uniform(rng, 0.8, 3)))
    field = np.asarray(soft, np.float32) * np.float32(
        rng.choice([-1, 1]) * rng.uniform(2, 10) / 255
    )
    return lit(rng, field, ground(rng, height, width))


def julia(rng: Rng, height: int, width: int) -> np.ndarray:
    """A Julia set of z^2 + c near the boundary of the Mandelbrot set: bands of escape."""
    x, y = plane(rng, height, width, log_uniform(rng, 0.35, 1.3))
    angle = rng.uniform(0, TURN)
    # On the rim of the cardioid or of the disc to its left, and a little outside.
    c = np.exp(1j * angle) / 2 - np.exp(2j * angle) / 4
    c = np.complex64(
        (c if rng.random() < 0.7 else -1 + np.exp(1j * angle) / 4) * rng.uniform(1, 1.08)
    )
    z, size = x + 1j * y, np.zeros((height, width), np.float32)
    for _ in range(18):
        z = z * z + c
        square = z.real * z.real + z.imag * z.imag
        size += square < 16
        z[square > 1e4] = 100
    fine = np.log1p(np.minimum(square, 1e4)) * np.float32(rng.choice([0, 0.1, 0.3]))
    field = size - fine
    if rng.random() < 0.4:
        field = np.sin(field * np.float32(rng.uniform(0.5, 1.5)))
    return coloured(stretched(field), palette(rng))


@dataclass(frozen=True)
class _System:
    matrices: np.ndarray  # (maps, 2, 2)
    shifts: np.ndarray  # (maps, 2)
    tones: np.ndarray  # (maps,)
    bend: int  # of `_bend`, -1 for none


def _system(rng: Rng, maps: int, bent: bool) -> _System:
    """Random contractions, the weaker the fewer there are: no dust, no blots."""
    angles = rng.uniform(0, TURN, (2, maps))
    strong = rng.uniform(0.35, 0.9, maps) * min(1.0, 0.7 + 0.5 / maps)
    weak = strong * rng.uniform(0.3, 1, maps) * rng.choice([-1, 1], maps)
    stretch = np.zeros((maps, 2, 2))
    stretch[:, 0, 0], stretch[:, 1, 1] = strong, weak
    first, second = (
        np.moveaxis(np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]), -1, 0)
        for a in angles
    )
    shifts = rng.uniform(-1, 1, (maps, 2)).astype(np.float32)
    bend = int(rng.integers(5)) if bent else -1
    return _System(np.float32(first @ stretch @ second), shifts, rng.random(maps, np.float32), bend)


def _play(rng: Rng, system: _System, points: int) -> Attractor:
    """About so many points of a system's attractor."""
    maps = len(system.matrices)
    levels = max(3, math.floor(math.log(points / 8) / math.log(maps)))
    cloud = rng.uniform(-1, 1, (2, max(8, points // maps**levels))).astype(np.float32)
    tone = np.full(cloud.shape[1], 0.5, np.float32)
    for level in range(levels + 4):
        if level < 4:  # towards the attractor, each point through one of the maps
            chosen = rng.integers(maps, size=cloud.shape[1])
            cloud = np.einsum("nij,jn->in", system.matrices[chosen], cloud)
            cloud += system.shifts[chosen].T
        else:
            cloud = np.matmul(system.matrices, cloud) + system.shifts[..., None]
            tone = (tone + system.tones[:, None]).ravel() * np.float32(0.5)
            cloud = cloud.transpose(1, 0, 2).reshape(2, -1)
        cloud = _bend(cloud, system.bend)
    sample = cloud[:, :: max(1, cloud.shape[1] // 2000)]
    low, high = np.quantile(sample, (0.01, 0.99), axis=1).astype(np.float32)
    x, y = (cloud - low[:, None]) / np.maximum(high - low, 1e-3)[:, None]
    return Attractor(x, y, tone)


def _bend(cloud: np.ndarray, kind: int) -> np.ndarray:
    if kind < 0:
        return cloud
    x, y = cloud
    square = x * x + y * y
    if kind == 0:
        return np.sin(cloud * np.float32(1.5))
    if kind == 1:
        return cloud / np.maximum(square, 0.2)
    if kind == 2:
        sin, cos = np.sin(square), np.cos(square)
        return np.stack([x * sin - y * cos, x * cos + y * sin])
    if kind == 3:
        r = np.sqrt(square)
        return np.stack([(x - y) * (x + y), 2 * x * y]) / np.maximum(r, 0.05)
    return cloud * (2 / (1 + square))


def _density(
    points: Attractor, height: int, width: int, margin: float
) -> tuple[np.ndarray, np.ndarray]:
    """Fields of how many points there are, and of their tone; a margin below 0 cuts some off."""
    scale, shift = 1 - 2 * margin, margin
    column = np.floor((points.x * np.float32(scale) + np.float32(shift)) * width).astype(np.int32)
    row = np.floor((points.y * np.float32(scale) + np.float32(shift)) * height).astype(np.int32)
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    place = (row * width + column)[inside]
    count = np.bincount(place, minlength=height * width).astype(np.float32)
    tones = np.bincount(place, points.tone[inside], height * width).astype(np.float32)
    tones /= np.maximum(count, 1)
    return count.reshape(height, width), tones.reshape(height, width)
