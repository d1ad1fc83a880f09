"""The loss of levels that are one vector each: distance="cosine_flat"."""

import re

import pytest
import torch
from pyramids import COMPUTED, DTYPES, LAYOUTS, SHAPES, STORED, deviation, doubled, pyramid
from torch.autograd import gradcheck
from torch.nn import functional as F

from fastad import ops
from fastad.ops import reference

FLAT = {"distance": "cosine_flat"}
CASES = ["plain", "weighted", "standardised"]


def options_of(case, shapes, batch=2, dtype=torch.float32):
    if case == "weighted":
        kept = [torch.rand(h, w) < 0.8 for _, h, w in shapes]
        return {"weights": [torch.rand(batch, *k.shape).to(dtype) * k for k in kept]}
    if case == "standardised":
        return {
            "mean": [torch.randn(c, dtype=dtype) for c, _, _ in shapes],
            "deviation": [torch.rand(c, dtype=dtype) + 0.3 for c, _, _ in shapes],
        }
    return {}


def exact_options(options):
    return {k: [x.double() for x in v] for k, v in options.items()}


def by_definition(teacher, student, weights=None, mean=None, deviation=None):
    """1 - cos of each image in float64, (L, N), with no function of the reference."""
    levels = []
    for i, (t, s) in enumerate(zip(teacher, student, strict=True)):
        if mean is not None:
            t = (t - mean[i].view(1, -1, 1, 1)) / deviation[i].view(1, -1, 1, 1)
        w = torch.ones_like(t[:, 0]) if weights is None else weights[i]
        products = [(w[:, None] * a * b).sum(dim=(1, 2, 3)) for a, b in ((t, s), (t, t), (s, s))]
        distance = 1 - products[0] / (products[1] * products[2]).sqrt()
        levels.append(distance.nan_to_num(0))  # all weights may be 0
    return torch.stack(levels)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES)
def test_values_are_those_of_the_definition(shapes, case):
    teacher, student = (pyramid(shapes, dtype=torch.float64) for _ in range(2))
    options = options_of(case, shapes, dtype=torch.float64)
    expected = by_definition(teacher, student, **options)
    factors = torch.rand(len(shapes)).tolist()
    weighted = expected * torch.tensor(factors, dtype=torch.float64)[:, None]
    results = {
        "mean": weighted.mean(dim=1).sum(),
        "sum": weighted.sum(),
        "none": weighted.mean(dim=1),
        "image": weighted.sum(dim=0),
    }
    for module in (ops, reference):
        for reduction, result in results.items():
            found = module.distillation_loss(
                teacher, student, level_weights=factors, reduction=reduction, **FLAT, **options
            )
            assert deviation(found, result) < 1e-13


def test_the_loss_of_reverse_distillation():
    """As its authors' code computes it."""
    teacher, student = pyramid(SHAPES["pyramid"]), pyramid(SHAPES["pyramid"])
    expected = sum(
        torch.mean(1 - F.cosine_similarity(t.reshape(2, -1), s.reshape(2, -1)))
        for t, s in zip(teacher, student, strict=True)
    )
    torch.testing.assert_close(ops.distillation_loss(teacher, student, **FLAT), expected)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_values_and_gradients_of_both(dtype, case):
    for shapes in (SHAPES["odd"], SHAPES["blocks"]):
        for layouts in [(a, b) for a in LAYOUTS for b in LAYOUTS]:
            teacher = pyramid(shapes, dtype=dtype, layout=layouts[0], requires_grad=True)
            student = pyramid(shapes, dtype=dtype, layout=layouts[1], requires_grad=True)
            options = options_of(case, shapes)
            exact_teacher, exact_student = doubled(teacher), doubled(student)
            for reduction in ("none", "image"):
                arguments = {"reduction": reduction, **FLAT}
                found = ops.distillation_loss(teacher, student, **arguments, **options)
                expected = reference.distillation_loss(
                    exact_teacher, exact_student, **arguments, **exact_options(options)
                )
                assert found.dtype == (dtype if dtype == torch.float64 else torch.float32)
                assert deviation(found, expected) < COMPUTED.get(dtype, 5e-6)
                # Large enough for float16.
                upstream = 1000 * torch.randn_like(expected)
                grads = torch.autograd.grad(found, [*teacher, *student], upstream.to(found.dtype))
                exact = torch.autograd.grad(expected, [*exact_teacher, *exact_student], upstream)
                assert max(map(deviation, grads, exact)) < STORED[dtype]
                for g, x in zip(grads, [*teacher, *student], strict=True):
                    assert (g.dtype, g.stride()) == (dtype, x.stride())


@pytest.mark.parametrize("case", CASES)
def test_gradcheck(case):
    shapes = [(5, 4, 3), (3, 2, 2)]
    teacher, student = (pyramid(shapes, dtype=torch.float64, requires_grad=True) for _ in range(2))
    options = options_of(case, shapes, dtype=torch.float64)

    def function(*x):
        return ops.distillation_loss(list(x[:2]), list(x[2:]), reduction="none", **FLAT, **options)

    assert gradcheck(function, [*teacher, *student])


