"""A detector in the formats of other runtimes, compared with it before a file is kept.

Open `export` first: it makes the graph. `formats` writes and runs each format. `tiles`
is for images that do not fit through the networks at once.
"""

from fastad.export.export import TOLERANCE, export_detector
from fastad.export.formats import FORMATS, check_packages
from fastad.export.tiles import export_tiles
from fastad.export.verification import Verification

__all__ = [
    "FORMATS",
    "TOLERANCE",
    "Verification",
    "check_packages",
    "export_detector",
    "export_tiles",
]
