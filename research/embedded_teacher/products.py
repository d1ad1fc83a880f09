"""Held-out products with generated defects: what a pretraining's choices are validated on.

They stand in for real inspection data, good and defective, and share no drawing code with what the
teacher is trained on. How well a detector does on them says nothing certain about real images; it
is meant to rank teachers. A defective image is the same image as without the defect, but for the
pixels of its mask.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import binary_closing, gaussian_filter

from fastad.data.synthesis.texture_parts import Rng, log_uniform
from research.embedded_teacher import product_objects as objects
from research.embedded_teacher import product_surfaces as surfaces
from research.embedded_teacher.product_defects import DEFECTS
from research.embedded_teacher.product_parts import SIZE, X, Y, noise

VISIBLE = 0.008  # by which a drawing's tone differs, at least, where its defect is
SMALLEST = 12  # pixels of a defect
STRENGTH = (2.0, 8.0)  # of a defect, times the deviation of what it lies in


@dataclass(frozen=True)
class ProductSet:
    """Images of one product, and where their defects are."""

    name: str
    train: np.ndarray  # (N, 256, 256, 3) uint8, good
    test: np.ndarray  # (M, 256, 256, 3) uint8, half of them good, the good ones first
    masks: np.ndarray  # (M, 256, 256) bool, True on the defect


Draw = Callable[[Rng, Rng], np.ndarray | tuple[np.ndarray, np.ndarray]]

_PRODUCTS: dict[str, Draw] = {
    draw.__name__: draw
    for draw in (
        *(surfaces.casting, surfaces.ground, surfaces.glazed, surfaces.leather),
        *(surfaces.wood, surfaces.knit, surfaces.wire_mesh, surfaces.slate),
        *(objects.bottle, objects.commutator, objects.screw, objects.gear, objects.gasket),
        *(objects.board, objects.label, objects.cable, objects.pill, objects.connector),
    )
}
NAMES: tuple[str, ...] = tuple(_PRODUCTS)


def product_set(index: int, train: int = 40, test: int = 40, seed: int = 0) -> ProductSet:
    """The set of product ``NAMES[index]``; another seed gives another make of it."""
    good = [render(index, seed, (0, i))[0] for i in range(train)]
    tested = [render(index, seed, (1, i), defective=i >= test // 2) for i in range(test)]
    images, masks = zip(*tested, strict=True)
    return ProductSet(NAMES[index], np.stack(good), np.stack(images), np.stack(masks))


def render(
    index: int, seed: int, image: tuple[int, int], defective: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """One image (256, 256, 3) uint8 of a product and its mask, empty without a defect.

    What the images of a make share, what an image has of its own, its defect and the camera have
    generators of their own, so that the defect changes nothing else.
    """
    kind = np.random.default_rng([seed, index, 2])
    rng, damage, camera = (np.random.default_rng([seed, index, *image, s]) for s in range(3))
    drawn = _PRODUCTS[NAMES[index]](kind, rng)
    drawing, solid = drawn if isinstance(drawn, tuple) else (drawn, None)
    sigma = camera.uniform(0, 0.7)
    seen, mask = _blurred(drawing, sigma), np.zeros((SIZE, SIZE), bool)
    if defective:
        damaged, mask = _damaged(damage, drawing, solid, sigma)
        seen = np.where(mask, damaged, seen)
    return _photograph(camera, seen), mask


def _damaged(
    rng: Rng, drawing: np.ndarray, solid: np.ndarray | None, sigma: float
) -> tuple[np.ndarray, np.ndarray]:
    """A drawing with a defect, blurred, and where; other ones are tried while nothing shows."""
    good, share = _blurred(drawing, sigma), log_uniform(rng, *STRENGTH)
    while True:
        defect = DEFECTS[str(rng.choice(list(DEFECTS)))]
        x, y = _place(rng, solid)
        window = drawing[:, max(0, y - 12) : y + 12, max(0, x - 12) : x + 12]
        contrast = share * float(np.clip(window.std((1, 2)).mean(), 0.03, 0.09))
        damaged = _blurred(np.float32(defect(rng, drawing, x, y, contrast)), sigma)
        mask = np.abs(damaged - good).max(0) > VISIBLE
        if solid is not None and rng.random() < 0.7:  # mostly nothing beside the object changes
            mask &= solid
        mask = binary_closing(np.pad(mask, 2), iterations=2)[2:-2, 2:-2]
        if mask.sum() >= SMALLEST:
            return damaged, mask
        share *= 1.3


def _blurred(drawing: np.ndarray, sigma: float) -> np.ndarray:
    return gaussian_filter(drawing, (0, sigma, sigma), truncate=2.5) if sigma > 0.2 else drawing


def _place(rng: Rng, solid: np.ndarray | None) -> tuple[int, int]:
    if solid is None:
        x, y = rng.integers(8, SIZE - 8, 2).tolist()
        return x, y
    where = np.flatnonzero(solid)
    y, x = divmod(int(rng.choice(where)), SIZE)
    return x, y


def _photograph(rng: Rng, drawing: np.ndarray) -> np.ndarray:
    """Uneven light, contrast and noise, of the camera: (256, 256, 3) uint8."""
    angle = rng.uniform(0, 2 * np.pi)
    slope = (math.cos(angle) * X + math.sin(angle) * Y) * (rng.uniform(0, 0.16) / SIZE)
    light = rng.uniform(0.93, 1.07) * (1 + slope + rng.uniform(0, 0.04) * noise(rng, 150))
    shot = (0.5 + rng.uniform(0.93, 1.07) * (drawing - 0.5)) * light
    shot += rng.uniform(0.006, 0.018) * rng.standard_normal((SIZE, SIZE), np.float32)
    levels = np.uint8(np.clip(np.rint(shot * 255), 0, 255))
    return np.broadcast_to(levels, (3, SIZE, SIZE)).transpose(1, 2, 0)
