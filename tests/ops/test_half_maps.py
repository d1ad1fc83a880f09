"""Maps in half precision: computed as ever, rounded as they are written."""

import re

import pytest
import torch
from pyramids import SHAPES, STORED, deviation, doubled, pyramid

from fastad import ops
from fastad.engine.tracing import traced
from fastad.ops import reference

HALVES = [torch.float16, torch.bfloat16]
SIZES = [(64, 64), (1, 1), (5, 129), (3, 2)]
LEVELS = ((8, 8), (5, 3), (1, 16))


@pytest.mark.parametrize("computed", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("aggregate", ["product", "sum", "stack"])
@pytest.mark.parametrize("size", SIZES)
def test_maps(size, aggregate, dtype, computed):
    maps = [(torch.rand(3, *s, dtype=computed) + 0.1).requires_grad_() for s in LEVELS]
    found = ops.aggregate_maps(maps, size, aggregate=aggregate, dtype=dtype)
    exact = ops.aggregate_maps(maps, size, aggregate=aggregate)
    assert found.dtype == dtype
    assert torch.equal(found, exact.to(dtype))
    upstream = torch.randn_like(found)
    grads = torch.autograd.grad(found, maps, upstream)
    # The same numbers in the type of the maps: nothing else is rounded.
    expected = torch.autograd.grad(exact, maps, upstream.to(computed))
    assert all(torch.equal(g, e) for g, e in zip(grads, expected, strict=True))
    assert all(g.dtype == computed for g in grads)


@pytest.mark.parametrize("weights", [None, [1.0, 0.5, 2.0]])
@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_the_maximum_is_not_rounded(dtype, weights):
    maps = [torch.rand(3, *s) + 0.1 for s in LEVELS]
    arguments = {"weights": weights, "return_maximum": True}
    found, maximum = ops.aggregate_maps(maps, (64, 50), dtype=dtype, **arguments)
    exact, expected = ops.aggregate_maps(maps, (64, 50), **arguments)
    assert torch.equal(maximum, expected)
    assert torch.equal(found, exact.to(dtype))


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_what_half_precision_cannot_hold(dtype):
    values = [1e-9, 3e-8, 7e-8, 6e-5, 1.0, 65519.0, 65520.0, 1e30, 3.4e38, torch.inf, torch.nan]
    level = torch.tensor([-v for v in values] + values).view(1, -1, 1)
    found, exact = (
        ops.aggregate_maps([level], (22, 9), aggregate="sum", dtype=d) for d in (dtype, None)
    )
    torch.testing.assert_close(found, exact.to(dtype), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("features", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_anomaly_map(dtype, features):
    shapes = SHAPES["odd"]
    teacher, student = (pyramid(shapes, dtype=features, requires_grad=True) for _ in range(2))
    exact_teacher, exact_student = doubled(teacher), doubled(student)
    options = {"aggregate": "sum", "weights": torch.rand(9, 9), "align_corners": True}
    found, maximum = ops.anomaly_map(
        teacher, student, (21, 30), dtype=dtype, return_maximum=True, **options
    )
    plain = ops.anomaly_map(teacher, student, (21, 30), **options)
    assert torch.equal(found, plain.to(dtype))
    assert torch.equal(maximum, plain.amax(dim=(1, 2)))
    expected = reference.anomaly_map(exact_teacher, exact_student, (21, 30), dtype=dtype, **options)
    assert expected.dtype == dtype
    assert deviation(found, expected.double()) < STORED[dtype]
    upstream = torch.randn_like(found)
    inputs, exact_inputs = [*teacher, *student], [*exact_teacher, *exact_student]
    exact = torch.autograd.grad(expected, exact_inputs, upstream)
    for create_graph in (False, True):
        grads = torch.autograd.grad(
            found, inputs, upstream, retain_graph=True, create_graph=create_graph
        )
        assert max(map(deviation, grads, exact)) < 2 * STORED[features] + 1e-5


def test_what_no_kernel_serves():
    teacher = [x.transpose(2, 3) for x in pyramid([(5, 4, 3)])]
    student = [x.transpose(2, 3) for x in pyramid([(5, 4, 3)])]
    options = {"dtype": torch.bfloat16, "return_maximum": True}
    found, maximum = ops.anomaly_map(teacher, student, (6, 7), **options)
    expected, of_expected = ops.anomaly_map(
        *([y.contiguous() for y in x] for x in (teacher, student)), (6, 7), **options
    )
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(maximum, of_expected)
    assert maximum.dtype == torch.float32


def test_compile_and_export():
    class Step(torch.nn.Module):
        def forward(self, teacher, student):
            found = ops.anomaly_map(teacher, student, (8, 9), dtype=torch.bfloat16)
            maps = ops.distances(teacher, student)
            stack = ops.aggregate_maps(maps, (8, 9), aggregate="stack", dtype=torch.float16)
            return found, stack, ops.aggregate_maps(maps, (8, 9), dtype=torch.bfloat16)

    step, shapes = Step(), [(5, 4, 3), (3, 2, 2)]
    compiled = torch.compile(step, backend="aot_eager", fullgraph=True, dynamic=True)
    batch = torch.export.Dim("batch")
    free = tuple([{0: batch}, {0: batch}] for _ in range(2))
    program = torch.export.export(step, (pyramid(shapes), pyramid(shapes)), dynamic_shapes=free)
    for count in (2, 5):
        teacher, student = pyramid(shapes, count), pyramid(shapes, count, requires_grad=True)
        expected, found = step(teacher, student), compiled(teacher, student)
        for results in (found, program.module()(teacher, student)):
            assert all(torch.equal(a, b) for a, b in zip(results, expected, strict=True))
        grads, exact = (
            torch.autograd.grad(sum(x.float().sum() for x in y), student) for y in (found, expected)
        )
        torch.testing.assert_close(grads, exact)


def test_a_graph_of_plain_ops():
    """As other runtimes read it."""

    class Maps(torch.nn.Module):
        def forward(self, x):
            arguments = {"dtype": torch.float16, "return_maximum": True}
            found, maximum = ops.anomaly_map([x], [x.sin()], (8, 9), **arguments)
            maps = ops.distances([x], [x.cos()])
            stack = ops.aggregate_maps(maps, (8, 9), aggregate="stack", dtype=torch.bfloat16)
            return found, maximum, stack, *ops.aggregate_maps(maps, (8, 9), **arguments)

    example = torch.rand(2, 5, 4, 3)
    program = traced(Maps(), example)
    assert not any("fastad" in str(node.target) for node in program.graph.nodes)
    for found, expected in zip(program.module()(example), Maps()(example), strict=True):
        torch.testing.assert_close(found, expected)


X, MAP = torch.randn(2, 3, 4, 5), torch.rand(2, 4, 5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.int8, "float16"])
def test_other_dtypes_are_refused(dtype):
    match = re.escape(f"dtype must be None, torch.float16 or torch.bfloat16, not {dtype!r}")
    for call in (
        lambda: ops.anomaly_map([X], [X], (8, 8), dtype=dtype),
        lambda: ops.aggregate_maps([MAP], (8, 8), dtype=dtype),
        lambda: ops.aggregate_maps([MAP], (8, 8), aggregate="stack", dtype=dtype),
    ):
        with pytest.raises(ValueError, match=match):
            call()


def test_a_score_is_not_made_of_rounded_pixels():
    with pytest.raises(ValueError, match="score is made of the map, which dtype rounds"):
        ops.anomaly_map([X], [X], (8, 8), dtype=torch.float16, score="maximum")


def test_raw_calls_refuse_other_dtypes():
    raw = torch.ops.fastad
    for call in (
        lambda: raw.aggregate_maps([MAP], 8, 8, True, [1.0], False, torch.float32),
        lambda: raw.stack_maps([MAP], 8, 8, False, torch.float64),
        lambda: raw.anomaly_map(
            *([X], [X], 8, 8, True, [1.0], 1e-12), None, 0, None, False, torch.float32
        ),
    ):
        with pytest.raises(RuntimeError, match="dtype must be None, float16 or bfloat16, not"):
            call()
    with pytest.raises(
        RuntimeError, match=r"grad must be \(2, H, W\) float32, float16 or bfloat16"
    ):
        raw.aggregate_maps_backward(torch.rand(2, 8, 8).double(), [MAP], True, [1.0])
