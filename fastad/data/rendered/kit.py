"""A drawing of a kit of parts: what is wrong with it are its numbers and places."""

import numpy as np

from fastad.data.rendered.drawing import (
    SIZE,
    Rng,
    X,
    Y,
    blend,
    length,
    lit,
    noise,
    ridge,
    shadow,
    tint,
)

MIDDLE = 128  # between the compartments, pixels from the left
REACH = 22  # of a part, pixels from its middle
# Compartments: left, top, right, bottom of where the middle of a part may lie, in pixels.
LEFT, RIGHT = (44, 44, 100, 212), (156, 44, 212, 212)


def kit(rng: Rng, damage: Rng, defect: str | None) -> np.ndarray:
    """A tray: three washers on the left and three nuts on the right, wherever they lie."""
    grain = 0.02 * noise(rng, 30) - 0.0003 * (X + Y - SIZE)
    tray = 0.30 + grain + 0.2 * ridge(X - MIDDLE, 2.5)
    for edge in (12, SIZE - 12):
        tray += 0.2 * (ridge(X - edge, 2.5) + ridge(Y - edge, 2.5))
    colour = tint(tray, 1.15, 1.0, 0.85)
    places = [_free(rng, box, []) for box in (LEFT, RIGHT)]
    for _ in range(2):
        places = [_free(rng, box, known) for box, known in zip((LEFT, RIGHT), places, strict=True)]
    turns = rng.uniform(0, np.pi, 8)
    washers, nuts = places
    if defect == "missing part":
        washers = washers[:2]
    if defect == "doubled part":
        washers = _free(damage, LEFT, washers)
    if defect == "misplaced part":
        washers = [*washers[:2], _free(damage, RIGHT, nuts)[-1]]
    for draw, those in ((_washer, washers), (_nut, nuts)):
        for place, turn in zip(those, turns, strict=False):
            colour = draw(colour, place, turn)
    return colour


def _free(
    rng: Rng, box: tuple[int, int, int, int], known: list[tuple[float, float]]
) -> list[tuple[float, float]]:
    """``known`` places and one more in the box, as far from them as two parts must be."""
    left, top, right, bottom = box
    far = 2.0 * REACH + 2
    while True:
        x, y = rng.uniform(left, right), rng.uniform(top, bottom)
        far *= 0.995  # a full compartment has no place that is free by far
        if all(np.hypot(x - a, y - b) > far for a, b in known):
            return [*known, (x, y)]


def _washer(colour: np.ndarray, place: tuple[float, float], turn: float) -> np.ndarray:
    x, y = place
    dx, dy = X - x, Y - y
    r = length(dx, dy)
    solid = (r < 20) & (r > 9)
    shade = 0.62 + 0.16 * lit(dx, dy, r) * (ridge(r - 19, 1.5) - ridge(r - 10, 1.5))
    return _laid(colour, solid, tint(shade, 0.98, 1.0, 1.04))


def _nut(colour: np.ndarray, place: tuple[float, float], turn: float) -> np.ndarray:
    x, y = place
    dx, dy = X - x, Y - y
    r = length(dx, dy)
    angles = turn + np.arange(6) * np.pi / 3
    side = np.max([dx * np.cos(a) + dy * np.sin(a) for a in angles], axis=0)
    solid = (side < 17) & (r > 8)
    shade = 0.58 + 0.16 * lit(dx, dy, r) * (ridge(side - 15, 1.5) - ridge(r - 9, 1.5))
    return _laid(colour, solid, tint(shade, 1.15, 1.0, 0.62))


def _laid(colour: np.ndarray, solid: np.ndarray, part: np.ndarray) -> np.ndarray:
    colour = blend(colour, (0.05, 0.05, 0.05), 0.6 * shadow(solid, 2, 3, 2))
    return np.where(solid, part.astype(np.float32), colour).astype(np.float32)
