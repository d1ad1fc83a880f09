"""Hard mining of distillation_loss: only the largest distances of a level count."""

import math
import re

import numpy as np
import pytest
import torch
from pyramids import DTYPES, LAYOUTS, SHAPES, STORED, deviation, doubled, pyramid
from torch.autograd import gradcheck

from fastad import ops
from fastad.ops import reference

QUANTILES = [0.0, 0.5, 0.9, 0.99, 0.999]
REDUCTIONS = ["mean", "sum", "none"]


def chosen_of(level, hard, weights):
    """Places at or above the quantile, by numpy in float64."""
    level = level.detach().double().numpy()
    counts = np.ones_like(level, dtype=bool) if weights is None else weights.numpy() > 0
    if not counts.any():
        return torch.from_numpy(counts)
    return torch.from_numpy(counts & (level >= np.quantile(level[counts], hard, method="higher")))


def expected_loss(teacher, student, hard, reduction, weights=None, found=None):
    """By the definition. ``found`` are the distances that decide which ones are hard."""
    maps = reference.distances(teacher, student)
    return joined(maps, maps if found is None else found, hard, reduction, weights)


def joined(maps, found, hard, reduction, weights=None):
    """The loss of ``maps``, of which those of ``found`` say which places are hard."""
    levels = []
    for i, level in enumerate(maps):
        weight = None if weights is None else weights[i].double().expand_as(level)
        chosen = chosen_of(found[i], hard, weight)
        weight = torch.ones_like(level) if weight is None else weight
        total = (weight * level)[chosen].sum()
        levels.append(total if reduction == "sum" else total / weight[chosen].sum().clamp_min(1e-9))
    return torch.stack(levels) if reduction == "none" else sum(levels)


def gradient_errors(grads, exact, student, found, upstream, hard, reduction, weights=None):
    """Errors of gradients to the student, relative to the largest that a distance could have.

    A distance changes by at most 1 / |student|, and by less the nearer it is to 0 or 2: there the
    gradient is a small difference of rounded numbers.
    """
    logarithms = joined([x.norm(dim=1).log() for x in student], found, hard, reduction, weights)
    largest = torch.autograd.grad(logarithms, student, upstream)
    for g, e, bound in zip(grads, exact, largest, strict=True):
        yield ((g.double() - e).abs().max() / bound.norm(dim=1).max().clamp_min(1e-30)).item()


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("hard", QUANTILES)
@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES)
def test_values_and_gradients(shapes, hard, reduction):
    for module, dtype in ((ops, torch.float32), (ops, torch.float64), (reference, torch.float64)):
        teacher = pyramid(shapes, dtype=dtype)
        student = pyramid(shapes, dtype=dtype, requires_grad=True)
        exact_student, maps = doubled(student), ops.distances(teacher, student)
        expected = expected_loss(doubled(teacher), exact_student, hard, reduction, found=maps)
        found = module.distillation_loss(teacher, student, hard=hard, reduction=reduction)
        assert found.dtype == dtype
        assert deviation(found, expected) < STORED[dtype]
        upstream = torch.randn_like(expected)
        grads = torch.autograd.grad(found, student, upstream.to(dtype))
        exact = torch.autograd.grad(expected, exact_student, upstream)
        errors = gradient_errors(grads, exact, exact_student, maps, upstream, hard, reduction)
        assert max(errors) < STORED[dtype]


@pytest.mark.parametrize("layouts", [(a, b) for a in LAYOUTS for b in LAYOUTS], ids="-".join)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("hard", [0.5, 0.99])
def test_dtypes_layouts_and_both_sides(hard, dtype, layouts):
    shapes = SHAPES["pyramid"]
    teacher = pyramid(shapes, dtype=dtype, layout=layouts[0], requires_grad=True)
    student = pyramid(shapes, dtype=dtype, layout=layouts[1], requires_grad=True)
    exact_teacher, exact_student = doubled(teacher), doubled(student)
    maps = ops.distances(teacher, student)
    expected = expected_loss(exact_teacher, exact_student, hard, "mean", found=maps)
    found = ops.distillation_loss(teacher, student, hard=hard)
    assert deviation(found, expected) < (1e-13 if dtype == torch.float64 else 5e-6)
    grads = torch.autograd.grad(found, [*teacher, *student])
    exact = torch.autograd.grad(expected, [*exact_teacher, *exact_student])
    assert max(map(deviation, grads, exact)) < STORED[dtype]
    for g, x, level in zip(grads, [*teacher, *student], [*maps, *maps], strict=True):
        assert g.stride() == x.stride()
        assert torch.equal((g != 0).any(dim=1), chosen_of(level, hard, None))


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("hard", QUANTILES)
def test_with_spatial_weights(hard, reduction):
    shapes = SHAPES["odd"]
    teacher, student = pyramid(shapes), pyramid(shapes, requires_grad=True)
    weights = [torch.rand(2, h, w) * (torch.rand(h, w) < 0.6) for _, h, w in shapes]
    maps = ops.distances(teacher, student)
    for given in (weights, [w[0] for w in weights]):
        exact_student = doubled(student)
        expected = expected_loss(doubled(teacher), exact_student, hard, reduction, given, maps)
        upstream = torch.ones_like(expected)
        exact = torch.autograd.grad(expected, exact_student, upstream)
        for module in (ops, reference):
            found = module.distillation_loss(
                teacher, student, hard=hard, weights=given, reduction=reduction
            )
            assert deviation(found, expected) < 5e-6
            grads = torch.autograd.grad(found.sum(), student)
            errors = gradient_errors(
                grads, exact, exact_student, maps, upstream, hard, reduction, given
            )
            assert max(errors) < 5e-6


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_without_any_weight_there_is_no_loss_and_no_gradient(reduction):
    teacher, student = pyramid(SHAPES["odd"]), pyramid(SHAPES["odd"], requires_grad=True)
    found = ops.distillation_loss(
        teacher, student, hard=0.9, weights=torch.zeros(9, 9), reduction=reduction
    )
    assert (found == 0).all()
    assert all((g == 0).all() for g in torch.autograd.grad(found.sum(), student))


