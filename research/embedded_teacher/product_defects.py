"""Defects of the held-out products, most of them hard to see.

Each takes a generator, a drawing, a place (x, y) in pixels from the image's corner and a contrast,
of the order of what varies there anyway, and gives the drawing with the defect in it.
"""

import math
from collections.abc import Callable

import numpy as np
from scipy.ndimage import map_coordinates, uniform_filter

from fastad.data.synthesis.texture_parts import TURN, Rng, log_uniform
from research.embedded_teacher.product_parts import SIZE, X, Y, length, noise, over, ridge, stroke

Defect = Callable[[Rng, np.ndarray, float, float, float], np.ndarray]


def crack(rng: Rng, drawing: np.ndarray, x: float, y: float, contrast: float) -> np.ndarray:
    """A thin dark line that wanders."""
    steps = int(log_uniform(rng, 8, 45))
    heading = rng.uniform(0, TURN) + np.cumsum(rng.normal(0, 0.45, steps))
    return drawing - _line(rng, (x, y), heading, 2.6, rng.uniform(0.6, 2)) * (1.6 * contrast)


def scratch(rng: Rng, drawing: np.ndarray, x: float, y: float, contrast: float) -> np.ndarray:
    """A bright, nearly straight line with a dark side."""
    steps = int(log_uniform(rng, 12, 70))
    heading = rng.uniform(0, TURN) + np.linspace(0, rng.normal(0, 0.4), steps)
    line = _line(rng, (x, y), heading, 1.5, rng.uniform(0.5, 1.5))
    return drawing + (line - 0.6 * np.roll(line, (1, 1), (0, 1))) * (2.2 * contrast)


def blowhole(rng: Rng, drawing: np.ndarray, x: float, y: float, contrast: float) -> np.ndarray:
    """One to four small dark holes with a rim in the light."""
    for _ in range(int(rng.choice([1, 1, 2, 4]))):
        radius, level = log_uniform(rng, 1.5, 7), contrast * rng.uniform(1.5, 3)
        distance = _distance(rng, x, y, radius)
        toward = np.clip((_across(x) + _down(y)) / (1.4 * radius), -1, 1)
        rim = ridge(distance - 1, 0.3) * toward
        hole = np.clip(3 * (1 - distance), 0, 1)
        drawing = drawing + (0.4 * rim - hole) * level
        x, y = x + rng.normal(0, 12), y + rng.normal(0, 12)
    return drawing


def stain(rng: Rng, drawing: np.ndarray, x: float, y: float, contrast: float) -> np.ndarray:
    """A soft blot, a little darker or brighter, or of another hue."""
    inside = np.clip(rng.uniform(1, 4) * (1 - _distance(rng, x, y, log_uniform(rng, 6, 35))), 0, 1)
    hue = rng.normal(0, 0.4, len(drawing)) if len(drawing) > 1 else 0
    tone = np.float32(rng.choice([-1, -1, 1]) * (1 + hue) * contrast)
    return drawing + inside * tone.reshape(-1, 1, 1)


def dent(rng: Rng, drawing: np.ndarray, x: float, y: float, contrast: float) -> np.ndarray:
    """A hollow: one side brighter, the other darker."""
    radius, angle = log_uniform(rng, 4, 25), rng.uniform(0, TURN)
    slope = (_across(x) * math.cos(angle) + _down(y) * math.sin(angle)) / radius
    fall = np.exp(-np.square(_distance(rng, x, y, radius)))
    return drawing + slope * fall * (2 * contrast)


def chip(rng: Rng, drawing: np.ndarray, x: float, y: float, contrast: float) -> np.ndarray:
    """A piece broken out: other tone, rough, with edges."""
    distance = _distance(rng, x, y, log_uniform(rng, 4, 22), 0.35)
    inside = np.clip(6 * (1 - distance), 0, 1)
    middle = drawing[:, int(y), int(x), None, None]
    rough = contrast * (noise(rng, log_uniform(rng, 1.5, 6)) - rng.choice([-1, 1]))
    broken = 0.4 * drawing + 0.6 * middle + rough
    return over(drawing, inside, broken)


def fibre(rng: Rng, drawing: np.ndarray, x: float, y: float, contrast: float) -> np.ndarray:
    """A hair or a crumb that lies there, with a shadow."""
    steps = int(log_uniform(rng, 4, 50))
    bends = np.cumsum(rng.normal(0, 0.06, steps)) + rng.normal(0, 0.05)
    heading = rng.uniform(0, TURN) + np.cumsum(bends)
    line = _line(rng, (x, y), heading, 1.5, rng.uniform(0.6, 1.6) if steps > 8 else 3)
    sign = rng.choice([-1, 1])
    shadow = np.roll(line, (2, 1), (0, 1)) * (0.5 * contrast)
    return drawing - shadow + line * (sign * 2.4 * contrast)


