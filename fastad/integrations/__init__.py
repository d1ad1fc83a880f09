"""fastad inside other people's tools: experiment trackers, and the searches of scikit-learn.

The trackers are given to `Detector.fit` as ``progress=``. Each imports its package when it is made.
None of these packages is needed otherwise.
"""

from fastad.integrations.search import synthesised_defects
from fastad.integrations.trackers import MLflow, TensorBoard, WeightsAndBiases, epoch_metrics

__all__ = ["MLflow", "TensorBoard", "WeightsAndBiases", "epoch_metrics", "synthesised_defects"]
