"""Kernels that compare flattened levels, and their gradient."""

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
FLAT = {"distance": "cosine_flat"}
REDUCTIONS = ["mean", "sum", "none"]
SHAPES = {
    "pyramid": [(64, 8, 8), (128, 8, 4), (256, 4, 4)],
    "odd": [(5, 7, 9), (33, 13, 1), (17, 1, 11)],
    "pixel": [(7, 1, 1), (64, 1, 1)],
    "wide": [(1030, 3, 5), (1024, 2, 4)],
    "long": [(3, 40, 41), (16, 24, 32)],
    "eight": [(3 + i, 1 + i, 9 - i) for i in range(8)],
}


def check(kernels, teacher, student, spatial=None, channels=None, eps=EPS):
    options = {"eps": eps, "weights": None if spatial is None else exact(spatial)}
    if channels is not None:
        options["mean"] = [x[0] for x in exact(channels)]
        options["deviation"] = [1 / x[1] for x in exact(channels)]
    exact_student = exact(student, requires_grad=True)
    expected = torch.stack(reference.flat_distances(exact(teacher), exact_student, **options))
    tolerance = computed(*teacher, *student)

    found, norms = kernels.ops.flat_distances(teacher, student, eps, spatial, channels)
    assert found.dtype == norms.dtype == (torch.float64 if tolerance < 1e-10 else torch.float32)
    assert_close([found], [expected.detach()], tolerance)

    upstream = 0.5 + torch.rand_like(
        found
    )  # a small one would leave gradients no digits in float16
    grads = kernels.ops.flat_distances_backward(
        upstream, found, norms, teacher, student, eps, spatial, channels
    )
    assert [g.dtype for g in grads] == [s.dtype for s in student]
    assert [g.stride() for g in grads] == [torch.empty_like(s).stride() for s in student]
    expected = torch.autograd.grad(expected, exact_student, exact([upstream])[0])
    assert_close(grads, expected, max(tolerance, *(STORED[s.dtype] for s in student)))


def check_loss(kernels, teacher, student, spatial=None, channels=None, reduction=0):
    """The loss, and its gradients for both where the teacher is as it is."""
    options = {"eps": EPS, "weights": None if spatial is None else exact(spatial), **FLAT}
    if channels is not None:
        options |= {"mean": [x[0] for x in exact(channels)]}
        options |= {"deviation": [1 / x[1] for x in exact(channels)]}
    both = channels is None and [t.stride() for t in teacher] == [s.stride() for s in student]
    factors = [0.5 + 0.5 * i for i in range(len(student))]
    arguments = (teacher, student, factors, reduction, EPS)
    last = (spatial, 2, channels)
    loss, grads = kernels.ops.distillation_loss(*arguments, True, *last, both)
    alone, none = kernels.ops.distillation_loss(*arguments, False, *last)
    assert torch.equal(loss, alone)
    assert none == []
    exact_student, exact_teacher = (exact(x, requires_grad=True) for x in (student, teacher))
    expected = reference.distillation_loss(
        exact_teacher,
        exact_student,
        level_weights=factors,
        reduction=REDUCTIONS[reduction],
        **options,
    )
    tolerance = computed(*teacher, *student)
    assert_close([loss], [expected.detach()], tolerance)
    inputs = [*exact_student, *(exact_teacher if both else [])]
    expected = torch.autograd.grad(expected.sum(), inputs)
    assert_close(grads, expected, max(tolerance, *(STORED[g.dtype] for g in grads)))


def check_all(kernels, teacher, student):
    double = any(x.dtype == torch.float64 for x in (*teacher, *student))
    dtype = torch.float64 if double else torch.float32
    check(kernels, teacher, student)
    spatial = random.choice([None, spatial_weights(student, dtype)])
    # Of one pixel the weight may be 0, and a distance whose vectors have no length is rounding.
    spatial = None if spatial is None else [w + 0.01 for w in spatial]
    channels = channel_statistics(student, dtype)
    check(kernels, teacher, student, spatial, channels)
    options = random.choice([(), (spatial,), (spatial, channels)])
    check_loss(kernels, teacher, student, *options, reduction=random.randrange(3))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("arrangement", ["planar", "interleaved"])
@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES)
def test_shapes(kernels, shapes, arrangement, dtype):
    teacher = features(shapes, arrangement, dtype, kernels.device)
    student = features(shapes, arrangement, dtype, kernels.device)
    check_all(kernels, teacher, student)


@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
def test_arrangements(kernels, arrangement):
    other = random.choice(list(ARRANGEMENTS))
    print(f"{other=}")
    for dtype in (torch.float32, torch.bfloat16):
        pair = [
            features([(32, 4, 8), (7, 5, 3)], a, dtype, kernels.device)
            for a in (arrangement, other)
        ]
        check_all(kernels, *pair)
        check_all(kernels, *reversed(pair))


