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
    ("strided", [X.transpose(2, 3)], [X.transpose(2, 3)], ValueError, "call teacher[0].contiguous"),
    ("every other", [X], [torch.randn(2, 3, 4, 10)[..., ::2]], ValueError, "student[0] of shape"),
    ("expanded", [X[:, :, :1].expand(2, 3, 4, 5)], [X], ValueError, "teacher[0] of shape"),
    ("meta", [X.to("meta")], [X.to("meta")], ValueError, "must be on a CPU or CUDA device"),
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
        (lambda: ops.anomaly_map([X], [X], (4.5, 4)), "size must be (height, width)"),
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


def test_forward_mode_is_refused_rather_than_zero():
    calls = {
        "distances": lambda x: ops.distances([X], [x])[0],
        "anomaly_map": lambda x: ops.anomaly_map([X], [x], (8, 8)),
        "distillation_loss": lambda x: ops.distillation_loss([X], [x]),
    }
    for call in calls.values():
        with pytest.raises(NotImplementedError, match="no forward-mode derivative"):
            torch.func.jvp(call, (X,), (X,))
    with pytest.raises(NotImplementedError, match="no forward-mode derivative"):
        torch.func.jvp(lambda x: ops.aggregate_maps([x], (8, 8)), (MAP,), (MAP,))
    # A tangent of the teacher alone is no mistake: it never gets a derivative.
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(X, X)
        assert ops.distances([dual], [X])[0].shape == (2, 4, 5)