@pytest.mark.parametrize("case", CASES)
def test_without_a_kernel(case):
    """Gradients of gradients, and features that no kernel reads."""
    shapes = [(5, 4, 3), (3, 2, 2)]
    teacher = [x.transpose(2, 3) for x in pyramid([(c, w, h) for c, h, w in shapes])]
    student = pyramid(shapes, requires_grad=True)
    options = {**FLAT, **options_of(case, shapes)}
    torch.testing.assert_close(
        ops.distillation_loss(teacher, student, **options),
        reference.distillation_loss(teacher, student, **options),
    )
    teacher, results = [t.contiguous().requires_grad_() for t in teacher], []
    for module in (ops, reference):
        loss = module.distillation_loss(teacher, student, **options)
        grads = torch.autograd.grad(loss, [*teacher, *student], create_graph=True)
        results.append(torch.autograd.grad(sum(g.square().sum() for g in grads), student))
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_nearly_equal_levels_keep_their_relative_accuracy(dtype, layout):
    teacher = pyramid([(64, 40, 41), (30, 9, 7)], dtype=dtype, layout=layout)
    noise = [1 + 0.01 * torch.randn_like(t) for t in teacher]
    student = [(1.7 * t * n).to(dtype) for t, n in zip(teacher, noise, strict=True)]
    arguments = {"reduction": "none", **FLAT}
    found = ops.distillation_loss(teacher, student, **arguments)
    expected = reference.distillation_loss(doubled(teacher), doubled(student), **arguments)
    assert ((found - expected).abs() / expected).max() < 1e-4
    assert ops.distillation_loss(teacher, [t.clone() for t in teacher], **FLAT) == 0


@pytest.mark.parametrize("of_teacher", [False, True])
def test_levels_shorter_than_eps_and_pixels_without_length(of_teacher):
    shapes, arguments = [(5, 7, 9), (64, 40, 41)], {"reduction": "none", "eps": 0.1, **FLAT}
    teacher, student = (pyramid(shapes, requires_grad=True) for _ in range(2))
    short, other = (teacher, student) if of_teacher else (student, teacher)
    short[0].data[0] *= 1e-4  # an image whose norm is clamped
    short[1].data[0] = 0  # one of no length
    short[1].data[1, :, :7] = 0  # pixels of no length, whole blocks of them
    other[1].data[1, :, 5:9] = 0
    exact_teacher, exact_student = doubled(teacher), doubled(student)
    found = ops.distillation_loss(teacher, student, **arguments)
    expected = reference.distillation_loss(exact_teacher, exact_student, **arguments)
    assert deviation(found, expected) < 5e-6
    grads = torch.autograd.grad(found.sum(), [*teacher, *student])
    exact = torch.autograd.grad(expected.sum(), [*exact_teacher, *exact_student])
    assert max(map(deviation, grads, exact)) < 5e-6


def test_an_image_without_weight_has_no_loss_and_no_gradient():
    teacher, student = pyramid(SHAPES["odd"]), pyramid(SHAPES["odd"], requires_grad=True)
    weights = torch.ones(2, 13, 11)
    weights[1] = 0
    loss = ops.distillation_loss(teacher, student, weights=weights, reduction="image", **FLAT)
    assert loss[1] == 0
    for g in torch.autograd.grad(loss.sum(), student):
        assert (g[1] == 0).all()
        assert (g[0] != 0).any()


def test_nan_is_not_hidden():
    teacher, student = pyramid([(8, 4, 4)]), pyramid([(8, 4, 4)], requires_grad=True)
    student[0].data[1, 3, 1, 2] = float("nan")
    loss = ops.distillation_loss(teacher, student, reduction="image", **FLAT)
    assert loss.isnan().tolist() == [False, True]
    (grad,) = torch.autograd.grad(loss.sum(), student)
    assert grad.flatten(1).isnan().all(dim=1).tolist() == [False, True]


@pytest.mark.parametrize("of_teacher", [False, True])
def test_squares_that_are_too_large_make_a_level_of_zeros(of_teacher):
    """As of a pixel of "cosine", and of the reference: no NaN of finite features."""
    pair = pyramid(SHAPES["odd"]), pyramid(SHAPES["odd"])
    pair[of_teacher][1].mul_(1e25)
    student = [x.requires_grad_() for x in pair[1]]
    results = []
    for module in (ops, reference):
        losses = module.distillation_loss(pair[0], student, reduction="none", **FLAT)
        results.append([losses, *torch.autograd.grad(losses.sum(), student)])
    assert results[0][0][1] == 0.5
    torch.testing.assert_close(*results)


def test_empty_batch():
    teacher, student = pyramid(SHAPES["odd"], 0), pyramid(SHAPES["odd"], 0, requires_grad=True)
    assert ops.distillation_loss(teacher, student, **FLAT).isnan()
    loss = ops.distillation_loss(teacher, student, reduction="sum", **FLAT)
    assert loss == 0
    assert torch.autograd.grad(loss, student)[0].shape == student[0].shape
    assert ops.distillation_loss(teacher, student, reduction="image", **FLAT).shape == (0,)


