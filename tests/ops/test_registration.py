"""gradcheck, opcheck, torch.compile and torch.export of every op."""

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
    return {
        "distances": (teacher, student, 1e-12),
        "distances_backward": ([torch.rand(2, 4, 3), torch.rand(2, 2, 2)], teacher, plain, 1e-12),
        "aggregate_maps": (maps, 9, 8, True, weights),
        "aggregate_maps_backward": (torch.rand(2, 9, 8), detached, True, weights),
        "anomaly_map": (teacher, student, 9, 8, True, weights, 1e-12),
        "distillation_loss": (teacher, student, weights, 0, 1e-12, True),
        "scale_gradients_": ([x.clone() for x in plain], torch.tensor(2.0)),
    }


@pytest.mark.parametrize("name", opcheck_cases())
def test_opcheck(name):
    torch.library.opcheck(getattr(OPS, name).default, opcheck_cases()[name])


@pytest.mark.slow
@pytest.mark.parametrize("dynamic", [False, True])
def test_compile(dynamic):
    def step(teacher, student):
        loss = ops.distillation_loss([2 * t for t in teacher], [s.sin() for s in student])
        return loss + ops.anomaly_map(teacher, student, (9, 8)).mean()

    compiled = torch.compile(step, fullgraph=True, dynamic=dynamic)
    for batch in (2, 5):
        teacher, student = pyramid(SHAPES, batch), pyramid(SHAPES, batch, requires_grad=True)
        expected, found = step(teacher, student), compiled(teacher, student)
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(
            torch.autograd.grad(found, student), torch.autograd.grad(expected, student)
        )


class PyramidMap(torch.nn.Module):
    def forward(self, teacher: list[torch.Tensor], student: list[torch.Tensor]):
        maps = ops.distances(teacher, student)
        return ops.anomaly_map(teacher, student, (9, 8)), ops.aggregate_maps(maps, (5, 5))


def test_export_and_decomposition():
    example = (pyramid(SHAPES), pyramid(SHAPES))
    batch = torch.export.Dim("batch")
    shapes = tuple([{0: batch}, {0: batch}] for _ in range(2))
    program = torch.export.export(PyramidMap(), example, dynamic_shapes=shapes)
    names = {node.target for node in program.graph.nodes if node.op == "call_function"}
    assert OPS.anomaly_map.default in names
    teacher, student = pyramid(SHAPES, 5), pyramid(SHAPES, 5)
    expected = PyramidMap()(teacher, student)
    torch.testing.assert_close(program.module()(teacher, student), expected)
