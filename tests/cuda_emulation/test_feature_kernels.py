"""Kernels that read features: distances, their gradient, the loss with its gradient."""

import itertools
import random

import pytest
import torch
from arrangements import (
    ARRANGEMENTS,
    STORED,
    assert_close,
    channel_statistics,
    computed,
    exact,
    features,
    spatial_weights,
)

from fastad.ops import reference

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
EPS = 1e-12
# (C, H, W) of the levels.
SHAPES = {
    "pyramid": [(64, 8, 8), (128, 8, 4), (256, 4, 4)],
    "odd": [(5, 7, 9), (33, 13, 1), (17, 1, 11)],
    # Not two channels: of so few values all may nearly cancel in the gradient.
    "pixel": [(7, 1, 1), (19, 1, 1), (64, 1, 1)],
    "narrow": [(2, 8, 9), (3, 4, 4), (8, 16, 16)],
    "wide": [(1030, 3, 5), (600, 4, 4), (1024, 2, 4)],
    "widest": [(4112, 2, 2)],
    "eight": [(3 + i, 1 + i, 9 - i) for i in range(8)],
}


def check_all_ops(kernels, teacher, student):
    """Distances, their backward and the loss with gradients against autograd in float64."""
    check_ops(kernels, teacher, student, None)
    double = any(x.dtype == torch.float64 for x in (*teacher, *student))
    dtype = torch.float64 if double else torch.float32
    check_ops(kernels, teacher, student, spatial_weights(student, dtype))
    # Other distances take the same way through memory: of all that they may come with, one each.
    distance = random.choice([0, 1])
    channels = random.choice([None, channel_statistics(student, dtype)])
    spatial = random.choice([None, spatial_weights(student, dtype)])
    print(f"{distance=}, channels={channels is not None}, spatial={spatial is not None}")
    check_ops(kernels, teacher, student, spatial, distance, channels)


def check_ops(kernels, teacher, student, spatial, distance=0, channels=None):
    weighted = {} if spatial is None else {"weights": exact(spatial)}
    weighted["distance"] = ["cosine", "l2"][distance]
    if channels is not None:
        weighted["mean"] = [x[0] for x in exact(channels)]
        weighted["deviation"] = [1 / x[1] for x in exact(channels)]
    last = (spatial, distance, channels)
    ops, tolerance = kernels.ops, computed(*teacher, *student)
    stored = max(tolerance, *(STORED[s.dtype] for s in student))
    exact_teacher, exact_student = (exact(x, requires_grad=True) for x in (teacher, student))
    out_dtype = torch.float64 if tolerance < 1e-10 else torch.float32

    found = ops.distances(teacher, student, EPS, *last)
    expected = reference.distances(exact_teacher, exact_student, eps=EPS, **weighted)
    assert {d.dtype for d in found} == {out_dtype}
    assert_close(found, [e.detach() for e in expected], tolerance)

    upstream = [torch.randn_like(d) for d in found]
    found = ops.distances_backward(upstream, teacher, student, EPS, *last)
    expected = torch.autograd.grad(expected, exact_student, exact(upstream))
    assert [g.dtype for g in found] == [s.dtype for s in student]
    assert [g.stride() for g in found] == [torch.empty_like(s).stride() for s in student]
    assert_close(found, expected, stored)

    weights = [1.0, 0.5, 3.0, 1.5, 0.25, 2.0, 1.0, 0.0][: len(teacher)]
    arguments = dict(level_weights=weights, reduction="mean", eps=EPS, **weighted)
    both = channels is None and [t.stride() for t in teacher] == [s.stride() for s in student]
    loss, found = ops.distillation_loss(teacher, student, weights, 0, EPS, True, *last, both)
    expected_loss = reference.distillation_loss(exact_teacher, exact_student, **arguments)
    inputs = exact_student + exact_teacher * both
    expected = torch.autograd.grad(expected_loss, inputs)
    assert [g.dtype for g in found] == [x.dtype for x in student + teacher * both]
    assert loss.dtype == out_dtype
    assert_close([loss], [expected_loss.detach()], tolerance)
    count = len(student)
    assert_close(found[:count], expected[:count], stored)
    stored = max(tolerance, *(STORED[t.dtype] for t in teacher))
    assert_close(found[count:], expected[count:], stored)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("arrangement", ["planar", "interleaved"])
