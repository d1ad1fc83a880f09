"""Training: one loop for every model, its options, its checkpoints, and what it reports.

Open `trainer` first, and `config` for the options.
"""

from fastad.training.calibrator import Calibrator
from fastad.training.checkpoint import CheckpointError, load_checkpoint
from fastad.training.config import TrainingConfig
from fastad.training.divergence import TrainingDivergedError
from fastad.training.identity import settled_options
from fastad.training.map_choice import ChoiceRecord
from fastad.training.precision import PRECISIONS, resolve_device, resolve_precision
from fastad.training.progress import ConsoleProgress, EpochProgress
from fastad.training.record import StageRecord, TrainingRecord
from fastad.training.stages import check_defects
from fastad.training.trainer import Trainer

__all__ = [
    "PRECISIONS",
    "Calibrator",
    "CheckpointError",
    "ChoiceRecord",
    "ConsoleProgress",
    "EpochProgress",
    "StageRecord",
    "Trainer",
    "TrainingConfig",
    "TrainingDivergedError",
    "TrainingRecord",
    "check_defects",
    "load_checkpoint",
    "resolve_device",
    "resolve_precision",
    "settled_options",
]
