"""Programs that draw the images of the pretraining: the package's textures, and many more."""

from fastad.data.synthesis.textures import FAMILIES as TEXTURES
from fastad.data.synthesis.textures import Family
from research.embedded_teacher.programs import (
    grids,
    ifs,
    marks,
    noise_mix,
    objects,
    shaders,
    solids,
)

_FILES: dict[object, tuple[str, ...]] = {
    ifs: (
        *("ifs_points", "ifs_density", "ifs_flame", "ifs_torus", "ifs_overlaid", "ifs_relief"),
        "julia",
    ),
    shaders: (*("expressions", "warped", "quasicrystal", "moire", "kaleidoscope", "repeats"),),
    grids: ("modular", "automaton", "truchet", "mosaic", "glitches"),
    solids: (
        *("bumps", "bodies", "bevels", "lathe", "drilled", "embossed", "crumpled", "pile"),
        "grooved",
    ),
    noise_mix: (
        *("spectrum", "band", "sparse_octaves", "cascade", "gabor", "flow", "regions"),
        *("impulses", "layers", "halftone_noise"),
    ),
    objects: ("parts", "hardware", "closeup", "panels"),
    marks: ("lettering", "cracks", "wires", "circuits"),
}

# (rng, height, width) -> uint8 (H, W, 3). Their order is part of what a seed stands for.
FAMILIES: dict[str, Family] = dict(TEXTURES) | {
    name: getattr(module, name) for module, names in _FILES.items() for name in names
}

__all__ = ["FAMILIES", "Family"]