@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES)
def test_shapes(kernels, shapes, arrangement, dtype):
    teacher = features(shapes, arrangement, dtype, kernels.device)
    student = features(shapes, arrangement, dtype, kernels.device)
    check_all_ops(kernels, teacher, student)


@pytest.mark.parametrize("student_arrangement", ARRANGEMENTS)
@pytest.mark.parametrize("teacher_arrangement", ARRANGEMENTS)
def test_arrangements(kernels, teacher_arrangement, student_arrangement):
    shapes = [(32, 4, 8), (7, 5, 3)]
    for dtype in (torch.float32, torch.bfloat16):
        teacher = features(shapes, teacher_arrangement, dtype, kernels.device)
        student = features(shapes, student_arrangement, dtype, kernels.device)
        check_all_ops(kernels, teacher, student)


@pytest.mark.parametrize("student_dtype", DTYPES, ids=str)
@pytest.mark.parametrize("teacher_dtype", DTYPES, ids=str)
def test_dtypes_of_teacher_and_student(kernels, teacher_dtype, student_dtype):
    shapes = [(64, 4, 4), (5, 3, 7)]
    for arrangement in ("planar", "interleaved"):
        teacher = features(shapes, "planar", teacher_dtype, kernels.device)
        student = features(shapes, arrangement, student_dtype, kernels.device)
        check_all_ops(kernels, teacher, student)


def test_dtypes_of_levels(kernels):
    shapes = [(16, 4, 4)] * 4
    for dtypes in (DTYPES, DTYPES[:3]):
        teacher, student = [], []
        for shape, dtype, other in zip(shapes, dtypes, reversed(dtypes), strict=False):
            teacher += features([shape], "planar", dtype, kernels.device)
            student += features([shape], "interleaved", other, kernels.device)
        check_all_ops(kernels, teacher, student)


@pytest.mark.parametrize("batch", [0, 1, 5])
def test_batch(kernels, batch):
    shapes = [(64, 4, 4), (6, 3, 5)]
    teacher = features(shapes, device=kernels.device, batch=batch)
    student = features(shapes, device=kernels.device, batch=batch)
    if batch:
        return check_all_ops(kernels, teacher, student)
    found = kernels.ops.distances(teacher, student, EPS)
    assert [d.shape for d in found] == [(0, 4, 4), (0, 3, 5)]
    assert kernels.ops.distances_backward(found, teacher, student, EPS)[1].shape == (0, 6, 3, 5)
    cases = ((0, [torch.nan]), (1, [0.0]), (2, [torch.nan] * 2))
    for (reduction, expected), weights in itertools.product(cases, (None, found)):
        loss, gradients = kernels.ops.distillation_loss(
            teacher, student, [1.0, 2.0], reduction, EPS, True, weights
        )
        torch.testing.assert_close(loss.cpu().reshape(-1), torch.tensor(expected), equal_nan=True)
        assert gradients[0].shape == (0, 64, 4, 4)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_reductions(kernels, reduction, weighted):
    shapes, weights = [(64, 8, 8), (7, 3, 5), (16, 4, 4)], [0.5, 2.0, 0.0]
    teacher = features(shapes, device=kernels.device)
    student = features(shapes, "interleaved", device=kernels.device)
    code = ["mean", "sum", "none"].index(reduction)
    spatial = spatial_weights(student, torch.float32) if weighted else None
    arguments = (teacher, student, weights, code, EPS)
    loss, gradients = kernels.ops.distillation_loss(*arguments, True, spatial)
    exact_student = exact(student, requires_grad=True)
    expected = reference.distillation_loss(
        exact(teacher),
        exact_student,
        level_weights=weights,
        weights=exact(spatial) if weighted else None,
        reduction=reduction,
    )
    assert_close([loss], [expected.detach()], 5e-6)
    assert_close(gradients, torch.autograd.grad(expected.sum(), exact_student), 5e-6)
    alone, none = kernels.ops.distillation_loss(*arguments, False, spatial)
    assert none == []
    assert torch.equal(alone, loss)


def test_an_image_without_weight_adds_nothing(kernels):
    shapes = [(64, 4, 4), (7, 3, 5)]
    teacher, student = (features(shapes, device=kernels.device) for _ in range(2))
    weights = [torch.ones(2, *s[1:], device=kernels.device) for s in shapes]
    for w in weights:
        w[0] = 0
    loss, gradients = kernels.ops.distillation_loss(
        teacher, student, [1.0] * 2, 0, EPS, True, weights
    )
    alone = reference.distillation_loss(*(exact([x[1:] for x in y]) for y in (teacher, student)))
    assert_close([loss], [alone / 2], 5e-6)
    assert all((g[0] == 0).all() and (g[1] != 0).any() for g in gradients)


