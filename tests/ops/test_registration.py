"""gradcheck, opcheck, torch.compile and torch.export of every op."""

import math

import pytest
import torch
from pyramids import pyramid
from torch.autograd import gradcheck

from fastad import ops

SHAPES = [(5, 4, 3), (3, 2, 2)]
OPS = torch.ops.fastad


def double_pair():
    teacher = pyramid(SHAPES, dtype=torch.float64)
    return teacher, pyramid(SHAPES, dtype=torch.float64, requires_grad=True)


def test_gradcheck_distances():
    teacher, student = double_pair()
    assert gradcheck(lambda *s: tuple(ops.distances(teacher, list(s))), student)


@pytest.mark.parametrize("aggregate", ["product", "sum"])
@pytest.mark.parametrize("weights", [None, [2.0, 0.5]])
def test_gradcheck_anomaly_map(aggregate, weights):
    teacher, student = double_pair()

    def function(*s):
        return ops.anomaly_map(teacher, list(s), (7, 6), aggregate=aggregate, weights=weights)

    assert gradcheck(function, student)


@pytest.mark.parametrize("of_teacher", [False, True])
@pytest.mark.parametrize("reduction", ["map", "mean", "sum", "none"])
def test_gradcheck_with_spatial_weights(reduction, of_teacher):
    teacher, student = double_pair()
    weights = torch.rand(2, 9, 7, dtype=torch.float64)
    weights[0, :5] = 0

    def function(*x):
        a, b = (list(x), teacher) if of_teacher else (teacher, list(x))
        if reduction == "map":
            return ops.anomaly_map(a, b, (7, 6), weights=weights), *ops.distances(
                a, b, weights=weights
            )
        return ops.distillation_loss(a, b, weights=weights, reduction=reduction)

    # A second backward sums weights in another order.
    assert gradcheck(function, student, nondet_tol=1e-12)


@pytest.mark.parametrize("aggregate", ["product", "sum"])
@pytest.mark.parametrize("weights", [None, [2.0, 0.5]])
def test_gradcheck_aggregate_maps(aggregate, weights):
    maps = [
        (torch.rand(2, *s, dtype=torch.float64) + 0.2).requires_grad_() for s in ((3, 4), (2, 2))
    ]

    def function(*m):
        return ops.aggregate_maps(list(m), (7, 6), aggregate=aggregate, weights=weights)

    assert gradcheck(function, maps)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_gradcheck_distillation_loss(reduction):
    teacher, student = double_pair()

    def function(*s):
        return ops.distillation_loss(
            teacher, list(s), level_weights=[1.0, 0.3], reduction=reduction
        )

    assert gradcheck(function, student)


def opcheck_cases():
    teacher, student = pyramid(SHAPES), pyramid(SHAPES, layout="channels_last", requires_grad=True)
    maps = [torch.rand(2, 4, 3, requires_grad=True), torch.rand(2, 2, 2, requires_grad=True)]
    plain = [s.detach() for s in student]
    detached = [m.detach() for m in maps]
    weights = [1.0, 2.0]
    grads = [torch.rand(2, 4, 3), torch.rand(2, 2, 2)]
    spatial = [torch.rand(2, 4, 3), torch.rand(2, 2).expand(2, 2, 2)]
    channels = [torch.rand(2, 5) + 0.5, torch.rand(2, 3) + 0.5]
    both = pyramid(SHAPES, layout="channels_last", requires_grad=True)
    return {
        "distances": (teacher, student, 1e-12),
        "distances_backward": (grads, teacher, plain, 1e-12),
        "aggregate_maps": (maps, 9, 8, True, weights),
        "aggregate_maps_backward": (torch.rand(2, 9, 8), detached, True, weights),
        "anomaly_map": (teacher, student, 9, 8, True, weights, 1e-12),
        "distillation_loss": (teacher, student, weights, 0, 1e-12, True),
        "distances weights": (teacher, student, 1e-12, spatial),
        "distances_backward weights": (grads, teacher, plain, 1e-12, spatial),
        "anomaly_map weights": (teacher, student, 9, 8, True, weights, 1e-12, spatial),
        "distillation_loss weights": (teacher, student, weights, 0, 1e-12, True, spatial),
        "distances l2": (teacher, student, 1e-12, None, 1, channels),
        "distances_backward l2": (grads, teacher, plain, 1e-12, None, 1, channels),
        "anomaly_map l2": (teacher, student, 9, 8, True, weights, 1e-12, None, 1, channels),
        "distillation_loss l2": (teacher, student, weights, 0, 1e-12, True, spatial, 1, channels),
        "distillation_loss both": (student, both, weights, 0, 1e-12, True, None, 0, None, True),
        "distillation_loss flat": (teacher, student, weights, 0, 1e-12, True, spatial, 2, channels),
        "distillation_loss flat both": (
            student,
            both,
            weights,
            2,
            1e-12,
            True,
            None,
            2,
            None,
            True,
        ),
        "hard_loss": (maps, weights, 0.7, 0),
        "hard_loss weights": (maps, weights, 0.7, 2, spatial),
        "top_share": (maps[0], 3),
        "flat_distances": (teacher, student, 1e-12),
        "flat_distances options": (teacher, student, 1e-12, spatial, channels),
        "flat_distances_backward": (
            *(torch.rand(2, 2), torch.rand(2, 2), torch.rand(2, 2, 2) + 1),
            *(teacher, plain, 1e-12, spatial, channels),
        ),
        "aggregate_maps corners": (maps, 9, 8, True, weights, True),
        "aggregate_maps_backward corners": (torch.rand(2, 9, 8), detached, True, weights, True),
        "aggregate_maps smoothing": (maps, 9, 8, True, weights, False, None, 2.0),
        "aggregate_maps_backward smoothing": (
            torch.rand(2, 9, 8),
            detached,
            True,
            weights,
            False,
            2.0,
        ),
        "anomaly_map corners": (teacher, student, 9, 8, True, weights, 1e-12, None, 0, None, True),
        "stack_maps": (maps, 9, 8, True),
        "stack_maps_backward": (torch.rand(2, 2, 9, 8), detached),
        "aggregate_maps half": (maps, 9, 8, True, weights, False, torch.float16),
        "aggregate_maps_backward half": (
            *(torch.rand(2, 9, 8).bfloat16(), detached, True, weights),
        ),
        "stack_maps half": (maps, 9, 8, False, torch.bfloat16),
        "anomaly_map half": (
            *(teacher, student, 9, 8, True, weights, 1e-12, None, 0, None, False, torch.float16),
        ),
        "resize_weights": (torch.rand(2, 9, 8), [4, 2], [3, 2]),
        "scale_gradients_": ([x.clone() for x in plain], torch.tensor(2.0)),
    }


