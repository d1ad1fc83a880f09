"""Values and gradients of every op against the reference in float64."""

import pytest
import torch
from pyramids import COMPUTED, DTYPES, LAYOUTS, SHAPES, STORED, deviation, doubled, pyramid

from fastad import ops
from fastad.ops import reference

SIZE = (37, 50)


@pytest.mark.parametrize("layouts", [(a, b) for a in LAYOUTS for b in LAYOUTS], ids="-".join)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES)
def test_forward_and_backward(shapes, dtype, layouts):
    teacher = pyramid(shapes, dtype=dtype, layout=layouts[0])
    student = pyramid(shapes, dtype=dtype, layout=layouts[1], requires_grad=True)
    exact_teacher, exact_student = doubled(teacher), doubled(student)
    computed = COMPUTED.get(dtype, 5e-6)

    found = ops.distances(teacher, student)
    expected = reference.distances(exact_teacher, exact_student)
    out_dtype = torch.float64 if dtype == torch.float64 else torch.float32
    assert all(d.dtype == out_dtype for d in found)
    assert max(map(deviation, found, expected)) < computed
    upstream = [torch.randn_like(e) for e in expected]
    grads = torch.autograd.grad(found, student, [u.to(out_dtype) for u in upstream])
    exact_grads = torch.autograd.grad(expected, exact_student, upstream)
    assert max(map(deviation, grads, exact_grads)) < STORED[dtype]
    assert all(
        g.dtype == dtype and g.stride() == s.stride() for g, s in zip(grads, student, strict=True)
    )

    found = ops.anomaly_map(teacher, student, SIZE)
    expected = reference.anomaly_map(exact_teacher, exact_student, SIZE)
    assert deviation(found, expected) < 4 * computed
    upstream = torch.randn_like(expected)
    grads = torch.autograd.grad(found, student, upstream.to(out_dtype))
    exact_grads = torch.autograd.grad(expected, exact_student, upstream)
    assert max(map(deviation, grads, exact_grads)) < 2 * STORED[dtype]

    found = ops.distillation_loss(teacher, student)
    expected = reference.distillation_loss(exact_teacher, exact_student)
    assert deviation(found, expected) < computed
    grads = torch.autograd.grad(found, student)
    exact_grads = torch.autograd.grad(expected, exact_student)
    assert max(map(deviation, grads, exact_grads)) < STORED[dtype]


@pytest.mark.parametrize("layouts", [(a, b) for a in LAYOUTS for b in LAYOUTS], ids="-".join)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("share", [0.0, 0.02, 0.05, 0.1])
def test_gradient_of_few_pixels(share, dtype, layouts):
    """Of none, of few that are gathered, and of enough that whole blocks are read."""
    shapes = [*SHAPES["blocks"], *SHAPES["odd"]]
    teacher = pyramid(shapes, dtype=dtype, layout=layouts[0])
    student = pyramid(shapes, dtype=dtype, layout=layouts[1], requires_grad=True)
    teacher = [torch.cat([t, t], dim=1)[:, : t.shape[1]] for t in teacher]  # rows do not join
    exact_student = doubled(student)
    expected = reference.distances(doubled(teacher), exact_student)
    upstream = [torch.randn_like(e) * (torch.rand_like(e) < share) for e in expected]
    found = ops.distances(teacher, student)
    grads = torch.autograd.grad(found, student, [u.to(found[0].dtype) for u in upstream])
    exact = torch.autograd.grad(expected, exact_student, upstream)
    assert max(map(deviation, grads, exact)) < STORED[dtype]
    for g, s, u in zip(grads, student, upstream, strict=True):
        assert g.stride() == s.stride()
        assert torch.equal((g != 0).any(dim=1), u != 0)


def test_a_pixel_without_upstream_gradient_has_none_whatever_it_holds():
    teacher, student = pyramid([(8, 9, 9)]), pyramid([(8, 9, 9)])
    student[0][0, 3, 1, 2] = float("nan")
    student[0].requires_grad_()
    upstream = torch.zeros(2, 9, 9)
    upstream[1, 4, 4] = 1
    (grad,) = torch.autograd.grad(ops.distances(teacher, student), student, [upstream])
    assert grad.isfinite().all()
    assert torch.equal((grad != 0).any(dim=1), upstream != 0)


def test_one_channel_has_a_sign_but_no_direction():
    teacher, student = pyramid([(1, 3, 4)]), pyramid([(1, 3, 4)], requires_grad=True)
    (found,) = ops.distances(teacher, student)
    opposite = (teacher[0].sign() != student[0].sign())[:, 0]
    torch.testing.assert_close(found, 2.0 * opposite)
    (grad,) = torch.autograd.grad(found.sum(), student)
    assert (grad * student[0]).abs().max() < 1e-6


