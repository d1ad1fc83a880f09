"""PRN: prototypical residual networks (Zhang et al., CVPR 2023)."""

from fastad.models.prn.model import PRN, PRNConfig

__all__ = ["PRN", "PRNConfig"]
