"""Other distances than that of directions, and a standardised teacher."""

import re

import pytest
import torch
from pyramids import COMPUTED, DTYPES, LAYOUTS, SHAPES, STORED, deviation, doubled, pyramid
from torch.autograd import gradcheck
from torch.nn import functional as F

from fastad import ops
from fastad.ops import reference

CASES = {
    "cosine standardised": ("cosine", True, True),
    "cosine, mean alone": ("cosine", True, False),
    "cosine, deviation alone": ("cosine", False, True),
    "l2": ("l2", False, False),
    "l2_standardized": ("l2_standardized", True, True),
}
SIZE = (21, 30)


def options_of(case, channels, dtype=torch.float32):
    distance, mean, deviation_ = CASES[case]
    options = {"distance": distance}
    if mean:
        options["mean"] = [torch.randn(c, dtype=dtype) for c in channels]
    if deviation_:
        options["deviation"] = [torch.rand(c, dtype=dtype) + 0.3 for c in channels]
    return options


def exact_options(options):
    return {k: x if k == "distance" else [y.double() for y in x] for k, x in options.items()}


def by_definition(teacher, student, distance, mean=None, deviation=None):
    """Of float64, pixel by pixel, with no function of the reference."""
    maps = []
    for i, (t, s) in enumerate(zip(teacher, student, strict=True)):
        if mean is not None:
            t = t - mean[i].view(1, -1, 1, 1)
        if deviation is not None:
            t = t / deviation[i].view(1, -1, 1, 1)
        if distance == "cosine":
            maps.append(1 - F.cosine_similarity(t, s, dim=1))
        else:
            maps.append(((t - s) ** 2).sum(dim=1) / t.shape[1])
    return maps


CALLS = {
    "distances": lambda m, t, s, o: m.distances(t, s, **o),
    "anomaly_map": lambda m, t, s, o: [m.anomaly_map(t, s, SIZE, aggregate="sum", **o)],
    "distillation_loss": lambda m, t, s, o: [m.distillation_loss(t, s, **o)],
    "hard": lambda m, t, s, o: [m.distillation_loss(t, s, hard=0.0, **o)],
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES)
def test_values_are_those_of_the_definition(shapes, case):
    teacher, student = (pyramid(shapes, dtype=torch.float64) for _ in range(2))
    options = options_of(case, [c for c, _, _ in shapes], torch.float64)
    expected = by_definition(teacher, student, **options)
    for module in (ops, reference):
        found = module.distances(teacher, student, **options)
        assert max(map(deviation, found, expected)) < 1e-13
        loss = module.distillation_loss(teacher, student, **options)
        assert deviation(loss, sum(m.mean() for m in expected)) < 1e-13


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_values_and_gradients_of_both(dtype, case, call):
    for shapes in (SHAPES["odd"], SHAPES["pyramid"]):
        for layouts in [(a, b) for a in LAYOUTS for b in LAYOUTS]:
            teacher = pyramid(shapes, dtype=dtype, layout=layouts[0], requires_grad=True)
            student = pyramid(shapes, dtype=dtype, layout=layouts[1], requires_grad=True)
            options = options_of(case, [c for c, _, _ in shapes])
            exact_teacher, exact_student = doubled(teacher), doubled(student)
            found = call(ops, teacher, student, options)
            expected = call(reference, exact_teacher, exact_student, exact_options(options))
            computed = COMPUTED.get(dtype, 5e-6)
            assert max(map(deviation, found, expected)) < 4 * computed
            # Large enough for float16, whose losses have gradients of 1e-6.
            upstream = [1000 * torch.randn_like(e) for e in expected]
            grads = torch.autograd.grad(
                found, [*teacher, *student], [u.to(found[0].dtype) for u in upstream]
            )
            exact = torch.autograd.grad(expected, [*exact_teacher, *exact_student], upstream)
            assert max(map(deviation, grads, exact)) < 2 * STORED[dtype]
            assert all(g.dtype == dtype for g in grads)