def test_a_pixel_without_weight_takes_no_gradient_of_infinity(kernels):
    teacher, student = (features([(16, 4, 4)], device=kernels.device) for _ in range(2))
    weights = torch.ones(2, 4, 4, device=kernels.device)
    weights[:, 1] = 0
    upstream = torch.where(weights > 0, 1.0, torch.inf)
    (found,) = kernels.ops.distances_backward([upstream], teacher, student, EPS, [weights])
    assert (found[:, :, 1] == 0).all()
    assert found.isfinite().all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("arrangement", ["planar", "interleaved", "planar_misaligned"])
def test_gradient_of_few_pixels_reads_few_features(emulation, arrangement, dtype):
    shapes = [(64, 16, 16), (1030, 4, 4), (7, 3, 5)]
    teacher, student = (features(shapes, arrangement, dtype) for _ in range(2))
    exact_student = exact(student, requires_grad=True)
    expected = reference.distances(exact(teacher), exact_student)
    upstream = [torch.zeros_like(e) for e in expected]
    for u in upstream:
        u[1, 2, 1] = 3
    expected = torch.autograd.grad(expected, exact_student, upstream)
    upstream = [u.to(torch.float64 if dtype == torch.float64 else torch.float32) for u in upstream]
    found = emulation.ops.distances_backward(upstream, teacher, student, EPS)
    assert_close(found, expected, STORED[dtype])
    read = emulation.traffic["vectors_read"] + emulation.traffic["elements_read"]
    # A vector of 16 bytes holds 8 pixels at most. Features that stay in no registers come 3 times.
    channels = sum(shape[0] for shape in shapes)
    assert read < 2 * 3 * 8 * channels * student[0].element_size() + 40_000
    for t in teacher:
        t[0] = torch.nan
    again = emulation.ops.distances_backward(upstream, teacher, student, EPS)
    assert all(torch.equal(a, f) for a, f in zip(again, found, strict=True))


@pytest.mark.parametrize("wrong", [-1.0, torch.inf, torch.nan])
def test_what_is_no_weight_makes_nan(kernels, wrong):
    teacher, student = (features([(16, 4, 4)], device=kernels.device) for _ in range(2))
    weights = torch.rand(2, 4, 4, device=kernels.device)
    weights[1, 2, 3] = wrong
    (found,) = kernels.ops.distances(teacher, student, EPS, [weights])
    expected = torch.zeros(2, 4, 4, dtype=torch.bool)
    expected[1, 2, 3] = True
    assert torch.equal(found.isnan().cpu(), expected)
    for reduction in range(3):
        loss, _ = kernels.ops.distillation_loss(
            teacher, student, [1.0], reduction, EPS, False, [weights]
        )
        assert loss.isnan().all()


@pytest.mark.parametrize("arrangement", ["planar", "interleaved", "planar_misaligned"])
def test_nearly_equal_vectors_keep_relative_accuracy(kernels, arrangement):
    for scale in (1.0, 3.7):  # of the student: directions are compared, not lengths
        (teacher,) = features([(64, 8, 8)], arrangement, device=kernels.device)
        noise = 1 + 1e-4 * torch.randn_like(teacher)
        student = ARRANGEMENTS[arrangement](teacher * noise * scale)
        (found,) = kernels.ops.distances([teacher], [student], EPS)
        (expected,) = reference.distances(exact([teacher]), exact([student]))
        assert ((found.cpu() - expected).abs() / expected).max() < 1e-4
    (found,) = kernels.ops.distances([teacher], [teacher.clone()], EPS)
    assert (found == 0).all()


