"""What the held-out products are drawn with: pose, soft edges, strokes, relief.

A field is (SIZE, SIZE) float32, a drawing (1 or 3, SIZE, SIZE) float32 of about [0, 1]: grey or
colour. Lengths are in pixels, the origin of the coordinates is the middle of the image.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from fastad.data.synthesis.texture_parts import Rng, smooth_noise

SIZE = 256
FINE = 2  # by how much finer Pillow's lines are drawn
Y, X = np.mgrid[:SIZE, :SIZE].astype(np.float32) + np.float32(0.5 - SIZE / 2)


@dataclass(frozen=True)
class Pose:
    """Where a product lies: shifted, turned, zoomed."""

    x: float
    y: float
    angle: float
    zoom: float

    @classmethod
    def draw(cls, rng: Rng, shift: float, turn: float, zoom: float = 0.03) -> "Pose":
        """At random, each within so many pixels, radians and shares."""
        x, y, angle = (rng.uniform(-limit, limit) for limit in (shift, shift, turn))
        return cls(x, y, angle, math.exp(rng.uniform(-zoom, zoom)))

    def coordinates(self) -> tuple[np.ndarray, np.ndarray]:
        """The product's own coordinates, to its right and down from its middle."""
        cos, sin = math.cos(self.angle) / self.zoom, math.sin(self.angle) / self.zoom
        dx, dy = X - self.x, Y - self.y
        return dx * cos + dy * sin, dy * cos - dx * sin

    def picture(self, artwork: Image.Image) -> np.ndarray:
        """A picture "L" of FINE times the size, laid on the product: a field from 0 to 1."""
        cos, sin = math.cos(self.angle) / self.zoom, math.sin(self.angle) / self.zoom
        half = artwork.width / 2
        # From a pixel of the result, also FINE times as large, to one of the artwork.
        x, y = half + self.x * FINE, half + self.y * FINE
        affine = (cos, sin, half - cos * x - sin * y, -sin, cos, half + sin * x - cos * y)
        moved = artwork.transform(
            artwork.size, Image.Transform.AFFINE, affine, Image.Resampling.BILINEAR
        )
        return np.asarray(moved.reduce(FINE), np.float32) / np.float32(255)


def artwork() -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """An empty picture for `Pose.picture`; its coordinates are FINE per pixel, from a corner."""
    picture = Image.new("L", (SIZE * FINE, SIZE * FINE))
    return picture, ImageDraw.Draw(picture)


def length(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Of vectors; numpy's hypot takes several times as long."""
    return np.sqrt(x * x + y * y)


def noise(rng: Rng, grain: float, aspect: float = 1) -> np.ndarray:
    return smooth_noise(rng, SIZE, SIZE, grain, aspect)


def grey(shade: np.ndarray) -> np.ndarray:
    """A field as a grey drawing."""
    return shade[None]


def tinted(shade: np.ndarray, colour: Sequence[float]) -> np.ndarray:
    """A field times a colour."""
    return np.float32(colour)[:, None, None] * shade


def cover(distance: np.ndarray, soft: float = 0.8) -> np.ndarray:
    """1 inside an outline (negative distance), 0 outside, softly between."""
    return np.clip(np.float32(0.5) - distance * np.float32(0.5 / soft), 0, 1)


def over(drawing: np.ndarray, share: np.ndarray, upper: np.ndarray | Sequence[float]) -> np.ndarray:
    """Lay another drawing, or one colour, over so much of a drawing."""
    upper = np.asarray(upper, np.float32)
    upper = upper[:, None, None] if upper.ndim == 1 else upper
    return drawing + share * (upper - drawing)


def ridge(distance: np.ndarray, width: float) -> np.ndarray:
    """1 where the distance is 0, falling off like a bell."""
    return np.exp(-np.square(distance * np.float32(1 / width)))


def box(u: np.ndarray, v: np.ndarray, wide: float, high: float, corner: float = 0) -> np.ndarray:
    """Signed distance to a rectangle of these half sides with round corners."""
    a, b = np.abs(u) - (wide - corner), np.abs(v) - (high - corner)
    outside = length(np.maximum(a, 0), np.maximum(b, 0))
    return outside + np.minimum(np.maximum(a, b), 0) - np.float32(corner)


def relief(height: np.ndarray, angle: float) -> np.ndarray:
    """Slope of a height field towards a light at this angle."""
    across, down = np.zeros_like(height), np.zeros_like(height)
    across[:, 1:-1] = height[:, 2:] - height[:, :-2]
    down[1:-1] = height[2:] - height[:-2]
    return np.float32(math.cos(angle) / 2) * across + np.float32(math.sin(angle) / 2) * down


def stroke(paths: Sequence[np.ndarray], width: float) -> np.ndarray:
    """1 on lines through points (n, 2), x and y from the image's corner, softly 0 beside them."""
    picture, draw = artwork()
    for path in paths:
        line = (path * FINE).ravel().tolist()
        draw.line(line, 255, max(1, round(width * FINE)), joint="curve")
    return np.asarray(picture.reduce(FINE), np.float32) / np.float32(255)


def glyph(kind: Rng, wide: float, high: float) -> list[list[tuple[float, float]]]:
    """An invented letter: lines between the nodes of a grid of 3 x 4, around (0, 0)."""
    at = [(wide * (i / 2 - 0.5), high * (j / 3 - 0.5)) for j in range(4) for i in range(3)]
    stem = int(kind.integers(3))
    lines = [[at[stem], at[stem + 9]]] if kind.random() < 0.7 else []
    for _ in range(int(kind.integers(2, 4))):
        a, b = kind.choice(12, 2, replace=False).tolist()
        elbow = a // 3 * 3 + b % 3  # along a row, then along a column
        lines.append([at[a], at[b]] if kind.random() < 0.3 else [at[a], at[elbow], at[b]])
    return lines
