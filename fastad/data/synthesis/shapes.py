"""Shapes of pseudo-anomalies: blobs of Perlin noise, thin strokes, small spots."""

import math
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageDraw

from fastad.data.synthesis.perlin import perlin_mask

MIN_PIXELS = 8  # a mask of fewer is drawn again
_TRIES = 32
_FINE = 4  # by how much finer lines are drawn than the mask is
_COVERED = 0.4  # of a pixel: a line of one pixel's width then has no gaps at any angle


def stroke_mask(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """One to three thin curved lines, as scratches and cracks are: bool (H, W).

    1 to 4 pixels wide, from a tenth of the image's longer side to all of it long; some have
    branches.
    """
    canvas, draw = _canvas(shape)
    for _ in range(int(rng.choice([1, 2, 3], p=[0.6, 0.25, 0.15]))):
        start = rng.uniform((0, 0), shape[::-1])
        length = max(shape) * 0.1 ** rng.random()
        heading, width = rng.uniform(0, 2 * np.pi), rng.uniform(1, 4)
        # A scratch bends slowly, a crack turns at every step.
        bend, jitter = rng.uniform(0, 0.06), rng.choice([0.02, 0.35])
        path = _path(rng, start, heading, length, bend, jitter)
        _draw(draw, path, width)
        if jitter > 0.1:
            for _ in range(int(rng.integers(3))):
                joint = path[rng.integers(len(path))]
                side = heading + rng.choice([-1, 1]) * rng.uniform(0.4, 1.2)
                branch = _path(rng, joint, side, length * rng.uniform(0.1, 0.4), bend, jitter)
                _draw(draw, branch, max(1, 0.7 * width))
    return _reduced(canvas)


def spot_mask(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """One to eight small round spots, single or in a group: bool (H, W).

    Their radii are 2 to 10 pixels.
    """
    canvas, draw = _canvas(shape)
    centre, spread = rng.uniform((0, 0), shape[::-1]), rng.uniform(8, max(9, max(shape) / 6))
    for _ in range(int(rng.choice([1, 2, 4, 8], p=[0.4, 0.2, 0.2, 0.2]))):
        radius, flatness = 2 * 5 ** rng.random(), rng.uniform(0.5, 1)
        turn, t = rng.uniform(0, np.pi), np.linspace(0, 2 * np.pi, 24, endpoint=False)
        outline = radius * (1 + rng.normal(0, 0.08, 24))
        x, y = outline * np.cos(t), flatness * outline * np.sin(t)
        across = centre[0] + x * np.cos(turn) - y * np.sin(turn)
        down = centre[1] + x * np.sin(turn) + y * np.cos(turn)
        draw.polygon((_FINE * np.stack([across, down], 1)).ravel().tolist(), fill=255)
        centre = np.clip(centre + rng.normal(0, spread / 2, 2), 0, shape[::-1])
    return _reduced(canvas)


SHAPES: dict[str, Callable[[tuple[int, int], np.random.Generator], np.ndarray]] = {
    "perlin": perlin_mask,
    "strokes": stroke_mask,
    "spots": spot_mask,
}


def draw_mask(
    shape: tuple[int, int], rng: np.random.Generator, shapes: Sequence[str] = ("perlin",)
) -> np.ndarray:
    """A mask (H, W) bool of one of ``shapes``, drawn at random; never empty.

    A mask of fewer than `MIN_PIXELS` is drawn again; where that does not help, the mask is a round
    blob in the image.
    """
    draw = SHAPES[shapes[int(rng.integers(len(shapes)))]]
    for _ in range(_TRIES):
        mask = draw(shape, rng)
        if np.count_nonzero(mask) >= MIN_PIXELS:
            return mask
    y, x = (rng.uniform(0.2, 0.8) * side for side in shape)
    radius = max(2, rng.uniform(0.03, 0.12) * min(shape))
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    return (rows - y) ** 2 + (columns - x) ** 2 < radius**2


def check_shapes(shapes: Sequence[str]) -> tuple[str, ...]:
    """Raises ValueError for an unknown shape or none at all."""
    names = (shapes,) if isinstance(shapes, str) else tuple(shapes)
    if not names or any(name not in SHAPES for name in names):
        raise ValueError(f"shapes must be some of {', '.join(SHAPES)}; got {shapes!r}")
    return names


def _canvas(shape: tuple[int, int]) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    canvas = Image.new("L", (shape[1] * _FINE, shape[0] * _FINE))
    return canvas, ImageDraw.Draw(canvas)


def _reduced(canvas: Image.Image) -> np.ndarray:
    return np.asarray(canvas.reduce(_FINE)) > _COVERED * 255


def _path(
    rng: np.random.Generator,
    start: np.ndarray,
    heading: float,
    length: float,
    bend: float,
    jitter: float,
) -> np.ndarray:
    """Points (n, 2), x and y, 3 pixels apart, of a line that changes its heading as it goes."""
    steps = max(2, math.ceil(length / 3))
    turns = np.cumsum(rng.normal(0, bend, steps)) * 0.5 + rng.normal(0, jitter, steps)
    headings = heading + np.cumsum(turns * 0.5)
    walk = np.stack([np.cos(headings), np.sin(headings)], 1) * (length / steps)
    return np.vstack([start, start + np.cumsum(walk, 0)])


def _draw(draw: ImageDraw.ImageDraw, path: np.ndarray, width: float) -> None:
    draw.line((_FINE * path).ravel().tolist(), 255, round(width * _FINE), joint="curve")
