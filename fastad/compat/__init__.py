"""Bridges from other packages, none of which has to be installed to import this one."""

from fastad.compat import anomalib

__all__ = ["anomalib"]