def test_l2_is_the_mean_squared_error():
    teacher, student = pyramid(SHAPES["pyramid"]), pyramid(SHAPES["pyramid"])
    found = ops.distillation_loss(teacher, student, distance="l2", reduction="none")
    for value, t, s in zip(found, teacher, student, strict=True):
        torch.testing.assert_close(value, F.mse_loss(s, t))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_l2_of_nearly_equal_vectors_keeps_its_relative_accuracy(layout, dtype):
    teacher = pyramid(SHAPES["pyramid"], dtype=dtype, layout=layout)
    student = [(t * (1 + 0.01 * torch.randn_like(t))).to(dtype) for t in teacher]
    found = ops.distances(teacher, student, distance="l2")
    expected = reference.distances(doubled(teacher), doubled(student), distance="l2")
    for f, e in zip(found, expected, strict=True):
        assert ((f - e).abs() / e).max() < 1e-5
    found = ops.distances(teacher, [t.clone() for t in teacher], distance="l2")
    assert all((f == 0).all() for f in found)


@pytest.mark.parametrize("case", CASES)
def test_with_spatial_weights(case):
    shapes = SHAPES["odd"]
    teacher = pyramid(shapes)
    student = pyramid(shapes, requires_grad=True)
    options = options_of(case, [c for c, _, _ in shapes])
    options["weights"] = [torch.rand(2, h, w) * (torch.rand(h, w) < 0.7) for _, h, w in shapes]
    exact_student = doubled(student)
    for call in CALLS.values():
        found = call(ops, teacher, student, options)
        expected = call(reference, doubled(teacher), exact_student, exact_options(options))
        assert max(map(deviation, found, expected)) < 2e-5
        grads = torch.autograd.grad(sum(f.sum() for f in found), student)
        exact = torch.autograd.grad(sum(e.sum() for e in expected), exact_student)
        assert max(map(deviation, grads, exact)) < 2e-5