@pytest.mark.parametrize("arrangement", ["planar", "interleaved", "interleaved_misaligned"])
@pytest.mark.parametrize("eps", [1e-12, 1e-3, 10.0])
def test_zero_and_short_vectors(kernels, eps, arrangement):
    teacher = features([(16, 4, 4)], "planar", device=kernels.device)
    student = features([(16, 4, 4)], "planar", device=kernels.device)
    teacher[0][:, :, 0] = 0  # against a vector, and against zero below
    student[0][:, :, :, 0] = 0
    student[0][:, :, 3] *= 1e-4  # shorter than the middle eps
    teacher, student = ([ARRANGEMENTS[arrangement](x) for x in y] for y in (teacher, student))
    exact_student = exact(student, requires_grad=True)
    expected = reference.distances(exact(teacher), exact_student, eps=eps)
    found = kernels.ops.distances(teacher, student, eps)
    assert_close(found, [e.detach() for e in expected], 5e-6)
    upstream = [torch.ones_like(d) for d in found]
    found = kernels.ops.distances_backward(upstream, teacher, student, eps)
    expected = torch.autograd.grad(expected, exact_student, exact(upstream))
    clamped = exact_student[0].detach().norm(dim=1, keepdim=True) < eps
    for part in (clamped, ~clamped):  # gradients of the former are larger by 1 / eps
        assert_close([found[0].cpu() * part], [expected[0] * part], 5e-6)


def test_one_channel_has_a_sign_but_no_direction(kernels):
    for arrangement in ("planar", "interleaved", "planar_misaligned"):
        teacher, student = (
            features([(1, 4, 4)], arrangement, device=kernels.device) for _ in range(2)
        )
        (found,) = kernels.ops.distances(teacher, student, EPS)
        opposite = (teacher[0].sign() != student[0].sign())[:, 0]
        torch.testing.assert_close(found, 2.0 * opposite)
        _, (gradient,) = kernels.ops.distillation_loss(teacher, student, [1.0], 1, EPS, True)
        assert (gradient * student[0]).abs().max() < 1e-6


@pytest.mark.parametrize("arrangement", ["planar", "interleaved", "planar_misaligned"])
def test_nan_stays_where_it_is(kernels, arrangement):
    for which in (0, 1):
        pair = [features([(16, 4, 4)], "planar", device=kernels.device) for _ in range(2)]
        pair[which][0][1, 5, 2, 3] = torch.nan
        teacher, student = ([ARRANGEMENTS[arrangement](x) for x in y] for y in pair)
        (found,) = kernels.ops.distances(teacher, student, EPS)
        expected = torch.zeros(2, 4, 4, dtype=torch.bool)
        expected[1, 2, 3] = True
        assert torch.equal(found.isnan().cpu(), expected)
        loss, (gradient,) = kernels.ops.distillation_loss(teacher, student, [1.0], 0, EPS, True)
        assert loss.isnan()
        assert torch.equal(gradient.isnan().cpu(), expected[:, None].expand(2, 16, 4, 4))


def test_bits_do_not_depend_on_the_order_of_threads(kernels):
    shapes = [(64, 16, 16), (70, 5, 5), (300, 2, 3)]
    teacher = features(shapes, device=kernels.device, batch=3)
    student = features(shapes, device=kernels.device, batch=3)
    weights = spatial_weights(student, torch.float32)

    def results() -> list[torch.Tensor]:
        kernels.shuffle()
        found = []
        for spatial in (None, weights):
            found += kernels.ops.distances(teacher, student, EPS, spatial)
            loss, gradients = kernels.ops.distillation_loss(
                teacher, student, [1.0] * 3, 0, EPS, True, spatial
            )
            found += [loss, *gradients]
        return found

    first = results()
    for _ in range(3):
        assert all(torch.equal(a, b) for a, b in zip(first, results(), strict=True))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_scale_gradients(kernels, dtype):
    gradients = features([(5, 33, 40), (3, 1, 1), (64, 2, 2)], "planar", dtype, kernels.device)
    gradients[1] = ARRANGEMENTS["planar_misaligned"](gradients[1])
    before = [g.clone() for g in gradients]
    scales = torch.tensor([0.5, 1.0, -3.0], device=kernels.device)
    for scale in (scales, scales[2], scales[1].double()):
        kernels.ops.scale_gradients_(gradients, scale)
        factors = scale.expand(3)
        before = [(b.double() * f.double()).to(dtype) for b, f in zip(before, factors, strict=True)]
        assert all(torch.equal(g, b) for g, b in zip(gradients, before, strict=True))


def test_gradients_larger_than_the_grid_are_scaled_whole(kernels):
    (gradient,) = features([(64, 190, 190)], dtype=torch.float32, device=kernels.device, batch=1)
    before = gradient.clone()  # 9.2 MB: 528 blocks take 8.7 MB at a time
    kernels.ops.scale_gradients_([gradient], torch.tensor(2.0, device=kernels.device))
    assert torch.equal(gradient, 2 * before)