@pytest.mark.parametrize("name", opcheck_cases())
def test_opcheck(name):
    torch.library.opcheck(getattr(OPS, name.split()[0]).default, opcheck_cases()[name])


@pytest.mark.slow
@pytest.mark.parametrize("dynamic", [False, True])
def test_compile(dynamic):
    def step(teacher, student):
        loss = ops.distillation_loss([2 * t for t in teacher], [s.sin() for s in student])
        weighted = ops.distillation_loss(teacher, student, weights=mask)
        weighted = weighted + ops.distances(teacher, student, weights=[m[0] for m in maps])[0].sum()
        weighted = weighted + ops.anomaly_map(teacher, student, (9, 8), weights=mask).mean()
        return loss + ops.anomaly_map(teacher, student, (9, 8)).mean() + weighted

    mask = torch.rand(13, 11) < 0.7
    maps = [torch.rand(1, *shape[1:]) for shape in SHAPES]
    compiled = torch.compile(step, fullgraph=True, dynamic=dynamic)
    for batch in (2, 5):
        teacher, student = pyramid(SHAPES, batch), pyramid(SHAPES, batch, requires_grad=True)
        expected, found = step(teacher, student), compiled(teacher, student)
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(
            torch.autograd.grad(found, student), torch.autograd.grad(expected, student)
        )


class PyramidMap(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mask = torch.nn.Buffer(torch.rand(11, 13) < 0.5)

    def forward(self, teacher: list[torch.Tensor], student: list[torch.Tensor]):
        maps = ops.distances(teacher, student)
        weighted = ops.anomaly_map(teacher, student, (9, 8), weights=self.mask)
        return ops.anomaly_map(teacher, student, (9, 8)), ops.aggregate_maps(maps, (5, 5)), weighted


def test_export_and_decomposition():
    example = (pyramid(SHAPES), pyramid(SHAPES))
    batch = torch.export.Dim("batch")
    shapes = tuple([{0: batch}, {0: batch}] for _ in range(2))
    module = PyramidMap()
    program = torch.export.export(module, example, dynamic_shapes=shapes)
    names = {node.target for node in program.graph.nodes if node.op == "call_function"}
    assert OPS.anomaly_map.default in names
    teacher, student = pyramid(SHAPES, 5), pyramid(SHAPES, 5)
    expected = module(teacher, student)
    torch.testing.assert_close(program.module()(teacher, student), expected)


@pytest.mark.parametrize(
    "name",
    [
        "distances",
        "distances_backward",
        "aggregate_maps",
        "aggregate_maps_backward",
        "anomaly_map",
        "distillation_loss",
    ],
)
def test_calls_as_before_later_arguments(name):
    """Programs that were exported before call the schemas without them."""
    arguments = getattr(OPS, name).default._schema.arguments
    added = {"spatial_weights": None, "distance": 0, "channels": None}
    if name.startswith("aggregate_maps"):
        added = {"align_corners": False, "dtype": None, "smoothing": 0.0}
        if name.endswith("backward"):
            del added["dtype"]
    if name == "anomaly_map":
        added |= {"align_corners": False, "dtype": None}
    if name == "distillation_loss":
        added["teacher_gradient"] = False
    assert {a.name: a.default_value for a in arguments if a.has_default_value()} == added
    assert [a.name for a in arguments[-len(added) :]] == list(added)


def test_raw_calls_do_not_overlook_weights_that_require_a_gradient():
    teacher, student = double_pair()
    weights = [torch.rand(2, *s[1:], dtype=torch.float64, requires_grad=True) for s in SHAPES]
    for call in (
        lambda: OPS.distances(teacher, student, 1e-12, weights),
        lambda: OPS.anomaly_map(teacher, student, 8, 8, True, [1.0, 1.0], 1e-12, weights),
        lambda: OPS.distillation_loss(teacher, student, [1.0, 1.0], 0, 1e-12, True, weights),
    ):
        with pytest.raises(ValueError, match="requires a gradient, and weights get none"):
            call()


@pytest.mark.parametrize("wrong", [-1.0, math.nan, math.inf])
def test_compiled_calls_check_the_values_of_weights(wrong):
    teacher, student = pyramid(SHAPES), pyramid(SHAPES)
    function = torch.compile(ops.distances, backend="eager", fullgraph=True)
    weights = torch.ones(9, 9)
    function(teacher, student, weights=weights)
    weights[4, 4] = wrong
    with pytest.raises(RuntimeError, match=r"spatial_weights.* must be finite and at least 0"):
        function(teacher, student, weights=weights)
