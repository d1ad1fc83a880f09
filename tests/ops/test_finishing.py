"""What comes out of the ops: corners, stacks, losses of images."""

import re

import pytest
import torch
from pyramids import SHAPES, deviation, doubled, pyramid
from torch.autograd import gradcheck, gradgradcheck

from fastad import ops
from fastad.ops import reference

SIZES = [(64, 64), (1, 1), (5, 129), (3, 2), (1, 7)]
LEVELS = ((8, 8), (5, 3), (1, 16))


def upsampled(level, size):
    """By coordinates of points, the corners of which coincide: no function of the reference."""
    axes = []
    for length, out in zip(level.shape[1:], size, strict=True):
        at = torch.arange(out, dtype=torch.float64) * ((length - 1) / max(out - 1, 1))
        low = at.floor().long().clamp(max=length - 1)
        high, share = (low + 1).clamp(max=length - 1), at - low
        matrix = torch.zeros(out, length, dtype=torch.float64)
        matrix[torch.arange(out), low] += 1 - share
        matrix[torch.arange(out), high] += share
        axes.append(matrix)
    return axes[0] @ level @ axes[1].T


@pytest.mark.parametrize("weights", [None, [1.0, 1.0, 2.0], [0.0, 3.0, -1.0]])
@pytest.mark.parametrize("size", SIZES)
def test_aligned_corners(size, weights):
    maps = [(torch.rand(3, *s) + 0.1).requires_grad_() for s in LEVELS]
    exact = doubled(maps)
    ups = [upsampled(m, size) for m in exact]
    numbers = weights or [1.0] * 3
    for aggregate in ("product", "sum"):
        terms = [
            u**w if aggregate == "product" else u * w for u, w in zip(ups, numbers, strict=True)
        ]
        expected = terms[0] * terms[1] * terms[2] if aggregate == "product" else sum(terms)
        for module in (ops, reference):
            found = module.aggregate_maps(
                maps, size, aggregate=aggregate, weights=weights, align_corners=True
            )
            assert deviation(found, expected) < 1e-5
        upstream = torch.randn_like(expected)
        found = ops.aggregate_maps(
            maps, size, aggregate=aggregate, weights=weights, align_corners=True
        )
        grads = torch.autograd.grad(found, maps, upstream.float())
        exact_grads = torch.autograd.grad(expected, exact, upstream, retain_graph=True)
        assert max(map(deviation, grads, exact_grads)) < 2e-5


@pytest.mark.parametrize("corners", [False, True])
@pytest.mark.parametrize("size", [(6, 20), (17, 5), (6, 5)])
def test_infinity_stays_in_its_row_where_an_axis_keeps_its_length(size, corners):
    level = torch.rand(1, 6, 5)
    level[0, 2, 3] = torch.inf
    found, expected = (
        module.aggregate_maps([level], size, align_corners=corners) for module in (ops, reference)
    )
    assert torch.equal(found.isfinite(), expected.isfinite())


def test_aligned_corners_of_features():
    teacher, student = pyramid(SHAPES["odd"]), pyramid(SHAPES["odd"], requires_grad=True)
    exact_student = doubled(student)
    options = {"aggregate": "sum", "align_corners": True}
    found = ops.anomaly_map(teacher, student, (20, 31), **options)
    expected = reference.anomaly_map(doubled(teacher), exact_student, (20, 31), **options)
    assert deviation(found, expected) < 2e-5
    other = ops.anomaly_map(teacher, student, (20, 31), aggregate="sum")
    assert (found - other).abs().max() > 1e-3
    for create_graph in (False, True):
        grads = torch.autograd.grad(
            found.square().sum(), student, retain_graph=True, create_graph=create_graph
        )
        exact = torch.autograd.grad(expected.square().sum(), exact_student, retain_graph=True)
        assert max(map(deviation, grads, exact)) < 2e-5


