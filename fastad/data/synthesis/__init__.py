"""Pseudo-anomalies: normal images with synthesised defects, and their masks. Open `anomalies`."""

from fastad.data.synthesis.anomalies import PseudoAnomalies, synthesize
from fastad.data.synthesis.augmentations import AUGMENTATIONS, augment
from fastad.data.synthesis.conditions import DISTURBANCES, Variants, disturbed, varied
from fastad.data.synthesis.corrupted import Corrupted
from fastad.data.synthesis.foreground import foreground
from fastad.data.synthesis.foreign import Foreign
from fastad.data.synthesis.perlin import perlin_mask, perlin_noise
from fastad.data.synthesis.real_defects import RealDefects, chosen_defects
from fastad.data.synthesis.shapes import SHAPES, draw_mask
from fastad.data.synthesis.texture_folder import TextureFolder
from fastad.data.synthesis.textures import FAMILIES, random_texture
from fastad.data.synthesis.trial import TrialDefects, trial_defect

__all__ = [
    "AUGMENTATIONS",
    "DISTURBANCES",
    "FAMILIES",
    "SHAPES",
    "Corrupted",
    "Foreign",
    "PseudoAnomalies",
    "RealDefects",
    "TextureFolder",
    "TrialDefects",
    "Variants",
    "augment",
    "chosen_defects",
    "disturbed",
    "draw_mask",
    "foreground",
    "perlin_mask",
    "perlin_noise",
    "random_texture",
    "synthesize",
    "trial_defect",
    "varied",
]
