"""Generated textures, for pseudo-anomalies without a folder of images."""

from collections.abc import Callable

import numpy as np

from fastad.data.synthesis import irregular_textures, regular_textures
from fastad.data.synthesis.texture_parts import finished

Family = Callable[[np.random.Generator, int, int], np.ndarray]

# (rng, height, width) -> uint8 (H, W, 3). Their order is part of what a seed stands for.
FAMILIES: dict[str, Family] = {
    "gratings": regular_textures.gratings,
    "woven": regular_textures.woven,
    "tiles": regular_textures.tiles,
    "dots": regular_textures.dots,
    "rings": regular_textures.rings,
    "writing": regular_textures.writing,
    "fractal": irregular_textures.fractal,
    "cells": irregular_textures.cells,
    "worley": irregular_textures.worley,
    "dead_leaves": irregular_textures.dead_leaves,
    "scratches": irregular_textures.scratches,
    "fibres": irregular_textures.fibres,
    "stains": irregular_textures.stains,
    "speckle": irregular_textures.speckle,
    "reaction_diffusion": irregular_textures.reaction_diffusion,
    "shading": irregular_textures.shading,
}
_FAMILIES = tuple(FAMILIES.values())


def random_texture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A texture (H, W, 3) uint8 of a family drawn at random, sometimes with light and grain."""
    family = _FAMILIES[int(rng.integers(len(_FAMILIES)))]
    return finished(rng, family(rng, height, width))
