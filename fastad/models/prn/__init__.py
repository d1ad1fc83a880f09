"""PRN: prototypical residual networks (Zhang et al., CVPR 2023)."""

from fastad.models.prn.config import PRNConfig
from fastad.models.prn.model import PRN

__all__ = ["PRN", "PRNConfig"]
