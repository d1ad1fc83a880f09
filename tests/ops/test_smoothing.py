"""Maps under a Gaussian: ``smoothing=`` of the ops."""

import re

import numpy as np
import pytest
import torch
from pyramids import SHAPES, deviation, doubled, pyramid
from torch.autograd import gradcheck, gradgradcheck

from fastad import ops
from fastad.ops import reference

LEVELS = ((8, 8), (5, 3), (1, 16))


def matrix(length, sigma):
    """(length, length): a Gaussian cut at 3 sigma, with the edges repeated. No function of ours."""
    radius = max(round(3 * sigma), 1)
    steps = torch.arange(-radius, radius + 1)
    weights = torch.exp(-0.5 * (steps.double() / sigma) ** 2)
    result, rows = torch.zeros(length, length, dtype=torch.float64), torch.arange(length)
    for k, weight in zip(steps, weights / weights.sum(), strict=True):
        result[rows, (rows + k).clamp(0, length - 1)] += weight
    return result


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("sigma", [1e-3, 0.5, 4.0, 30.0])
@pytest.mark.parametrize("size", [(64, 64), (1, 1), (5, 129), (3, 2), (1, 7), (40, 1), (130, 270)])
def test_values_and_gradients(size, sigma, dtype):
    maps = [(torch.rand(3, *s, dtype=dtype) + 0.1).requires_grad_() for s in LEVELS]
    exact = doubled(maps)
    joined = reference.aggregate_maps(exact, size, weights=[1.0, 0.5, 2.0])
    expected = matrix(size[0], sigma) @ joined @ matrix(size[1], sigma).T
    upstream = torch.randn_like(expected)
    exact_grads = torch.autograd.grad(expected, exact, upstream)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    for module in (ops, reference) if sigma < 30 else (ops,):  # torch's convolution is slow
        found = module.aggregate_maps(maps, size, weights=[1.0, 0.5, 2.0], smoothing=sigma)
        assert found.dtype == dtype
        assert deviation(found, expected) < tolerance
        grads = torch.autograd.grad(found, maps, upstream.to(dtype))
        assert max(map(deviation, grads, exact_grads)) < 3 * tolerance


def test_the_maximum_is_that_of_the_smoothed_map():
    maps = [torch.rand(3, *s) - 0.5 for s in LEVELS]
    options = {"aggregate": "sum", "smoothing": 2.0}
    found, maximum = ops.aggregate_maps(maps, (50, 60), **options, return_maximum=True)
    assert torch.equal(maximum, found.amax(dim=(1, 2)))
    assert maximum.max() < ops.aggregate_maps(maps, (50, 60), aggregate="sum").max()


def test_no_number_spreads_by_the_radius_alone():
    maps = [torch.rand(1, 40, 50)]
    maps[0][0, 20, 25] = torch.nan
    before = ops.aggregate_maps(maps, (40, 50)).isnan()
    after = ops.aggregate_maps(maps, (40, 50), smoothing=2.0).isnan()
    expected = torch.nn.functional.max_pool2d(before[:, None].float(), 13, 1, 6)[:, 0] > 0
    assert before.any()
    assert torch.equal(after, expected)


def test_threads_change_no_bit():
    maps = [torch.rand(2, 30, 30).requires_grad_()]

    def results():
        found = ops.aggregate_maps(maps, (200, 220), smoothing=3.0)
        return found, *torch.autograd.grad(found.square().sum(), maps)

    before, threads = results(), torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert all(map(torch.equal, before, results()))
    finally:
        torch.set_num_threads(threads)


def test_gradcheck():
    maps = [
        (torch.rand(2, *s, dtype=torch.float64) + 0.2).requires_grad_() for s in ((3, 4), (2, 1))
    ]

    def function(*m):
        return ops.aggregate_maps(list(m), (5, 6), smoothing=0.7)

    assert gradcheck(function, maps)
    assert gradgradcheck(function, maps)


