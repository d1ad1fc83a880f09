"""GTrans: a transformer guides the student by the teacher's tokens (Yan et al., 2024)."""

from fastad.models.gtrans.config import GTransConfig
from fastad.models.gtrans.model import GTrans

__all__ = ["GTrans", "GTransConfig"]
