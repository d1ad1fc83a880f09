"""Training: one loop for every model, its options, and what it reports."""

from fastad.training.config import TrainingConfig
from fastad.training.precision import PRECISIONS, resolve_device, resolve_precision
from fastad.training.progress import ConsoleProgress, EpochProgress
from fastad.training.record import TrainingRecord
from fastad.training.trainer import Trainer, TrainingDivergedError

__all__ = [
    "PRECISIONS",
    "ConsoleProgress",
    "EpochProgress",
    "Trainer",
    "TrainingConfig",
    "TrainingDivergedError",
    "TrainingRecord",
    "resolve_device",
    "resolve_precision",
]