def test_same_bytes_on_every_run_and_for_every_number_of_threads():
    teacher = pyramid(SHAPES["blocks"], batch=5)
    student = pyramid(SHAPES["blocks"], batch=5, requires_grad=True)
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            loss = ops.distillation_loss(teacher, student, **FLAT)
            results.append((loss, *torch.autograd.grad(loss, student)))
    finally:
        torch.set_num_threads(threads)
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(result, results[0], strict=True))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_gradients_that_are_written_past_the_cache(dtype, layout):
    """8 MB of them, with addresses that are no multiples of 16 bytes, and rests."""
    shapes = [(97, 111, 100), (3, 5, 7)]
    teacher, student = (pyramid(shapes, batch=3, dtype=dtype, layout=layout) for _ in range(2))
    student = [s.requires_grad_() for s in student]
    exact = doubled(student)
    for rows in (slice(0, 3), slice(0, 1)):
        pairs = ((teacher, student), (doubled(teacher), exact))
        found, expected = (
            ops.distillation_loss([t[rows] for t in a], [s[rows] for s in b], **FLAT)
            for a, b in pairs
        )
        assert deviation(found, expected) < 5e-6
        grads = torch.autograd.grad(found, student), torch.autograd.grad(expected, exact)
        assert max(map(deviation, *grads)) < STORED[dtype]


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_gradients_asked_for_again_and_for_the_teacher_alone(reduction):
    shapes, arguments = SHAPES["odd"], {"reduction": reduction, **FLAT}
    arguments["level_weights"] = [0.5 + 0.1 * i for i in range(len(shapes))]
    teacher, student = (pyramid(shapes, requires_grad=True) for _ in range(2))
    loss = ops.distillation_loss(teacher, student, **arguments).sum()
    exact = doubled(teacher), doubled(student)
    expected = torch.autograd.grad(
        reference.distillation_loss(*exact, **arguments).sum(), [*exact[0], *exact[1]]
    )
    for factor in (3, 1):
        found = torch.autograd.grad(factor * loss, [*teacher, *student], retain_graph=True)
        assert max(map(deviation, found, (factor * e for e in expected))) < 5e-6
    plain = [s.detach() for s in student]
    loss = ops.distillation_loss(teacher, plain, **arguments).sum()
    found = torch.autograd.grad(loss, teacher)
    assert max(map(deviation, found, expected)) < 5e-6


def test_compile_and_export():
    shapes = [(5, 4, 3), (3, 2, 2)]
    options = {**FLAT, **options_of("standardised", shapes)}

    class Step(torch.nn.Module):
        def forward(self, teacher, student):
            loss = ops.distillation_loss(teacher, student, reduction="image", **options)
            return loss + ops.distillation_loss(teacher, student, **FLAT)

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
            torch.autograd.grad(found.sum(), [*teacher, *student]),
            torch.autograd.grad(expected.sum(), [*teacher, *student]),
        )


X = torch.randn(2, 3, 4, 5)


@pytest.mark.parametrize("module", [ops, reference], ids=["ops", "reference"])
def test_it_has_no_map(module):
    for call in (
        lambda: module.distances([X], [X], **FLAT),
        lambda: module.anomaly_map([X], [X], (8, 8), **FLAT),
    ):
        with pytest.raises(ValueError, match="'cosine_flat' is one number for a whole level"):
            call()


def test_it_has_no_hard_pixels():
    with pytest.raises(ValueError, match="hard chooses pixels: it does not go with"):
        ops.distillation_loss([X], [X], hard=0.5, **FLAT)


def test_raw_calls_refuse_what_they_cannot_read():
    two, norms = torch.ones(1, 2), torch.ones(2, 1, 2)
    call = torch.ops.fastad.flat_distances_backward
    for first, match in (
        ((two.T, two, norms), r"grad must be (1, 2) float32"),
        ((two.double(), two, norms), r"grad must be (1, 2) float32"),
        ((two, two[:, :1], norms), r"distances must be (1, 2) float32"),
        ((two, two, norms[:1]), r"norms must be (2, 1, 2) float32"),
    ):
        with pytest.raises(RuntimeError, match=re.escape(match)):
            call(*first, [X], [X], 1e-12)
    for call in (
        lambda: torch.ops.fastad.distances([X], [X], 1e-12, None, 2),
        lambda: torch.ops.fastad.distillation_loss([X], [X], [1.0], 0, 1e-12, True, None, 3),
    ):
        with pytest.raises(RuntimeError, match=r"distance must be 0 \(cosine\)"):
            call()
    channels = [torch.ones(2, 3, requires_grad=True)]
    with pytest.raises(ValueError, match="requires a gradient, and channels get none"):
        torch.ops.fastad.flat_distances([X], [X.clone().requires_grad_()], 1e-12, None, channels)
