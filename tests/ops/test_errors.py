"""Bad arguments raise one clear error that names the argument and its shape."""

import re

import pytest
import torch

from fastad import ops

X = torch.randn(2, 3, 4, 5)
MAP = torch.rand(2, 4, 5)
NAN, INF = float("nan"), float("inf")

FEATURES = [
    ("not a list", X, [X], TypeError, "teacher must be a list of tensors"),
    ("no level", [], [], ValueError, "teacher must have 1 to 8 levels, not 0"),
    ("nine levels", [X] * 9, [X] * 9, ValueError, "teacher must have 1 to 8 levels, not 9"),
    ("numbers", [1.0], [X], TypeError, "teacher[0] must be a tensor"),
    ("integers", [X.int()], [X], TypeError, "teacher[0] must be float32"),
    ("student integers", [X], [X.long()], TypeError, "student[0] must be float32"),
    ("three axes", [X[0]], [X[0]], ValueError, "teacher[0] must be (N, C, H, W)"),
    ("no channel", [X[:, :0]], [X[:, :0]], ValueError, "teacher[0] must be (N, C, H, W)"),
    ("levels differ", [X, X], [X], ValueError, "teacher has 2 levels, student 1"),
    ("shapes differ", [X], [X[:, :2]], ValueError, "teacher[0] is (2, 3, 4, 5) float32"),
    ("batches differ", [X, X[:1]], [X, X[:1]], ValueError, "teacher[1] has a batch of 1"),
    ("devices differ", [X, X.to("meta")], [X, X], ValueError, "teacher[1] is on meta"),
]


@pytest.mark.parametrize(
    ("teacher", "student", "error", "match"),
    [f[1:] for f in FEATURES],
    ids=[f[0] for f in FEATURES],
)
@pytest.mark.parametrize("function", ["distances", "anomaly_map", "distillation_loss"])
def test_features(function, teacher, student, error, match):
    arguments = ((8, 8),) if function == "anomaly_map" else ()
    with pytest.raises(error, match=re.escape(match)):
        getattr(ops, function)(teacher, student, *arguments)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: ops.anomaly_map([X], [X], 8), "size must be (height, width)"),
        (lambda: ops.anomaly_map([X], [X], (8, 0)), "size must be (height, width)"),
        (lambda: ops.anomaly_map([X], [X], (8, 8, 8)), "size must be (height, width)"),
        (lambda: ops.anomaly_map([X], [X], (4.5, 4)), "integers that are at least 1"),
        (lambda: ops.anomaly_map([X], [X], ("a", 4)), "size must be (height, width)"),
        (lambda: ops.anomaly_map([X], [X], (True, 4)), "size must be (height, width)"),
        (lambda: ops.anomaly_map([X], [X], "88"), "size must be (height, width)"),
        (lambda: ops.anomaly_map([X], [X], (8, 8), weights=[NAN]), "weights must be finite"),
        (lambda: ops.aggregate_maps([MAP], (8, 8), weights=[INF]), "weights must be finite"),
        (lambda: ops.distillation_loss([X], [X], level_weights=[NAN]), "level_weights must be"),
        (lambda: ops.distances([X], [X], eps=INF), "eps must be positive"),
        (lambda: ops.anomaly_map([X], [X], (8, 8), aggregate="max"), "aggregate must be"),
        (lambda: ops.anomaly_map([X], [X], (8, 8), weights=[1, 2]), "weights must have 1 values"),
        (lambda: ops.anomaly_map([X], [X], (8, 8), eps=0.0), "eps must be positive"),
        (lambda: ops.distances([X], [X], eps=float("nan")), "eps must be positive"),
        (lambda: ops.distillation_loss([X], [X], reduction="max"), "reduction must be one of"),
        (lambda: ops.distillation_loss([X], [X], level_weights=[]), "level_weights must have 1"),
        (lambda: ops.aggregate_maps([X], (8, 8)), "maps[0] must be (N, H, W)"),
        (lambda: ops.aggregate_maps([MAP, MAP[:1]], (8, 8)), "maps[1] has a batch of 1"),
        (lambda: ops.aggregate_maps([MAP[:, :0]], (8, 8)), "maps[0] must be (N, H, W)"),
    ],
)
def test_options(call, match):
    with pytest.raises(ValueError, match=re.escape(match)):
        call()
