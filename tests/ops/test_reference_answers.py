"""What no kernel serves is answered as the reference answers it: values and gradients."""

import logging

import pytest
import torch
from pyramids import pyramid
from torch.autograd import gradcheck, gradgradcheck

from fastad import ops
from fastad.ops import _arguments, reference

SHAPES = [(5, 4, 3), (3, 2, 2)]


MASK = torch.rand(9, 7)
MASK[:2] = 0


def mask(features):
    return MASK.to(features[0].device)


FEATURE_OPS = {
    "distances": lambda o, t, s: torch.cat([d.flatten() for d in o.distances(t, s)]),
    "anomaly_map": lambda o, t, s: o.anomaly_map(t, s, (7, 6), weights=[1.0, 2.0]),
    "sum": lambda o, t, s: o.anomaly_map(t, s, (7, 6), aggregate="sum", weights=[0.5, 2.0]),
    "weighted": lambda o, t, s: torch.cat(
        [d.flatten() for d in o.distances(t, s, weights=mask(t))]
    ),
    "weighted map": lambda o, t, s: o.anomaly_map(t, s, (7, 6), weights=mask(t)),
    "weighted mean": lambda o, t, s: o.distillation_loss(t, s, weights=mask(t)),
    "mean": lambda o, t, s: o.distillation_loss(t, s, level_weights=[1.0, 0.3]),
    "none": lambda o, t, s: o.distillation_loss(t, s, reduction="none"),
}
each_op = pytest.mark.parametrize("call", FEATURE_OPS.values(), ids=FEATURE_OPS)


def doubles(requires_grad: bool = False):
    return pyramid(SHAPES, dtype=torch.float64, requires_grad=requires_grad)


def positive_maps():
    shapes = [(2, 3, 4), (2, 2, 2)]
    return [(torch.rand(s, dtype=torch.float64) + 0.2).requires_grad_() for s in shapes]


@each_op
@pytest.mark.parametrize("of_teacher", [False, True])
def test_gradients_of_gradients(call, of_teacher):
    teacher, student = doubles(of_teacher), doubles(True)

    def function(*x):
        return call(ops, [*x[2:], *teacher][:2], list(x[:2]))

    inputs = [*student, *teacher] if of_teacher else student
    # A second backward sums weights in another order.
    assert gradcheck(function, inputs, nondet_tol=1e-12)
    assert gradgradcheck(function, inputs, nondet_tol=1e-12)


@pytest.mark.parametrize("aggregate", ["product", "sum"])
def test_gradients_of_gradients_of_maps(aggregate):
    def function(*maps):
        return ops.aggregate_maps(list(maps), (7, 6), aggregate=aggregate, weights=[2.0, 1.0])

    assert gradgradcheck(function, positive_maps())


def test_a_gradient_penalty_beside_a_loss():
    """`create_graph` reaches an op through which nobody differentiates twice."""
    teacher, student = pyramid(SHAPES), pyramid(SHAPES, requires_grad=True)
    loss = ops.distillation_loss(teacher, student) + student[0].pow(3).sum()
    expected = reference.distillation_loss(teacher, student) + student[0].pow(3).sum()
    found = torch.autograd.grad(loss, student, create_graph=True)
    expected = torch.autograd.grad(expected, student, create_graph=True)
    torch.testing.assert_close(found, expected)
    penalties = [sum(g.square().sum() for g in gradients) for gradients in (found, expected)]
    found, expected = (torch.autograd.grad(p, student) for p in penalties)
    torch.testing.assert_close(found, expected)


@each_op
def test_a_student_computed_from_its_teacher(call):
    """Each gets its own part of the gradient, also with `create_graph`."""
    (leaf,) = pyramid([SHAPES[0]], dtype=torch.float64, requires_grad=True)

    def gradient(o, create_graph):
        first = leaf.sin()
        second = (first * 2 + 1).cos()
        result = call(o, [first, first], [second, second.exp()]).sum()
        return torch.autograd.grad(result, leaf, create_graph=create_graph)[0]

    expected = gradient(reference, False)
    torch.testing.assert_close(gradient(ops, False), expected)
    torch.testing.assert_close(gradient(ops, True), expected)


@each_op
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("of_student", [False, True])
def test_a_teacher_that_requires_a_gradient_gets_one(call, dtype, of_student):
    teacher = pyramid(SHAPES, dtype=dtype, requires_grad=True)
    student = pyramid(SHAPES, dtype=dtype, layout="channels_last", requires_grad=of_student)
    inputs = [*teacher, *student] if of_student else teacher
    found = torch.autograd.grad(call(ops, teacher, student).sum(), inputs)
    expected = torch.autograd.grad(call(reference, teacher, student).sum(), inputs)
    coarse = {torch.float64: 1e-10, torch.float32: 1e-4, torch.float16: 2e-3}[dtype]
    torch.testing.assert_close(found, expected, rtol=coarse, atol=coarse)