def fray(rng: Rng, drawing: np.ndarray, x: float, y: float, contrast: float) -> np.ndarray:
    """Short hairs out of one place."""
    main, lines = rng.uniform(0, TURN), np.zeros((SIZE, SIZE), np.float32)
    for _ in range(int(rng.integers(3, 9))):
        steps = int(rng.integers(5, 16))
        heading = main + rng.normal(0, 0.6) + np.linspace(0, rng.normal(0, 1.2), steps)
        start = (x + rng.normal(0, 2.5), y + rng.normal(0, 2.5))
        lines = np.maximum(lines, _line(rng, start, heading, 1.5, 0.7))
    return drawing + lines * (rng.choice([-1, 1]) * 2.4 * contrast)


def warp(rng: Rng, drawing: np.ndarray, x: float, y: float, contrast: float) -> np.ndarray:
    """What lies there is swirled, squeezed or shifted."""
    radius, kind = log_uniform(rng, 12, 40), rng.integers(3)
    dx, dy = _across(x), _down(y)
    fall = np.square(np.clip(1 - (dx * dx + dy * dy) / radius**2, 0, 1))
    amount = rng.choice([-1, 1]) * rng.uniform(0.6, 1.3)
    if kind == 0:
        angle = amount * 1.3 * fall
        fx, fy = dx * np.cos(angle) - dy * np.sin(angle), dx * np.sin(angle) + dy * np.cos(angle)
    elif kind == 1:
        fx, fy = dx * (1 - 0.5 * amount * fall), dy * (1 - 0.5 * amount * fall)
    else:
        turn = rng.uniform(0, TURN)
        shift = amount * radius / 3 * fall
        fx, fy = dx + shift * math.cos(turn), dy + shift * math.sin(turn)
    return over(drawing, np.clip(fall * 50, 0, 1), _sampled(drawing, fx + x, fy + y))


def misplaced(rng: Rng, drawing: np.ndarray, x: float, y: float, contrast: float) -> np.ndarray:
    """A piece that is there twice, in place of what belongs there."""
    distance = _distance(rng, x, y, log_uniform(rng, 8, 28), 0.3)
    reach, turn = rng.uniform(12, 60), rng.uniform(0, TURN)
    shift = round(reach * math.sin(turn)), round(reach * math.cos(turn))
    inside = np.clip(rng.uniform(2, 8) * (1 - distance), 0, 1)
    return over(drawing, inside, np.roll(drawing, shift, (1, 2)))


def worn(rng: Rng, drawing: np.ndarray, x: float, y: float, contrast: float) -> np.ndarray:
    """A place that is smoother or rougher than the rest."""
    distance = _distance(rng, x, y, log_uniform(rng, 8, 32))
    inside = np.clip(rng.uniform(1, 4) * (1 - distance), 0, 1)
    smooth = uniform_filter(drawing, (1, 5, 5))
    if rng.random() < 0.5:
        return over(drawing, inside * rng.uniform(0.6, 1), smooth)
    rough = drawing + (drawing - smooth) * rng.uniform(0.5, 1.5)
    return over(drawing, inside, rough + contrast * noise(rng, log_uniform(rng, 1, 4)))


DEFECTS: dict[str, Defect] = {
    defect.__name__: defect
    for defect in (
        *(crack, scratch, blowhole, stain, dent, chip),
        *(fibre, fray, warp, misplaced, worn),
    )
}


def _across(x: float) -> np.ndarray:
    return X + np.float32(SIZE / 2 - x)


def _down(y: float) -> np.ndarray:
    return Y + np.float32(SIZE / 2 - y)


def _distance(rng: Rng, x: float, y: float, radius: float, bumps: float = 0.15) -> np.ndarray:
    """Distance from a place, 1 on an irregular outline of that radius."""
    flat, turn = rng.uniform(0.5, 1), rng.uniform(0, TURN)
    dx, dy = _across(x), _down(y)
    u = dx * math.cos(turn) + dy * math.sin(turn)
    v = (dy * math.cos(turn) - dx * math.sin(turn)) / flat
    return length(u, v) / radius + bumps * noise(rng, max(2, radius))


def _line(
    rng: Rng, start: tuple[float, float], heading: np.ndarray, step: float, width: float
) -> np.ndarray:
    """A line (SIZE, SIZE) around a place, of uneven strength, along directions."""
    path = step * np.cumsum(np.stack([np.cos(heading), np.sin(heading)], -1), 0)
    line = stroke([path - path.mean(0) + start], width)
    return line * np.clip(0.8 + 0.25 * noise(rng, 20), 0.3, 1)


def _sampled(drawing: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The drawing's values at other places, given in pixels from the image's corner."""
    at = np.stack([y - np.float32(0.5), x - np.float32(0.5)])
    return np.stack([map_coordinates(band, at, order=1, mode="nearest") for band in drawing])
