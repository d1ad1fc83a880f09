"""How good a detector is: image and pixel scores over a labelled test set."""

from fastad.evaluation.evaluate import evaluate
from fastad.evaluation.histogram import PixelHistogram
from fastad.evaluation.metrics import aupro, image_metrics, pixel_metrics

__all__ = ["PixelHistogram", "aupro", "evaluate", "image_metrics", "pixel_metrics"]
