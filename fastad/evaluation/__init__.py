"""How good a detector is: image and pixel scores over a labelled test set.

Open `evaluate` for a whole test set, `check` for a detector without one, and `metrics` for single
scores.
"""

from fastad.evaluation.accumulator import Evaluation
from fastad.evaluation.bootstrap import image_auroc_interval
from fastad.evaluation.check import CheckResult, Tried, check
from fastad.evaluation.evaluate import evaluate
from fastad.evaluation.metrics import (
    aupimo,
    aupro,
    image_auroc,
    image_average_precision,
    image_f1_max,
    image_metrics,
    pixel_auroc,
    pixel_average_precision,
    pixel_f1_max,
    pixel_metrics,
)
from fastad.evaluation.regions import Region, regions_of
from fastad.evaluation.shares import ExactShare, exact_interval

__all__ = [
    "CheckResult",
    "Evaluation",
    "ExactShare",
    "Region",
    "Tried",
    "aupimo",
    "aupro",
    "check",
    "evaluate",
    "exact_interval",
    "image_auroc",
    "image_auroc_interval",
    "image_average_precision",
    "image_f1_max",
    "image_metrics",
    "pixel_auroc",
    "pixel_average_precision",
    "pixel_f1_max",
    "pixel_metrics",
    "regions_of",
]
