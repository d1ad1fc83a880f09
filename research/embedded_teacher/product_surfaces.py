"""Held-out products that are all surface: cast, ground, glazed, leather, wood, knit, wire.

Each gives a drawing for a generator of what all images of the product share, and one of the image.
"""

import math

import numpy as np

from fastad.data.synthesis.texture_parts import (
    TURN,
    Rng,
    fractal_noise,
    log_uniform,
    smooth_noise,
    turned,
)
from research.embedded_teacher.product_parts import (
    SIZE,
    Pose,
    X,
    Y,
    cover,
    grey,
    length,
    noise,
    over,
    relief,
    ridge,
    tinted,
)


def casting(kind: Rng, rng: Rng) -> np.ndarray:
    """A cast metal tile: grain of a size that changes from tile to tile, flow marks."""
    grain = kind.uniform(1.4, 2.4) * log_uniform(rng, 0.8, 1.4)
    shade = 0.5 + rng.uniform(0.035, 0.05) * noise(rng, grain)
    shade += rng.uniform(0.02, 0.035) * noise(rng, 3 * grain, rng.uniform(1, 2))
    shade += rng.uniform(0.02, 0.08) * noise(rng, 70)
    return grey(shade)


def ground(kind: Rng, rng: Rng) -> np.ndarray:
    """A ground surface: fine marks along one direction, bands, some deeper lines."""
    side, angle = math.ceil(SIZE * math.sqrt(2)) + 2, kind.uniform(0, TURN)
    marks = rng.uniform(0.04, 0.08) * smooth_noise(rng, side, side, 1.3, rng.uniform(20, 60))
    marks += rng.uniform(0.02, 0.05) * smooth_noise(rng, side, side, 9, 40)
    deep = smooth_noise(rng, side, side, 1.6, 90)
    marks += rng.uniform(0.1, 0.2) * np.maximum(deep - np.float32(2.1), 0)
    return grey(0.55 + turned(marks, SIZE, SIZE, angle + rng.normal(0, 0.05)))


def glazed(kind: Rng, rng: Rng) -> np.ndarray:
    """A glazed tile: pale, slightly wavy, with specks of two sizes, few or many."""
    shade = 0.74 + 0.02 * noise(rng, 90) + rng.uniform(0.05, 0.1) * relief(noise(rng, 14), 0.8)
    for grain, depth in ((1.5, 0.15), (kind.uniform(3, 5), 0.1)):
        specks = noise(rng, grain) - np.float32(rng.uniform(2.4, 2.8))
        shade -= depth * np.clip(2 * specks, 0, 1)
    return tinted(shade, (1.0, 0.96, 0.88))


def leather(kind: Rng, rng: Rng) -> np.ndarray:
    """Dyed leather: wrinkles between pebbles, pores, folds here and there."""
    hue = kind.uniform((0.25, 0.12, 0.05), (0.6, 0.35, 0.25))
    grain = kind.uniform(7, 12) * rng.uniform(0.95, 1.05)
    wrinkles = np.minimum(np.abs(noise(rng, grain)), np.abs(noise(rng, 1.4 * grain, 1.3)))
    height = np.minimum(wrinkles, np.float32(0.35)) * 3 + 0.3 * noise(rng, 3)
    fold = ridge(noise(rng, 90), 0.05) * np.clip(noise(rng, 60), 0, 1) * rng.uniform(0, 0.5)
    shade = 0.75 + rng.uniform(0.25, 0.35) * relief(height - fold, 0.9) + 0.12 * (height - 0.7)
    shade += 0.05 * noise(rng, 80) - 0.1 * fold
    return tinted(shade, hue) + rng.uniform(0.02, 0.06)