@pytest.mark.parametrize("options", [{}, {"distance": "l2"}, {"score": "top_share"}], ids=str)
def test_features(options):
    teacher, student = pyramid(SHAPES["odd"]), pyramid(SHAPES["odd"], requires_grad=True)
    exact = doubled(student)
    arguments = {"aggregate": "sum", "align_corners": True, "smoothing": 1.5}
    score = options.get("score")
    found = ops.anomaly_map(teacher, student, (20, 31), **arguments, **options)
    given = {k: v for k, v in options.items() if k != "score"}
    expected = reference.anomaly_map(doubled(teacher), exact, (20, 31), **arguments, **given)
    if score is not None:
        found, expected = found[1], reference.score(expected, score)
    assert deviation(found, expected) < 2e-5
    grads = torch.autograd.grad(found.square().sum(), student)
    exact_grads = torch.autograd.grad(expected.square().sum(), exact)
    assert max(map(deviation, grads, exact_grads)) < 2e-5


def test_the_maximum_of_features():
    teacher, student = pyramid(SHAPES["odd"]), pyramid(SHAPES["odd"])
    found, maximum = ops.anomaly_map(teacher, student, (20, 31), smoothing=1.5, return_maximum=True)
    assert torch.equal(maximum, found.amax(dim=(1, 2)))


def test_half_precision_is_rounded_after_smoothing():
    teacher, student = pyramid(SHAPES["odd"]), pyramid(SHAPES["odd"], requires_grad=True)
    maps = ops.distances(teacher, student)
    exact = ops.aggregate_maps(maps, (20, 31), smoothing=1.5)
    for found in (
        ops.aggregate_maps(maps, (20, 31), smoothing=1.5, dtype=torch.float16),
        ops.anomaly_map(teacher, student, (20, 31), smoothing=1.5, dtype=torch.float16),
    ):
        assert torch.equal(found, exact.half())
        assert torch.autograd.grad(found.float().sum(), student, retain_graph=True)[0].any()


def test_empty_batch():
    maps = [torch.empty(0, n, n, requires_grad=True) for n in (4, 2)]
    found = ops.aggregate_maps(maps, (8, 9), smoothing=2.0)
    assert found.shape == (0, 8, 9)
    assert torch.autograd.grad(found.sum(), maps)[1].shape == (0, 2, 2)


def test_compile_and_export():
    class Step(torch.nn.Module):
        def forward(self, teacher, student):
            maps = ops.distances(teacher, student)
            joined = ops.aggregate_maps(maps, (8, 9), smoothing=1.0)
            return joined + ops.anomaly_map(teacher, student, (8, 9), smoothing=2.0)

    step, shapes = Step(), [(5, 4, 3), (3, 2, 2)]
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


MAP = torch.rand(2, 4, 5)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: ops.aggregate_maps([MAP], (8, 8), smoothing=-1.0), "from 0 to 300 pixels, not -1"),
        (lambda: ops.aggregate_maps([MAP], (8, 8), smoothing=301), "from 0 to 300 pixels, not 301"),
        (
            lambda: ops.aggregate_maps([MAP], (8, 8), smoothing=float("nan")),
            "from 0 to 300 pixels, not nan",
        ),
        (
            lambda: ops.aggregate_maps([MAP], (8, 8), aggregate="stack", smoothing=1.0),
            "aggregate='stack' takes no smoothing",
        ),
        (
            lambda: torch.ops.fastad.aggregate_maps(
                [MAP], 8, 8, True, [1.0], False, torch.float16, 1.0
            ),
            "smoothing does not go with half precision",
        ),
        (
            lambda: torch.ops.fastad.aggregate_maps([MAP], 8, 8, True, [1.0], False, None, -1.0),
            "smoothing must be from 0 to 300 pixels, not -1",
        ),
    ],
)
def test_errors(call, match):
    with pytest.raises((ValueError, RuntimeError), match=re.escape(match)):
        call()


@pytest.mark.parametrize("number", [2, np.float32(2), np.float64(2), np.int64(2)], ids=repr)
def test_numbers_of_numpy(number):
    found = ops.aggregate_maps([MAP], (8, 8), smoothing=number)
    assert torch.equal(found, ops.aggregate_maps([MAP], (8, 8), smoothing=2.0))


@pytest.mark.parametrize("wrong", ["2", True, np.True_, MAP])
def test_wrong_types(wrong):
    with pytest.raises(TypeError, match="smoothing must be a number"):
        ops.aggregate_maps([MAP], (8, 8), smoothing=wrong)