def test_dtypes_of_teacher_and_student(kernels):
    for dtype, other in zip(DTYPES, [*DTYPES[1:], *DTYPES], strict=False):
        teacher = features([(64, 4, 4), (5, 3, 7)], "planar", dtype, kernels.device)
        student = features([(64, 4, 4), (5, 3, 7)], "interleaved", other, kernels.device)
        check_all(kernels, teacher, student)


@pytest.mark.parametrize("batch", [0, 1, 5])
def test_batch(kernels, batch):
    shapes = [(64, 4, 4), (6, 3, 5)]
    teacher, student = (features(shapes, device=kernels.device, batch=batch) for _ in range(2))
    if batch:
        return check_all(kernels, teacher, student)
    found, norms = kernels.ops.flat_distances(teacher, student, EPS)
    assert (found.shape, norms.shape) == ((2, 0), (2, 2, 0))
    grads = kernels.ops.flat_distances_backward(found, found, norms, teacher, student, EPS)
    assert [g.shape for g in grads] == [s.shape for s in student]


@pytest.mark.parametrize("eps", [1e-12, 0.1])
@pytest.mark.parametrize("which", [0, 1])
def test_levels_shorter_than_eps_and_pixels_without_length(kernels, which, eps):
    pair = [features([(16, 4, 4), (5, 7, 9)], device=kernels.device) for _ in range(2)]
    pair[which][0][0] *= 1e-3
    pair[which][1][:, :, 2:4] = 0
    pair[1 - which][1][:, :, 3:5] = 0
    check(kernels, *pair, eps=eps)


def test_an_image_without_weight_has_no_distance_and_no_gradient(kernels):
    teacher, student = (features([(16, 4, 4)], device=kernels.device) for _ in range(2))
    weights = torch.ones(2, 4, 4, device=kernels.device)
    weights[0] = 0
    found, norms = kernels.ops.flat_distances(teacher, student, EPS, [weights])
    assert found[0, 0] == 0
    grads = kernels.ops.flat_distances_backward(
        torch.ones_like(found), found, norms, teacher, student, EPS, [weights]
    )
    assert (grads[0][0] == 0).all()
    assert (grads[0][1] != 0).any()


@pytest.mark.parametrize("wrong", [-1.0, torch.inf, torch.nan])
def test_what_is_no_weight_makes_nan(kernels, wrong):
    teacher, student = (features([(16, 4, 4)], device=kernels.device) for _ in range(2))
    weights = torch.rand(2, 4, 4, device=kernels.device)
    weights[1, 2, 3] = wrong
    found, _ = kernels.ops.flat_distances(teacher, student, EPS, [weights])
    assert found.isnan().tolist() == [[False, True]]


@pytest.mark.parametrize("arrangement", ["planar", "interleaved", "planar_misaligned"])
def test_nearly_equal_levels_keep_relative_accuracy(kernels, arrangement):
    (teacher,) = features([(64, 8, 8)], arrangement, device=kernels.device)
    noise = 1 + 1e-4 * torch.randn_like(teacher)
    student = ARRANGEMENTS[arrangement](teacher * noise * 3.7)
    found, _ = kernels.ops.flat_distances([teacher], [student], EPS)
    (expected,) = reference.flat_distances(exact([teacher]), exact([student]))
    assert ((found[0].cpu() - expected).abs() / expected).max() < 1e-4
    found, _ = kernels.ops.flat_distances([teacher], [teacher.clone()], EPS)
    assert (found == 0).all()


def test_bits_do_not_depend_on_the_order_of_threads(kernels):
    shapes = [(64, 16, 16), (70, 5, 5), (300, 2, 3)]
    teacher, student = (features(shapes, device=kernels.device, batch=3) for _ in range(2))
    weights = spatial_weights(student, torch.float32)

    def results() -> list[torch.Tensor]:
        kernels.shuffle()
        found, norms = kernels.ops.flat_distances(teacher, student, EPS, weights)
        arguments = (found, found, norms, teacher, student, EPS, weights)
        return [found, norms, *kernels.ops.flat_distances_backward(*arguments)]

    first = results()
    for _ in range(3):
        assert all(torch.equal(a, b) for a, b in zip(first, results(), strict=True))


def test_a_sweep_reads_every_feature_once(emulation):
    teacher, student = (features([(64, 16, 16)], batch=4) for _ in range(2))
    bytes_of_both = sum(x.nbytes for x in (*teacher, *student))
    found, norms = emulation.ops.flat_distances(teacher, student, EPS)
    assert emulation.launches == 2
    assert emulation.traffic["vectors_read"] == bytes_of_both
    emulation.ops.flat_distances_backward(found, found, norms, teacher, student, EPS)
    assert emulation.launches == 1
    assert emulation.traffic["vectors_read"] == bytes_of_both
    assert emulation.traffic["vectors_written"] == student[0].nbytes