@pytest.mark.parametrize("corners", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_stack(size, corners):
    maps = [torch.randn(3, *s, requires_grad=True) for s in LEVELS]
    options = {"align_corners": corners}
    found = ops.aggregate_maps(maps, size, aggregate="stack", **options)
    assert found.shape == (3, 3, *size)
    one_by_one = [ops.aggregate_maps([m], size, aggregate="sum", **options) for m in maps]
    assert torch.equal(found, torch.stack(one_by_one, dim=1))
    upstream = torch.randn_like(found)
    grads = torch.autograd.grad(found, maps, upstream)
    expected = torch.autograd.grad(one_by_one, maps, list(upstream.unbind(dim=1)))
    torch.testing.assert_close(grads, expected)
    if corners:
        ups = [upsampled(m.detach().double(), size) for m in maps]
        assert deviation(found, torch.stack(ups, dim=1)) < 1e-5


@pytest.mark.parametrize("corners", [False, True])
@pytest.mark.parametrize("aggregate", ["product", "sum", "stack"])
def test_gradcheck(aggregate, corners):
    maps = [
        (torch.rand(2, *s, dtype=torch.float64) + 0.2).requires_grad_() for s in ((3, 4), (2, 1))
    ]

    def function(*m):
        return ops.aggregate_maps(list(m), (5, 6), aggregate=aggregate, align_corners=corners)

    assert gradcheck(function, maps)
    assert gradgradcheck(function, maps)


@pytest.mark.parametrize("weighted", [False, True])
def test_loss_of_images(weighted):
    shapes = SHAPES["odd"]
    teacher, student = (pyramid(shapes, batch=4, requires_grad=True) for _ in range(2))
    options = {"level_weights": [0.5, 2.0, 3.0]}
    if weighted:
        options["weights"] = [torch.rand(4, h, w) for _, h, w in shapes]
        for w in options["weights"]:
            w[1] = 0
    found = ops.distillation_loss(teacher, student, reduction="image", **options)
    assert found.shape == (4,)
    assert not weighted or found[1] == 0
    torch.testing.assert_close(found.mean(), ops.distillation_loss(teacher, student, **options))
    for n in range(4):  # alone
        own = dict(options)
        if weighted:
            own["weights"] = [w[n : n + 1] for w in options["weights"]]
        alone = ops.distillation_loss(
            [t[n : n + 1] for t in teacher], [s[n : n + 1] for s in student], **own
        )
        torch.testing.assert_close(found[n], alone)
    exact_teacher, exact_student = doubled(teacher), doubled(student)
    expected = reference.distillation_loss(
        exact_teacher, exact_student, reduction="image", **options
    )
    assert deviation(found, expected) < 5e-6
    upstream = torch.randn_like(expected)
    grads = torch.autograd.grad(found, [*teacher, *student], upstream.float())
    exact = torch.autograd.grad(expected, [*exact_teacher, *exact_student], upstream)
    assert max(map(deviation, grads, exact)) < 5e-6


def test_empty_batch():
    maps = [torch.empty(0, n, n, requires_grad=True) for n in (4, 2)]
    found = ops.aggregate_maps(maps, (8, 9), aggregate="stack")
    assert found.shape == (0, 2, 8, 9)
    assert torch.autograd.grad(found.sum(), maps)[1].shape == (0, 2, 2)
    teacher, student = pyramid(SHAPES["odd"], 0), pyramid(SHAPES["odd"], 0)
    assert ops.distillation_loss(teacher, student, reduction="image").shape == (0,)


def test_compile_and_export():
    shapes = [(5, 4, 3), (3, 2, 2)]

    class Step(torch.nn.Module):
        def forward(self, teacher, student):
            maps = ops.distances(teacher, student)
            stack = ops.aggregate_maps(maps, (8, 9), aggregate="stack", align_corners=True)
            found = ops.anomaly_map(teacher, student, (8, 9), align_corners=True)
            loss = ops.distillation_loss(teacher, student, reduction="image")
            return stack.square().sum(dim=(1, 2, 3)) + found.mean(dim=(1, 2)) + loss

    step = Step()
    compiled = torch.compile(step, backend="aot_eager", fullgraph=True, dynamic=True)
    batch = torch.export.Dim("batch")
    free = tuple([{0: batch}, {0: batch}] for _ in range(2))
    program = torch.export.export(step, (pyramid(shapes), pyramid(shapes)), dynamic_shapes=free)
    for count in (2, 5):
        teacher, student = pyramid(shapes, count), pyramid(shapes, count, requires_grad=True)
        expected, found = step(teacher, student), compiled(teacher, student)
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(program.module()(teacher, student), expected)
        torch.testing.assert_close(
            torch.autograd.grad(found.sum(), student), torch.autograd.grad(expected.sum(), student)
        )


X, MAP = torch.randn(2, 3, 4, 5), torch.rand(2, 4, 5)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (
            lambda: ops.aggregate_maps([MAP], (8, 8), aggregate="stack", weights=[1.0]),
            "aggregate='stack' takes no weights",
        ),
        (
            lambda: ops.aggregate_maps([MAP], (8, 8), aggregate="stack", return_maximum=True),
            "aggregate='stack' takes no return_maximum",
        ),
        (
            lambda: ops.anomaly_map([X], [X], (8, 8), aggregate="stack"),
            "aggregate must be 'product' or 'sum', not 'stack'",
        ),
        (
            lambda: ops.distillation_loss([X], [X], reduction="image", hard=0.5),
            "hard is a quantile of the batch",
        ),
    ],
)
def test_errors(call, match):
    with pytest.raises(ValueError, match=re.escape(match)):
        call()