@each_op
def test_functional_transforms(call):
    teacher, student = pyramid(SHAPES), pyramid(SHAPES)

    x, y = torch.randn(2, 2, *SHAPES[0])

    def transformed(function):
        gradient = torch.func.grad(lambda x: function(x).sum())
        both = torch.stack([x, y])
        return (
            gradient(x),
            torch.func.jvp(function, (x,), (y,)),
            torch.func.vmap(function)(both),
            torch.func.vmap(gradient)(both),
        )

    found, expected = (
        [
            transformed(lambda x, o=o: call(o, teacher, [x, student[1]])),
            transformed(lambda x, o=o: call(o, [x, teacher[1]], student)),
        ]
        for o in (ops, reference)
    )
    torch.testing.assert_close(found, expected)


def test_functional_transforms_of_maps():
    maps = torch.rand(3, 2, 4, 5)
    function = torch.func.vmap(lambda m: ops.aggregate_maps([m], (8, 8), return_maximum=True))
    found, maximum = function(maps)
    torch.testing.assert_close(found[1], ops.aggregate_maps([maps[1]], (8, 8)))
    assert torch.equal(maximum, found.amax(dim=(2, 3)))
    tangent = torch.func.jvp(lambda m: ops.aggregate_maps([m], (8, 8)), (maps[0],), (maps[1],))[1]
    torch.testing.assert_close(tangent, ops.aggregate_maps([maps[1]], (8, 8)))


STRIDED = {
    "transposed": lambda: torch.randn(2, 3, 5, 4, dtype=torch.float64).transpose(2, 3),
    "every other": lambda: torch.randn(2, 3, 4, 10, dtype=torch.float64)[..., ::2],
    "expanded": lambda: torch.randn(2, 3, 1, 5, dtype=torch.float64).expand(2, 3, 4, 5),
    "a window": lambda: torch.randn(60, dtype=torch.float64).as_strided((2, 3, 4, 5), (1, 2, 5, 1)),
    "sliding": lambda: torch.randn(60, dtype=torch.float64).as_strided((2, 3, 4, 5), (20, 1, 5, 1)),
    "one vector": lambda: torch.randn(2, 3, 1, 1, dtype=torch.float64).expand(2, 3, 4, 5),
    "every other channel": lambda: torch.randn(2, 6, 1, 1, dtype=torch.float64)[:, ::2],
}


@each_op
@pytest.mark.parametrize("make", STRIDED.values(), ids=STRIDED)
def test_any_strides_forward_and_backward(call, make):
    odd, plain = make(), torch.randn(make().shape, dtype=torch.float64)
    for teacher, student in ([odd, plain], [plain, odd], [odd, odd.clone()]):
        teacher, student = ([x, x] for x in (teacher.detach(), student.detach()))
        inputs = [x.requires_grad_() for x in (teacher[0], student[0])]
        found, expected = call(ops, teacher, student), call(reference, teacher, student)
        torch.testing.assert_close(found, expected)
        found, expected = (torch.autograd.grad(x.sum(), inputs) for x in (found, expected))
        torch.testing.assert_close(found, expected)


@each_op
def test_meta_tensors(call):
    teacher, student = ([x.to("meta") for x in pyramid(SHAPES)] for _ in range(2))
    student = [s.requires_grad_() for s in student]
    found, expected = call(ops, teacher, student), call(reference, teacher, student)
    assert found.is_meta
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    gradients = torch.autograd.grad(found.sum(), student)
    assert [g.shape for g in gradients] == [s.shape for s in student]


def test_it_is_said_once(caplog):
    _arguments.say_reference.cache_clear()
    x = torch.randn(2, 3, 5, 4).transpose(2, 3)
    with caplog.at_level(logging.DEBUG, logger="fastad"):
        for _ in range(3):
            ops.distances([x], [x])
    assert [r.levelno for r in caplog.records] == [logging.DEBUG]
    assert "neither contiguous nor channels_last" in caplog.text


def test_saved_tensor_hooks_see_the_gradients_that_come_with_the_loss():
    teacher, student = pyramid(SHAPES), pyramid(SHAPES, requires_grad=True)
    expected = torch.autograd.grad(ops.distillation_loss(teacher, student), student)
    packed = []

    def pack(x):
        packed.append(x.clone())
        return packed[-1]

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        loss = ops.distillation_loss(teacher, student)
    assert len(packed) == 6  # teacher, student and gradient of both levels
    torch.testing.assert_close(torch.autograd.grad(loss, student), expected)


def test_a_second_backward_is_as_the_first():
    teacher, student = pyramid(SHAPES), pyramid(SHAPES, requires_grad=True)
    loss = 3 * ops.distillation_loss(teacher, student)
    first = [g.clone() for g in torch.autograd.grad(loss, student, retain_graph=True)]
    torch.testing.assert_close(list(torch.autograd.grad(loss, student)), first)