@pytest.mark.parametrize("student_dtype", DTYPES, ids=str)
@pytest.mark.parametrize("teacher_dtype", DTYPES, ids=str)
def test_teacher_and_student_differ_in_dtype(teacher_dtype, student_dtype):
    teacher = pyramid(SHAPES["odd"], dtype=teacher_dtype)
    student = pyramid(SHAPES["odd"], dtype=student_dtype, requires_grad=True)
    exact_teacher, exact_student = doubled(teacher), doubled(student)
    loss = ops.distillation_loss(teacher, student)
    expected = reference.distillation_loss(exact_teacher, exact_student)
    assert loss.dtype == (
        torch.float64 if torch.float64 in (teacher_dtype, student_dtype) else torch.float32
    )
    assert deviation(loss, expected) < 5e-6
    grads = torch.autograd.grad(loss, student)
    exact_grads = torch.autograd.grad(expected, exact_student)
    assert max(map(deviation, grads, exact_grads)) < STORED[student_dtype]


@pytest.mark.parametrize("aggregate", ["product", "sum"])
@pytest.mark.parametrize("weights", [None, [1.0, 1.0, 2.0], [0.5, 1.0, 1.7], [0.0, 3.0, -1.0]])
@pytest.mark.parametrize("size", [(64, 64), (1, 1), (5, 129), (3, 2), (48, 7)])
def test_aggregate_maps(size, weights, aggregate):
    maps = [(torch.rand(3, *s) + 0.1).requires_grad_() for s in ((8, 8), (5, 3), (1, 16))]
    exact = doubled(maps)
    found, maximum = ops.aggregate_maps(
        maps, size, aggregate=aggregate, weights=weights, return_maximum=True
    )
    expected = reference.aggregate_maps(exact, size, aggregate=aggregate, weights=weights)
    assert deviation(found, expected) < 5e-6
    assert torch.equal(maximum, found.amax(dim=(1, 2)))
    assert not maximum.requires_grad
    upstream = torch.randn_like(expected)
    grads = torch.autograd.grad(found, maps, upstream.float())
    exact_grads = torch.autograd.grad(expected, exact, upstream)
    assert max(map(deviation, grads, exact_grads)) < 2e-5


@pytest.mark.parametrize("levels", range(1, 9))
def test_product_of_any_number_of_levels_with_zeros(levels):
    maps = [torch.rand(2, 3 + i, 4) for i in range(levels)]
    maps[0][0, 1] = 0.0
    maps = [m.requires_grad_() for m in maps]
    exact = doubled(maps)
    found, expected = ops.aggregate_maps(maps, (9, 11)), reference.aggregate_maps(exact, (9, 11))
    assert deviation(found, expected) < 5e-6
    upstream = torch.randn_like(expected)
    grads = torch.autograd.grad(found, maps, upstream.float())
    exact_grads = torch.autograd.grad(expected, exact, upstream)
    assert max(map(deviation, grads, exact_grads)) < 1e-5


def test_channel_slices_and_batch_slices_are_read_in_place():
    big = [torch.randn(6, 40, 9, 7), torch.randn(6, 40, 5, 5)]
    for layout in LAYOUTS.values():
        laid = [x.contiguous(memory_format=layout) for x in big]
        teacher = [x[::2, 3:20] for x in laid]
        student = [x[1::2, 20:37].detach().requires_grad_() for x in laid]
        assert not teacher[0].is_contiguous()
        exact_teacher, exact_student = doubled(teacher), doubled(student)
        loss = ops.distillation_loss(teacher, student)
        expected = reference.distillation_loss(exact_teacher, exact_student)
        assert deviation(loss, expected) < 5e-6
        grads = torch.autograd.grad(loss, student)
        exact_grads = torch.autograd.grad(expected, exact_student)
        assert max(map(deviation, grads, exact_grads)) < 5e-6


@pytest.mark.parametrize("layout", LAYOUTS)
def test_nearly_equal_vectors_keep_relative_accuracy(layout):
    teacher = pyramid([(64, 8, 8), (256, 4, 4)], layout=layout)
    # Scaled, so that neither the difference nor 1 - dot of raw values would do.
    student = [(1.7 * t * (1 + 1e-3 * torch.randn_like(t))).requires_grad_() for t in teacher]
    expected = reference.distances(doubled(teacher), doubled(student))
    for found, exact in zip(ops.distances(teacher, student), expected, strict=True):
        assert ((found.double() - exact).abs() / exact).max() < 1e-3  # 1 - dot has errors near 1


def test_equal_vectors_are_at_distance_zero():
    features = pyramid(SHAPES["pyramid"])
    assert all((d == 0).all() for d in ops.distances(features, [x.clone() for x in features]))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("scale", [0.0, 1e-14, 3e-13])
