"""Fused operations on feature pyramids: CPU and CUDA, forward and backward.

Open `reference` first. It holds the same functions in plain PyTorch: their definition.
"""

from fastad.ops import reference
from fastad.ops.aggregate_maps import aggregate_maps
from fastad.ops.anomaly_map import anomaly_map
from fastad.ops.distances import distances
from fastad.ops.distillation_loss import distillation_loss

__all__ = ["aggregate_maps", "anomaly_map", "distances", "distillation_loss", "reference"]
