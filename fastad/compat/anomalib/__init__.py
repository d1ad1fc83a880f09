"""From anomalib: faster modules for its models, and its checkpoints as detectors.

Written after anomalib 2.7. Nothing here imports it.
"""

from fastad.compat.anomalib.acceleration import (
    ReverseDistillationMap,
    STFPMLoss,
    STFPMMap,
    accelerate,
)
from fastad.compat.anomalib.checkpoint import Checkpoint, read_checkpoint
from fastad.compat.anomalib.importing import UNKNOWN_IMAGES, import_checkpoint

__all__ = [
    "UNKNOWN_IMAGES",
    "Checkpoint",
    "ReverseDistillationMap",
    "STFPMLoss",
    "STFPMMap",
    "accelerate",
    "import_checkpoint",
    "read_checkpoint",
]