def wood(kind: Rng, rng: Rng) -> np.ndarray:
    """A planed board: early and late wood, pores along the grain, sometimes a knot."""
    along, across = (Y, X) if kind.random() < 0.5 else (X, Y)
    tilt, pitch = rng.normal(0, 0.04), kind.uniform(14, 26) * rng.uniform(0.8, 1.3)
    ring = (across + tilt * along) / pitch + 1.1 * noise(rng, *_along(along, 60, 3))
    ring += rng.uniform(0, 1.5) * ridge(noise(rng, 120), 0.5)
    if rng.random() < 0.3:  # the grain goes around a knot
        u, v = across - rng.uniform(-110, 110), along - rng.uniform(-110, 110)
        distance = length(u, v / 2)
        ring += 2.5 * np.sign(u) * np.exp(-distance / 16)
    saw = ring - np.floor(ring)
    late = saw**3 * cover(saw - 0.95, 0.05)
    pores = np.clip(noise(rng, *_along(along, 1.4, 14)) - 1.3, 0, 1)
    shade = 0.04 * noise(rng, *_along(along, 2, 30)) - 0.18 * pores * rng.uniform(0.6, 1.2)
    pale, dark = (0.78, 0.60, 0.40), kind.uniform((0.45, 0.25, 0.1), (0.6, 0.42, 0.25))
    board = tinted(np.ones_like(late), pale)
    return over(board, late * rng.uniform(0.5, 0.9), dark) + shade


def knit(kind: Rng, rng: Rng) -> np.ndarray:
    """Knitted cloth: columns of loops that lean to both sides, hairy, drawn out of shape."""
    hue, pitch = kind.uniform(0.25, 0.8, 3), kind.uniform(9, 14)
    pose = Pose.draw(rng, pitch, 0.06)
    u, v = pose.coordinates()
    u, v = (w / pitch + 0.12 * noise(rng, 60) for w in (u, v))
    side = 2 * (u - np.floor(u)) - 1
    slope = v + 0.75 * np.abs(side)
    loop = slope - np.floor(slope) - np.float32(0.5)
    yarn = np.sqrt(np.clip(1 - np.square(2.1 * loop), 0, 1)) * np.sqrt(1 - np.abs(side) ** 6)
    twist = np.sin(np.float32(TURN) * (2 * np.abs(side) - 1.5 * slope))
    shade = (0.25 + 0.75 * yarn) * (1 + 0.08 * twist + 0.1 * noise(rng, 2) + 0.05 * noise(rng, 50))
    stripes = 1 + 0.3 * (np.floor(slope) % 8 < 2)
    return tinted(shade * stripes, hue)


def wire_mesh(kind: Rng, rng: Rng) -> np.ndarray:
    """Woven wire in front of something dark: bright where the wires lie on top."""
    pitch = kind.uniform(15, 22)
    u, v = Pose.draw(rng, pitch, 0.04).coordinates()
    u, v = (w / pitch + 0.03 * noise(rng, 90) for w in (u, v))
    i, j = np.floor(u), np.floor(v)
    over_under = 1 - 2 * ((i + j) % 2)
    a, b = u - i - np.float32(0.5), v - j - np.float32(0.5)
    thick = kind.uniform(0.14, 0.2)
    shade = 0.12 + 0.03 * noise(rng, 5) + 0.02 * noise(rng, 60)
    for across, along, sign in ((a, b, over_under), (b, a, -over_under)):
        high = sign * np.cos(np.float32(TURN / 2) * along)  # above the other wire at its middle
        round_ = np.sqrt(np.clip(1 - np.square(across / thick), 0, 1))
        metal = (0.25 + 0.6 * round_) * (0.75 + 0.25 * high) - 0.15 * across / thick
        metal += 0.05 * noise(rng, 2)
        share = cover((np.abs(across) - thick) * pitch)
        above = np.where(high > 0, share, share * (shade < 0.3))
        shade = shade + above * (metal - shade)
    return grey(shade)


def slate(kind: Rng, rng: Rng) -> np.ndarray:
    """A split stone plate: terraces, dark, with pale veins now and then."""
    height = fractal_noise(rng, SIZE, SIZE, 90, 0.55) * kind.uniform(2, 4)
    step = np.floor(height)
    terraces = step + np.clip(6 * (height - step), 0, 1)
    shade = 0.33 + rng.uniform(0.3, 0.5) * relief(terraces, kind.uniform(0, TURN))
    shade += 0.035 * noise(rng, 2) + 0.03 * noise(rng, 30)
    vein = ridge(noise(rng, 110) + 0.15 * noise(rng, 12), 0.02)
    return grey(shade + 0.2 * vein * rng.choice([0, 0, 1]))


def _along(along: np.ndarray, grain: float, aspect: float) -> tuple[float, float]:
    """Arguments of `noise` for grains drawn out along one of the axes."""
    return (grain, aspect) if along is X else (grain * aspect, 1 / aspect)