def test_vectors_shorter_than_eps(layout, scale):
    """Norms below eps are clamped, in the value and in the gradient, as the formula says."""
    for which in ("teacher", "student", "both"):
        teacher = pyramid([(6, 4, 5)], dtype=torch.float64, layout=layout)
        student = pyramid([(6, 4, 5)], dtype=torch.float64, layout=layout)
        if which != "student":
            teacher[0][:, :, 1] *= scale
        if which != "teacher":
            student[0][:, :, 1] *= scale
        student = [s.requires_grad_() for s in student]
        found, expected = ops.distances(teacher, student), reference.distances(teacher, student)
        assert deviation(found[0], expected[0]) < 1e-12
        grads = torch.autograd.grad(found[0].sum(), student)
        exact = torch.autograd.grad(expected[0].sum(), student)
        assert torch.isfinite(grads[0]).all()
        assert deviation(grads[0], exact[0]) < 1e-12


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_loss_reductions_and_weights(reduction):
    teacher = pyramid(SHAPES["odd"])
    student = pyramid(SHAPES["odd"], requires_grad=True)
    exact_teacher, exact_student = doubled(teacher), doubled(student)
    options = {"level_weights": [0.5, 2.0, 3.0], "reduction": reduction}
    found = ops.distillation_loss(teacher, student, **options)
    expected = reference.distillation_loss(exact_teacher, exact_student, **options)
    assert deviation(found, expected) < 5e-6
    upstream = torch.randn_like(expected)
    for _ in range(2):  # the second backward computes the gradients again
        grads = torch.autograd.grad(found, student, upstream.float(), retain_graph=True)
        exact = torch.autograd.grad(expected, exact_student, upstream, retain_graph=True)
        assert max(map(deviation, grads, exact)) < 5e-6


def test_gradients_accumulate_over_two_losses():
    teacher, student = pyramid(SHAPES["odd"]), pyramid(SHAPES["odd"], requires_grad=True)
    exact_teacher, exact_student = doubled(teacher), doubled(student)
    for module, t, s in ((ops, teacher, student), (reference, exact_teacher, exact_student)):
        (module.distillation_loss(t, s) + 3 * module.distillation_loss(t, s)).backward()
    for s, e in zip(student, exact_student, strict=True):
        assert deviation(s.grad, e.grad) < 5e-6


def test_float16_gradient_is_scaled_before_it_is_rounded():
    """A loss scale reaches the gradient before float16 loses it, as in eager PyTorch."""
    teacher = pyramid([(64, 64, 64)], batch=4, dtype=torch.float16)
    student = pyramid([(64, 64, 64)], batch=4, dtype=torch.float16, requires_grad=True)
    exact_teacher, exact_student = doubled(teacher), doubled(student)
    (grad,) = torch.autograd.grad(ops.distillation_loss(teacher, student) * 2.0**16, student)
    exact = torch.autograd.grad(
        reference.distillation_loss(exact_teacher, exact_student) * 2.0**16, exact_student
    )[0]
    assert deviation(grad, exact) < STORED[torch.float16]


def test_nan_and_infinity_are_not_hidden():
    teacher, student = pyramid([(8, 4, 4)]), pyramid([(8, 4, 4)])
    student[0][0, 3, 1, 2] = float("nan")
    teacher[0][1, 2, 0, 0] = float("inf")
    (found,) = ops.distances(teacher, student)
    (expected,) = reference.distances(teacher, student)
    assert torch.equal(found.isnan(), expected.isnan())
    maximum = ops.anomaly_map(teacher, student, (16, 16), return_maximum=True)[1]
    assert maximum.isnan().all()


def test_empty_batch():
    teacher, student = pyramid(SHAPES["odd"], batch=0), pyramid(SHAPES["odd"], batch=0)
    assert [d.shape for d in ops.distances(teacher, student)] == [(0, 7, 9), (0, 13, 1), (0, 1, 11)]
    found, maximum = ops.anomaly_map(teacher, student, (8, 8), return_maximum=True)
    assert found.shape == (0, 8, 8)
    assert maximum.shape == (0,)
    student = [s.requires_grad_() for s in student]
    assert ops.distillation_loss(teacher, student).isnan()
    loss = ops.distillation_loss(teacher, student, reduction="sum")
    assert loss == 0
    assert torch.autograd.grad(loss, student)[0].shape == student[0].shape


def test_same_bytes_on_every_run_and_for_every_number_of_threads():
    teacher = pyramid(SHAPES["blocks"], batch=5)
    student = pyramid(SHAPES["blocks"], batch=5, requires_grad=True)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 3, 2):
            torch.set_num_threads(count)
            loss = ops.distillation_loss(teacher, student)
            results.append((loss, *torch.autograd.grad(loss, student)))
            results[-1] += (ops.anomaly_map(teacher, student, (80, 77)),)
    finally:
        torch.set_num_threads(threads)
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(result, results[0], strict=True))


def test_a_level_without_weight_has_no_gradient_where_it_is_zero():
    maps = [torch.zeros(1, 2, 2), torch.rand(1, 4, 4) + 1]
    maps = [m.requires_grad_() for m in maps]
    results = [o.aggregate_maps(maps, (8, 8), weights=[0.0, 1.0]).sum() for o in (ops, reference)]
    found, expected = (torch.autograd.grad(result, maps) for result in results)
    torch.testing.assert_close(found, expected)
