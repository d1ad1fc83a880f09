"""UTAD: a two-stage network that rebuilds the image without its defects (Liu et al., 2021)."""

from fastad.models.utad.config import UTADConfig
from fastad.models.utad.model import UTAD

__all__ = ["UTAD", "UTADConfig"]
