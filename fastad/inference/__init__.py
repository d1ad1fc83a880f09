"""From a trained model to decisions: predictor, threshold, one file, heat maps.

Open `predictor` first: it turns images into scores, maps and decisions.
"""

from fastad.inference.artifact import Artifact, ArtifactError, load, save
from fastad.inference.heatmaps import colour_scale, overlay, save_heatmap
from fastad.inference.predictor import Predictor
from fastad.inference.result import ImageResult, PredictionResult
from fastad.inference.several import predict_several
from fastad.inference.threshold import conformal_threshold, p_values

__all__ = [
    "Artifact",
    "ArtifactError",
    "ImageResult",
    "PredictionResult",
    "Predictor",
    "colour_scale",
    "conformal_threshold",
    "load",
    "overlay",
    "p_values",
    "predict_several",
    "save",
    "save_heatmap",
]