@pytest.mark.parametrize("case", CASES)
def test_gradcheck(case):
    shapes = [(5, 4, 3), (3, 2, 2)]
    teacher, student = (pyramid(shapes, dtype=torch.float64, requires_grad=True) for _ in range(2))
    options = options_of(case, [5, 3], torch.float64)

    def function(*x):
        loss = ops.distillation_loss(list(x[:2]), list(x[2:]), **options)
        return loss, *ops.distances(list(x[:2]), list(x[2:]), **options)

    assert gradcheck(function, [*teacher, *student], nondet_tol=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_without_a_kernel(case):
    """Gradients of gradients, and features that no kernel reads."""
    shapes = [(5, 4, 3), (3, 2, 2)]
    teacher = [x.transpose(2, 3) for x in pyramid([(c, w, h) for c, h, w in shapes])]
    student = pyramid(shapes, requires_grad=True)
    options = options_of(case, [5, 3])
    torch.testing.assert_close(
        ops.distances(teacher, student, **options), reference.distances(teacher, student, **options)
    )
    teacher, results = [t.contiguous() for t in teacher], []
    for module in (ops, reference):
        loss = module.distillation_loss(teacher, student, **options)
        grads = torch.autograd.grad(loss, student, create_graph=True)
        results.append(torch.autograd.grad(sum(g.square().sum() for g in grads), student))
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("weighted", [False, True])
def test_both_gradients_come_with_the_loss(weighted, layout, reduction):
    """Also a second time, when they are computed anew, and for the teacher alone."""
    shapes = SHAPES["odd"]
    teacher, student = (pyramid(shapes, layout=layout, requires_grad=True) for _ in range(2))
    teacher[1].data[0] *= 1e-14  # a norm that is clamped
    options = {"reduction": reduction, "level_weights": [0.5, 2.0, 3.0], "eps": 1e-3}
    if weighted:
        options["weights"] = [torch.rand(h, w) for _, h, w in shapes]
    exact_teacher, exact_student = doubled(teacher), doubled(student)
    found = ops.distillation_loss(teacher, student, **options)
    saved = found.grad_fn.saved_tensors if hasattr(found.grad_fn, "saved_tensors") else None
    assert saved is None or len(saved) == (5 if weighted else 4) * len(shapes)
    expected = reference.distillation_loss(exact_teacher, exact_student, **options)
    upstream = torch.randn_like(expected)
    for inputs, exact_inputs in (
        ([*teacher, *student], [*exact_teacher, *exact_student]),
        (teacher, exact_teacher),
    ):
        grads = torch.autograd.grad(found, inputs, upstream.float(), retain_graph=True)
        exact = torch.autograd.grad(expected, exact_inputs, upstream, retain_graph=True)
        assert max(map(deviation, grads, exact)) < 5e-6


def test_the_gradient_of_the_teacher_is_that_of_the_student_of_exchanged_roles():
    teacher, student = (pyramid(SHAPES["blocks"], requires_grad=True) for _ in range(2))
    found = torch.autograd.grad(ops.distillation_loss(teacher, student), teacher)
    other = torch.autograd.grad(ops.distillation_loss(student, teacher), teacher)
    torch.testing.assert_close(found, other)


def test_compile_and_export():
    shapes = [(5, 4, 3), (3, 2, 2)]
    options = options_of("l2_standardized", [5, 3])

    class Step(torch.nn.Module):
        def forward(self, teacher, student):
            loss = ops.distillation_loss(teacher, student, **options)
            loss = loss + ops.distillation_loss(teacher, student, distance="l2")
            return loss + ops.anomaly_map(teacher, student, (8, 9), **options).mean()

    step = Step()
    compiled = torch.compile(step, backend="aot_eager", fullgraph=True, dynamic=True)
    batch = torch.export.Dim("batch")
    free = tuple([{0: batch}, {0: batch}] for _ in range(2))
    program = torch.export.export(step, (pyramid(shapes), pyramid(shapes)), dynamic_shapes=free)
    for count in (2, 5):
        teacher, student = (pyramid(shapes, count, requires_grad=True) for _ in range(2))
        expected, found = step(teacher, student), compiled(teacher, student)
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(program.module()(teacher, student), expected)
        torch.testing.assert_close(
            torch.autograd.grad(found, [*teacher, *student]),
            torch.autograd.grad(expected, [*teacher, *student]),
        )


X = torch.randn(2, 3, 4, 5)
ONES = [torch.ones(3)]
L2S = {"distance": "l2_standardized"}


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"distance": "l1"}, ValueError, "distance must be one of ['cosine', 'l2'"),
        ({"distance": "l2", "mean": ONES}, ValueError, "distance 'l2' takes no mean"),
        ({**L2S, "mean": ONES}, ValueError, "'l2_standardized' needs mean and deviation"),
        ({"mean": ONES[0]}, TypeError, "mean must be a list of tensors"),
        ({"mean": ONES * 2}, ValueError, "mean must have 1 tensors, one a level, not 2"),
        ({"deviation": [torch.ones(4)]}, ValueError, "deviation[0] must be (3,), a number a"),
        ({"deviation": [torch.ones(3).int()]}, TypeError, "deviation[0] must be float32"),
        ({"mean": [torch.ones(3).requires_grad_()]}, ValueError, "mean[0] requires a gradient"),
        ({"mean": [torch.ones(3, device="meta")]}, ValueError, "mean[0] is on meta"),
    ],
)
@pytest.mark.parametrize("function", ["distances", "anomaly_map", "distillation_loss"])
def test_errors(function, options, error, match):
    arguments = ((8, 8),) if function == "anomaly_map" else ()
    with pytest.raises(error, match=re.escape(match)):
        getattr(ops, function)([X], [X], *arguments, **options)


def test_raw_calls_refuse_what_they_cannot_read():
    call, two = torch.ops.fastad.distances, torch.ones(2, 3)
    for last, match in (
        ((None, 2), r"distance must be 0 \(cosine\) or 1 \(l2\), not 2"),
        ((None, 0, []), "channels must have 1 levels, not 0"),
        ((None, 0, [two.double()]), r"channels\[0\] must be \(2, 3\) float32"),
        ((None, 0, [torch.ones(3, 2).T]), r"channels\[0\] must be \(2, 3\) float32, contiguous"),
    ):
        with pytest.raises(RuntimeError, match=match):
            call([X], [X], 1e-12, *last)
    loss = torch.ops.fastad.distillation_loss
    with pytest.raises(RuntimeError, match="teacher_gradient does not go with channels"):
        loss([X], [X], [1.0], 0, 1e-12, True, None, 0, [two], True)
    y = X.contiguous(memory_format=torch.channels_last)
    with pytest.raises(RuntimeError, match="teacher_gradient needs the same strides"):
        loss([y], [X], [1.0], 0, 1e-12, True, None, 0, None, True)
    with pytest.raises(ValueError, match="requires a gradient, and channels get none"):
        call([X], [X.clone().requires_grad_()], 1e-12, None, 0, [two.requires_grad_()])
