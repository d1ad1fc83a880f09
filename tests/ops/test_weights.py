"""Spatial weights of distances, anomaly_map and distillation_loss."""

import math
import re

import pytest
import torch
from pyramids import COMPUTED, DTYPES, LAYOUTS, SHAPES, STORED, deviation, doubled, pyramid

from fastad import ops
from fastad.ops import reference

SIZE = (37, 50)
BATCH = 2
# Makes weights for levels of some shapes: one tensor, or one a level.
KINDS = {
    "(N, H, W)": lambda shapes: torch.rand(BATCH, 40, 23),
    "(H, W)": lambda shapes: torch.rand(31, 64),
    "small": lambda shapes: torch.rand(3, 2),
    "a level (N, H, W)": lambda shapes: [torch.rand(BATCH, h, w) for _, h, w in shapes],
    "a level (H, W)": lambda shapes: [torch.rand(h, w) for _, h, w in shapes],
    "mask": lambda shapes: torch.rand(BATCH, 40, 40) < 0.5,
}
each_kind = pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)


def cells(length: int, size: int) -> list[range]:
    """The pixels 0 to length - 1 that each of ``size`` equal cells touches."""
    return [range(i * length // size, -(-(i + 1) * length // size)) for i in range(size)]


def weights_of_level(weights, index: int, shape: tuple[int, int, int]) -> torch.Tensor:
    """(N, H_l, W_l) in float64, by the definition, pixel by pixel."""
    _, height, width = shape
    if not isinstance(weights, torch.Tensor):
        return weights[index].double().expand(BATCH, height, width)
    weights = weights.double().expand(BATCH, *weights.shape[-2:])
    rows, columns = cells(weights.shape[1], height), cells(weights.shape[2], width)
    values = [
        weights[:, r.start : r.stop, c.start : c.stop].mean(dim=(1, 2))
        for r in rows
        for c in columns
    ]
    return torch.stack(values, dim=1).view(BATCH, height, width)


def expected_of(teacher, student, weights, shapes):
    """The weighted maps, and the losses by name, in float64."""
    levels = [weights_of_level(weights, i, shape) for i, shape in enumerate(shapes)]
    maps = reference.distances(doubled(teacher), student)
    maps = [m * w for m, w in zip(maps, levels, strict=True)]
    means = [(m.sum((1, 2)) / w.sum((1, 2))).mean() for m, w in zip(maps, levels, strict=True)]
    return maps, {
        "mean": sum(means),
        "sum": sum(m.sum() for m in maps),
        "none": torch.stack(means),
    }


@each_kind
@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES)
def test_values_and_gradients(shapes, make):
    # Of two channels the gradient is a small difference, and all of it that a pixel has.
    dtype = torch.float64 if shapes == SHAPES["pixel"] else torch.float32
    layout = "contiguous"
    check_all(shapes, make(shapes), dtype, dtype, layout, layout)


@pytest.mark.parametrize("layouts", [(a, b) for a in LAYOUTS for b in LAYOUTS], ids="-".join)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("weights_dtype", DTYPES, ids=str)
def test_dtypes_and_layouts(weights_dtype, dtype, layouts):
    shapes = SHAPES["odd"]
    weights = torch.rand(BATCH, 14, 18).to(weights_dtype)
    check_all(shapes, weights, dtype, dtype, *layouts)
    check_all(shapes, [torch.rand(s[1:]).to(weights_dtype) for s in shapes], dtype, dtype, *layouts)


def check_all(shapes, weights, teacher_dtype, dtype, teacher_layout, layout):
    teacher = pyramid(shapes, BATCH, teacher_dtype, teacher_layout)
    student = pyramid(shapes, BATCH, dtype, layout, requires_grad=True)
    exact_student = doubled(student)
    computed = COMPUTED.get(dtype, 5e-6)
    maps, losses = expected_of(teacher, exact_student, weights, shapes)

    found = ops.distances(teacher, student, weights=weights)
    upstream = [torch.randn_like(m) for m in maps]
    out_dtype = torch.float64 if dtype == torch.float64 else torch.float32
    assert all(d.dtype == out_dtype for d in found)
    assert max(map(deviation, found, maps)) < computed
    grads = torch.autograd.grad(found, student, [u.to(out_dtype) for u in upstream])
    exact = torch.autograd.grad(maps, exact_student, upstream, retain_graph=True)
    assert max(map(deviation, grads, exact)) < STORED[dtype]
    assert [g.stride() for g in grads] == [s.stride() for s in student]

    for aggregate in ("product", "sum"):
        found, maximum = ops.anomaly_map(
            teacher, student, SIZE, aggregate=aggregate, weights=weights, return_maximum=True
        )
        joined = reference.aggregate_maps(maps, SIZE, aggregate=aggregate)
        assert deviation(found, joined) < 4 * computed * len(shapes)
        assert torch.equal(maximum, found.amax((1, 2)))
        upstream = torch.randn_like(joined)
        grads = torch.autograd.grad(found, student, upstream.to(out_dtype))
        exact = torch.autograd.grad(joined, exact_student, upstream, retain_graph=True)
        assert max(map(deviation, grads, exact)) < 2 * len(shapes) * STORED[dtype]

    for reduction, expected in losses.items():
        found = ops.distillation_loss(teacher, student, weights=weights, reduction=reduction)
        assert found.dtype == out_dtype
        assert deviation(found, expected) < computed
        for _ in range(2):  # the second backward computes the gradients again
            grads = torch.autograd.grad(found.sum() * 3, student, retain_graph=True)
            exact = torch.autograd.grad(expected.sum() * 3, exact_student, retain_graph=True)
            assert max(map(deviation, grads, exact)) < STORED[dtype]


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_level_weights_and_spatial_weights_multiply(reduction):
    shapes, factors = SHAPES["odd"], [0.5, 2.0, 0.0]
    teacher, student = pyramid(shapes), pyramid(shapes, requires_grad=True)
    exact_student, weights = doubled(student), torch.rand(20, 20)
    maps, _ = expected_of(teacher, exact_student, weights, shapes)
    levels = [weights_of_level(weights, i, shape) for i, shape in enumerate(shapes)]
    divisors = [w.sum() if reduction != "sum" else 1.0 for w in levels]
    expected = torch.stack(
        [f * m.sum() / d for f, m, d in zip(factors, maps, divisors, strict=True)]
    )
    found = ops.distillation_loss(
        teacher, student, level_weights=factors, weights=weights, reduction=reduction
    )
    assert deviation(found, expected if reduction == "none" else expected.sum()) < 5e-6
    upstream = torch.randn_like(found)
    grads = torch.autograd.grad(found, student, upstream)
    exact = torch.autograd.grad(expected, exact_student, upstream.double().expand(3))
    assert all(deviation(g, e) < 5e-6 for g, e in zip(grads, exact, strict=True))
    found = ops.anomaly_map(teacher, student, SIZE, level_weights=[2.0, 1.0, 0.5], weights=weights)
    expected = reference.aggregate_maps(maps, SIZE, weights=[2.0, 1.0, 0.5])
    assert deviation(found, expected) < 5e-5


@pytest.mark.parametrize(
    "sizes",
    [
        [(64, 64), (32, 32), (16, 16)],
        [(16, 16), (32, 32), (64, 64)],
        [(48, 32), (24, 16), (16, 32)],
        [(192, 64), (9, 64), (3, 1)],
        [(7, 5), (1, 1)],
    ],
    ids=str,
)
def test_levels_whose_sizes_divide_each_other_and_not(sizes):
    """A level may be averaged from another one: of a negative weight NaN stays NaN."""
    weights = torch.rand(BATCH, 192, 64)
    weights[1, 150, 3] = -1
    found = torch.ops.fastad.resize_weights(weights, *map(list, zip(*sizes, strict=True)))
    for level, size in zip(found, sizes, strict=True):
        expected = weights_of_level(torch.where(weights < 0, torch.nan, weights), 0, (1, *size))
        torch.testing.assert_close(level.double(), expected, rtol=1e-6, atol=0, equal_nan=True)
        assert level[1].isnan().any()


def test_weights_of_one_change_nothing():
    teacher, student = pyramid(SHAPES["pyramid"]), pyramid(SHAPES["pyramid"], requires_grad=True)
    for weights in (torch.ones(64, 64), torch.ones(BATCH, 7, 7), torch.ones(4, 4, dtype=bool)):
        for call in (
            lambda **w: ops.distances(teacher, student, **w)[1],
            lambda **w: ops.anomaly_map(teacher, student, SIZE, **w),
            lambda **w: ops.distillation_loss(teacher, student, **w),
        ):
            found, expected = call(weights=weights), call()
            torch.testing.assert_close(found, expected)
            grads = [torch.autograd.grad(x.sum(), student[1])[0] for x in (found, expected)]
            torch.testing.assert_close(*grads)


def test_a_share_of_a_mask():
    """A mask of 8 x 8 pixels on a level of 2 x 2: three quarters, all, none and one of 16."""
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[:3, :4] = mask[:4, 4:] = True
    mask[7, 7] = True
    teacher = [torch.tensor([1.0, 0.0]).view(1, 2, 1, 1).expand(1, 2, 2, 2).contiguous()]
    student = [-teacher[0]]  # at a distance of 2
    (found,) = ops.distances(teacher, student, weights=mask)
    torch.testing.assert_close(found, torch.tensor([[[1.5, 2.0], [0.0, 0.125]]]))
    assert ops.distillation_loss(teacher, student, weights=mask) == 2


def test_where_nothing_counts_there_is_no_loss_and_no_gradient():
    shapes = SHAPES["odd"]
    teacher, student = pyramid(shapes), pyramid(shapes, requires_grad=True)
    weights = torch.zeros(BATCH, 20, 20)
    weights[1] = 1
    maps, _ = expected_of(teacher, doubled(student), torch.ones(1, 1), shapes)
    expected = [m[1].mean() / 2 for m in maps]
    found = ops.distillation_loss(teacher, student, weights=weights, reduction="none")
    assert deviation(found, torch.stack(expected)) < 5e-6
    for grad in torch.autograd.grad(found.sum(), student):
        assert (grad[0] == 0).all()
        assert (grad[1] != 0).any()
    for reduction in ("mean", "sum", "none"):
        found = ops.distillation_loss(teacher, student, weights=0 * weights, reduction=reduction)
        assert (found == 0).all()
        assert all((g == 0).all() for g in torch.autograd.grad(found.sum(), student))


@pytest.mark.parametrize("exponent", [0.5, 1.0, 2.0])
def test_a_pixel_without_weight_has_no_gradient(exponent):
    """Even where the gradient of the map is infinite, as of a square root at 0."""
    shapes = [(5, 8, 8)]
    teacher, student = pyramid(shapes), pyramid(shapes, requires_grad=True)
    weights = torch.ones(8, 8)
    weights[:5] = 0
    for module in (ops, reference):
        found = module.anomaly_map(
            teacher, student, (16, 16), level_weights=[exponent], weights=weights
        )
        (grad,) = torch.autograd.grad(found.sum(), student)
        assert (found[:, :8] == 0).all()
        assert (grad[:, :, :5] == 0).all()
        assert grad[:, :, 5:].isfinite().all()
        assert (grad[:, :, 5:] != 0).any()


def test_numbers_are_weights_of_levels_as_before():
    teacher, student = pyramid(SHAPES["odd"]), pyramid(SHAPES["odd"])
    expected = ops.anomaly_map(teacher, student, SIZE, level_weights=[2.0, 1.0, 0.5])
    numbers = [2.0, 1.0, 0.5]
    for weights in (numbers, torch.tensor(numbers), [torch.tensor(x) for x in numbers]):
        assert torch.equal(ops.anomaly_map(teacher, student, SIZE, weights=weights), expected)
        found = reference.anomaly_map(teacher, student, SIZE, weights=weights)
        torch.testing.assert_close(found, expected)


def test_empty_batch():
    teacher, student = pyramid(SHAPES["odd"], batch=0), pyramid(SHAPES["odd"], batch=0)
    student = [s.requires_grad_() for s in student]
    for weights in (torch.rand(9, 9), torch.rand(0, 9, 9)):
        assert ops.distances(teacher, student, weights=weights)[1].shape == (0, 13, 1)
        assert ops.anomaly_map(teacher, student, SIZE, weights=weights).shape == (0, *SIZE)
        assert ops.distillation_loss(teacher, student, weights=weights).isnan()
        loss = ops.distillation_loss(teacher, student, weights=weights, reduction="sum")
        assert loss == 0
        assert torch.autograd.grad(loss, student)[0].shape == student[0].shape


X = torch.randn(2, 3, 4, 5)
W = torch.rand(4, 5)
ERRORS = [
    ("text", "abc", ValueError, "weights must have 1 tensors"),
    ("no tensor", 3, TypeError, "weights must be a tensor or a list of tensors"),
    ("a list of text", ["abc"], TypeError, "weights[0] must be a tensor"),
    ("integers", W.to(torch.uint8), TypeError, "weights must be bool, float32"),
    ("integers of a level", [W.int()], TypeError, "weights[0] must be bool, float32"),
    ("one axis", W[0], ValueError, "weights must be (N, H, W) or (H, W), not (5,) float32"),
    ("four axes", X, ValueError, "weights must be (N, H, W) or (H, W), not (2, 3, 4, 5)"),
    ("another batch", W.expand(3, 4, 5), ValueError, "not (3, 4, 5) float32; the batch is 2"),
    ("no pixel", W[:0], ValueError, "weights must be (N, H, W) or (H, W), not (0, 5) float32"),
    ("levels differ", [W, W], ValueError, "weights must have 1 tensors, one a level, not 2"),
    ("no level", [], ValueError, "weights must have 1 tensors, one a level, not 0"),
    ("another size", [W.T], ValueError, "weights[0] must be (2, 4, 5) or (4, 5), as level 0 is"),
    ("another device", W.to("meta"), ValueError, "weights is on meta, the features on cpu"),
    ("negative", W - 1, ValueError, "weights must be finite and at least 0, not from -"),
    ("NaN", W * math.nan, ValueError, "weights must be finite and at least 0, not from nan"),
    ("infinite", [W / 0], ValueError, "weights[0] must be finite and at least 0, not from inf"),
    ("requires a gradient", W.clone().requires_grad_(), ValueError, "pass weights.detach()"),
]


@pytest.mark.parametrize(
    ("weights", "error", "match"), [e[1:] for e in ERRORS], ids=[e[0] for e in ERRORS]
)
@pytest.mark.parametrize("function", ["distances", "anomaly_map", "distillation_loss"])
def test_errors(function, weights, error, match):
    options = {"weights": weights}
    if function == "anomaly_map":
        options["size"] = (8, 8)
        if not isinstance(weights, torch.Tensor) or weights.dim() == 1:
            error, match = (ValueError, TypeError), "weights"  # where numbers are taken, too
    with pytest.raises(error, match=re.escape(match)):
        getattr(ops, function)([X], [X], **options)


def test_numbers_are_given_once():
    with pytest.raises(ValueError, match="give one"):
        ops.anomaly_map([X], [X], (8, 8), level_weights=[1.0], weights=[1.0])


def test_weights_that_require_a_gradient_are_taken_where_none_is_asked_for():
    with torch.no_grad():
        ops.distances([X], [X], weights=torch.nn.Parameter(W))
