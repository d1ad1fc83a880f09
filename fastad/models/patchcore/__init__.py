"""PatchCore: the distance of a patch from the nearest one of normal images."""

from fastad.models.patchcore.config import PatchCoreConfig
from fastad.models.patchcore.model import PatchCore

__all__ = ["PatchCore", "PatchCoreConfig"]