def test_equal_distances_are_hard_together():
    teacher = [torch.tensor([1.0, 0.0]).view(1, 2, 1, 1).expand(1, 2, 3, 4).contiguous()]
    student = [teacher[0].clone()]
    student[0][:, :, 0] *= -1  # a row at a distance of 2
    for hard in (0.7, 0.99):
        assert ops.distillation_loss(teacher, student, hard=hard, reduction="sum") == 8
        assert ops.distillation_loss(teacher, student, hard=hard) == 2
    assert ops.distillation_loss(teacher, student, hard=0.5) == pytest.approx(8 / 12)


def test_nan_is_not_left_out():
    teacher, student = pyramid([(8, 4, 4)]), pyramid([(8, 4, 4)])
    student[0][0, 3, 1, 2] = math.nan
    for weights in (None, torch.ones(4, 4)):
        for module in (ops, reference):
            assert module.distillation_loss(teacher, student, hard=0.9, weights=weights).isnan()


@pytest.mark.parametrize("weights", [None, torch.rand(9, 9)], ids=["plain", "weights"])
def test_empty_batch(weights):
    teacher, student = (pyramid(SHAPES["odd"], 0, requires_grad=True) for _ in range(2))
    for module in (ops, reference):
        options = {"hard": 0.9, "weights": weights}
        assert module.distillation_loss(teacher, student, **options).isnan()
        loss = module.distillation_loss(teacher, student, reduction="sum", **options)
        assert loss == 0
        assert torch.autograd.grad(loss, student)[0].shape == student[0].shape


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_gradcheck(reduction):
    shapes = [(5, 4, 3), (3, 2, 2)]
    nearest = 0.0
    while nearest < 1e-4:  # finite differences must not change which places are hard
        teacher = pyramid(shapes, dtype=torch.float64, requires_grad=True)
        student = pyramid(shapes, dtype=torch.float64, requires_grad=True)
        maps = ops.distances(teacher, student)
        nearest = min(m.flatten().sort().values.diff().min().item() for m in maps)
    options = {"hard": 0.7, "level_weights": [1.0, 0.3], "reduction": reduction}

    def function(*x):
        return ops.distillation_loss(list(x[:2]), list(x[2:]), **options)

    assert gradcheck(function, [*teacher, *student])


def test_gradients_of_gradients():
    teacher, student = pyramid(SHAPES["odd"]), pyramid(SHAPES["odd"], requires_grad=True)
    results = []
    for module in (ops, reference):
        loss = module.distillation_loss(teacher, student, hard=0.8)
        grads = torch.autograd.grad(loss, student, create_graph=True)
        results.append(torch.autograd.grad(sum(g.square().sum() for g in grads), student))
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected)


def test_compile_without_breaks_and_export():
    def step(teacher, student):
        plain = ops.distillation_loss(teacher, student, hard=0.9)
        return plain + ops.distillation_loss(teacher, student, hard=0.8, weights=mask)

    class Step(torch.nn.Module):
        def forward(self, teacher, student):
            return step(teacher, student)

    shapes = [(5, 4, 3), (3, 2, 2)]
    mask = torch.rand(13, 11) < 0.7
    compiled = torch.compile(step, backend="aot_eager", fullgraph=True, dynamic=True)
    batch = torch.export.Dim("batch")
    free = tuple([{0: batch}, {0: batch}] for _ in range(2))
    program = torch.export.export(Step(), (pyramid(shapes), pyramid(shapes)), dynamic_shapes=free)
    for count in (2, 5):
        teacher, student = pyramid(shapes, count), pyramid(shapes, count, requires_grad=True)
        expected, found = step(teacher, student), compiled(teacher, student)
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(program.module()(teacher, student), expected)
        torch.testing.assert_close(
            torch.autograd.grad(found, student), torch.autograd.grad(expected, student)
        )


X = torch.randn(2, 3, 4, 5)


@pytest.mark.parametrize(
    ("hard", "error", "match"),
    [
        (1, ValueError, "hard must be at least 0 and below 1, not 1"),
        (-0.1, ValueError, "hard must be at least 0 and below 1, not -0.1"),
        (math.nan, ValueError, "hard must be at least 0 and below 1, not nan"),
        (True, TypeError, "hard must be a number, not <class 'bool'>"),
        ("0.9", TypeError, "hard must be a number, not <class 'str'>"),
        (torch.tensor(0.9), TypeError, "hard must be a number, not <class 'torch.Tensor'>"),
    ],
)
def test_errors(hard, error, match):
    with pytest.raises(error, match=re.escape(match)):
        ops.distillation_loss([X], [X], hard=hard)
