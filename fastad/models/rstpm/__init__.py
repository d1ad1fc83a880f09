"""RSTPM: reconstructed student-teacher and discriminative networks (Yamada et al., IROS 2022)."""

from fastad.models.rstpm.config import RSTPMConfig
from fastad.models.rstpm.model import RSTPM

__all__ = ["RSTPM", "RSTPMConfig"]
