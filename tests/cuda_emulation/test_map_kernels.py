"""Kernels that upsample and join maps, their gradients, and the whole anomaly map."""

import itertools

import pytest
import torch
from arrangements import assert_close, computed, exact, features, spatial_weights

from fastad.ops import reference

EPS = 1e-12
# Sizes of the levels, and of the map.
SIZES = {
    "pyramid": ([(16, 16), (8, 8), (4, 4)], (64, 64)),
    "odd": ([(7, 9), (3, 5)], (31, 29)),
    "wide": ([(3, 40), (5, 7)], (9, 300)),
    "down": ([(33, 47), (64, 20)], (6, 10)),
    "mixed": ([(33, 4), (5, 150)], (12, 37)),
    "same": ([(5, 6), (1, 1)], (5, 6)),
    "pixel": ([(4, 4), (1, 1)], (1, 1)),
    "one": ([(9, 11)], (20, 20)),
    "gaps": ([(3, 700), (40, 2)], (7, 260)),
    "far": ([(1, 1), (2, 3)], (3, 520)),
    "eight": ([(2 + i, 9 - i) for i in range(8)], (17, 19)),
}
WEIGHTS = [1.0, 0.5, 2.0, 1.0, 1.7, 1.0, 3.0, 0.25]


def upsample_and_join(maps, size, product, weights, corners=False):
    aggregate = "product" if product else "sum"
    return reference.aggregate_maps(
        maps, size, aggregate=aggregate, weights=weights, align_corners=corners
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("corners", [False, True])
@pytest.mark.parametrize("mode", ["product", "powers", "sum"])
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_aggregate_maps_and_backward(kernels, sizes, mode, corners, dtype):
    levels, size = sizes
    product = mode != "sum"
    weights = [1.0] * len(levels) if mode == "product" else WEIGHTS[: len(levels)]
    maps = [(torch.rand(3, *s) + 0.2).to(kernels.device, dtype) for s in levels]
    exact_maps = exact(maps, requires_grad=True)
    expected = upsample_and_join(exact_maps, size, product, weights, corners)

    found, maximum = kernels.ops.aggregate_maps(maps, *size, product, weights, corners)
    assert found.dtype == maximum.dtype == dtype
    assert torch.equal(maximum, found.amax(dim=(1, 2)))
    # Source coordinates are float32 too: a weight is as exact as its distance from zero allows.
    tolerance = 1e-12 if dtype == torch.float64 else 2e-7 * max(max(s) for s in [*levels, (50,)])
    assert_close([found], [expected.detach()], tolerance)

    upstream = torch.randn_like(found)
    grads = kernels.ops.aggregate_maps_backward(upstream, maps, product, weights, corners)
    expected = torch.autograd.grad(expected, exact_maps, exact([upstream])[0])
    assert [g.dtype for g in grads] == [dtype] * len(maps)
    assert_close(grads, expected, tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("corners", [False, True])
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_stack_and_backward(kernels, sizes, corners, dtype):
    levels, size = sizes
    maps = [torch.randn(3, *s).to(kernels.device, dtype) for s in levels]
    exact_maps = exact(maps, requires_grad=True)
    expected = reference.aggregate_maps(exact_maps, size, aggregate="stack", align_corners=corners)
    tolerance = 1e-12 if dtype == torch.float64 else 2e-7 * max(max(s) for s in [*levels, (50,)])
    found = kernels.ops.stack_maps(maps, *size, corners)
    assert_close([found], [expected.detach()], tolerance)
    upstream = torch.randn_like(found)
    grads = kernels.ops.stack_maps_backward(upstream, maps, corners)
    assert_close(grads, torch.autograd.grad(expected, exact_maps, exact([upstream])[0]), tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    ("size", "sigma"),
    [
        ((40, 70), 4.0),
        ((5, 150), 0.5),
        ((17, 128), 1e-3),
        ((18, 20), 60.0),  # in float64 a row at a time
        pytest.param((1, 9), 300.0, marks=pytest.mark.slow),
        ((37, 1), 1.5),
        ((1, 1), 4.0),
    ],
    ids=str,
)
def test_smoothing_and_backward(kernels, size, sigma, dtype):
    maps = [(torch.rand(2, *s) + 0.2).to(kernels.device, dtype) for s in ((8, 9), (3, 5))]
    exact_maps = exact(maps, requires_grad=True)
    expected = reference.aggregate_maps(exact_maps, size, smoothing=sigma)
    found, maximum = kernels.ops.aggregate_maps(maps, *size, True, [1.0, 1.0], False, None, sigma)
    assert found.dtype == maximum.dtype == dtype
    assert torch.equal(maximum, found.amax(dim=(1, 2)))
    tolerance = 1e-12 if dtype == torch.float64 else 2e-7 * max(*size, 50)
    assert_close([found], [expected.detach()], tolerance)
    upstream = torch.randn_like(found)
    grads = kernels.ops.aggregate_maps_backward(upstream, maps, True, [1.0, 1.0], False, sigma)
    assert_close(grads, torch.autograd.grad(expected, exact_maps, exact([upstream])[0]), tolerance)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("computed", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_maps_and_gradients_in_half_precision(kernels, sizes, computed, dtype):
    """The same numbers, rounded, and the gradient of what was rounded."""
    levels, size = sizes
    maps = [(torch.rand(3, *s) + 0.2).to(kernels.device, computed) for s in levels]
    for product, weights in ((True, WEIGHTS), (False, [1.0] * 8)):
        last = (product, weights[: len(maps)], False)
        exact_map, exact_maximum = kernels.ops.aggregate_maps(maps, *size, *last)
        found, maximum = kernels.ops.aggregate_maps(maps, *size, *last, dtype)
        assert torch.equal(found, exact_map.to(dtype))
        assert torch.equal(maximum, exact_maximum)
        upstream = torch.randn_like(found)
        grads, expected = (
            kernels.ops.aggregate_maps_backward(u, maps, *last)
            for u in (upstream, upstream.to(computed))
        )
        assert all(torch.equal(g, e) for g, e in zip(grads, expected, strict=True))
    stack = kernels.ops.stack_maps(maps, *size, False, dtype)
    assert torch.equal(stack, kernels.ops.stack_maps(maps, *size).to(dtype))
    upstream = torch.randn_like(stack)
    grads, expected = (
        kernels.ops.stack_maps_backward(u, maps) for u in (upstream, upstream.to(computed))
    )
    assert all(torch.equal(g, e) for g, e in zip(grads, expected, strict=True))


def test_half_precision_is_half_of_the_bytes(emulation):
    maps = [torch.rand(2, n, n) for n in (16, 8)]
    written = []
    for dtype in (None, torch.float16):
        emulation.ops.aggregate_maps(maps, 64, 64, True, [1.0, 1.0], False, dtype)
        assert emulation.launches == 1
        kinds = emulation.traffic
        written.append(kinds["vectors_written"] + kinds["elements_written"])
    # Beside the map the maxima are written, by as many warps both times.
    assert written[0] - written[1] == 2 * 2 * 64 * 64


def test_anomaly_map_in_half_precision(kernels):
    teacher, student = (features([(64, 8, 8)], device=kernels.device) for _ in range(2))
    first = (teacher, student, 30, 20, True, [1.0], EPS, None, 0, None, False)
    exact_map, exact_maximum, _ = kernels.ops.anomaly_map(*first)
    found, maximum, _ = kernels.ops.anomaly_map(*first, torch.bfloat16)
    assert torch.equal(found, exact_map.to(torch.bfloat16))
    assert torch.equal(maximum, exact_maximum)


@pytest.mark.parametrize("weights", [[0.0, 2.0], [-1.0, 1.0], [1.0, 0.0]])
@pytest.mark.parametrize("product", [True, False])
def test_unusual_weights(kernels, product, weights):
    maps = [(torch.rand(2, *s) + 0.2).to(kernels.device) for s in ((5, 4), (2, 3))]
    exact_maps = exact(maps, requires_grad=True)
    expected = upsample_and_join(exact_maps, (10, 12), product, weights)
    found, _ = kernels.ops.aggregate_maps(maps, 10, 12, product, weights)
    assert_close([found], [expected.detach()], 1e-5)
    upstream = torch.ones_like(found)
    grads = kernels.ops.aggregate_maps_backward(upstream, maps, product, weights)
    expected = torch.autograd.grad(expected.sum(), exact_maps)
    assert_close(grads, expected, 1e-5)


def test_zeros_have_the_gradient_of_the_other_levels(kernels):
    maps = [torch.zeros(1, 2, 2), torch.rand(1, 4, 4) + 1, torch.rand(1, 3, 3) + 1]
    maps = [m.to(kernels.device) for m in maps]
    exact_maps = exact(maps, requires_grad=True)
    expected = upsample_and_join(exact_maps, (8, 8), True, [1.0] * 3).sum()
    upstream = torch.ones(1, 8, 8, device=kernels.device)
    grads = kernels.ops.aggregate_maps_backward(upstream, maps, True, [1.0] * 3)
    assert_close(grads, torch.autograd.grad(expected, exact_maps), 1e-5)


def test_a_level_without_weight_has_no_gradient_where_it_is_zero(kernels):
    maps = [torch.zeros(1, 2, 2), torch.rand(1, 4, 4) + 1]
    maps = [m.to(kernels.device) for m in maps]
    upstream = torch.ones(1, 8, 8, device=kernels.device)
    grads = kernels.ops.aggregate_maps_backward(upstream, maps, True, [0.0, 1.0])
    exact_maps = exact(maps, requires_grad=True)
    expected = upsample_and_join(exact_maps, (8, 8), True, [0.0, 1.0]).sum()
    assert_close(grads, torch.autograd.grad(expected, exact_maps), 1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_maximum(kernels, dtype):
    maps = torch.randn(7, 6, 150)
    maps[1] = -1 - torch.rand(6, 150)  # all negative
    maps[2] = -1e38
    maps[3, 2, 3] = torch.nan
    maps[4, 5, 149] = 1e38
    maps[5] = 0.0
    maps[6] = -0.0
    maps[6, 3, 140] = -torch.nan
    maps = maps.to(kernels.device, dtype)
    kernels.shuffle()
    found, maximum = kernels.ops.aggregate_maps([maps], 6, 150, False, [1.0])
    expected = found.amax(dim=(1, 2))
    torch.testing.assert_close(maximum, expected, rtol=0, atol=0, equal_nan=True)
    assert maximum.isnan().tolist() == [False] * 3 + [True] + [False] * 2 + [True]


def test_empty_batch(kernels):
    maps = [torch.empty(0, n, n, device=kernels.device) for n in (4, 2)]
    found, maximum = kernels.ops.aggregate_maps(maps, 8, 9, True, [1.0, 1.0])
    assert found.shape == (0, 8, 9)
    assert maximum.shape == (0,)
    grads = kernels.ops.aggregate_maps_backward(found, maps, True, [1.0, 1.0])
    assert [g.shape for g in grads] == [(0, 4, 4), (0, 2, 2)]
    found = kernels.ops.stack_maps(maps, 8, 9)
    assert found.shape == (0, 2, 8, 9)
    grads = kernels.ops.stack_maps_backward(found, maps)
    assert [g.shape for g in grads] == [(0, 4, 4), (0, 2, 2)]


@pytest.mark.parametrize("batch", [0, 1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_anomaly_map(kernels, dtype, batch):
    shapes, size, weights = [(64, 8, 8), (128, 4, 4), (9, 3, 5)], (37, 52), [1.0, 0.5, 1.0]
    teacher = features(shapes, "planar", dtype, kernels.device, batch)
    student = features(shapes, "interleaved", dtype, kernels.device, batch)
    out_dtype = torch.float64 if dtype == torch.float64 else torch.float32
    # Above 0: near it the power 0.5 makes a rounding large.
    above_0 = [w + 0.1 for w in spatial_weights(student, out_dtype)]
    for product, spatial in itertools.product((True, False), (None, above_0)):
        found, maximum, maps = kernels.ops.anomaly_map(
            teacher, student, *size, product, weights, EPS, spatial
        )
        expected_maps = reference.distances(
            exact(teacher), exact(student), weights=exact(spatial) if spatial else None
        )
        expected = upsample_and_join(expected_maps, size, product, weights)
        assert_close(maps, expected_maps, computed(*student))
        assert_close([found], [expected], 4 * computed(*student))
        assert maximum.shape == (batch,)
        assert batch == 0 or torch.equal(maximum, found.amax(dim=(1, 2)))


def test_bits_do_not_depend_on_the_order_of_threads(kernels):
    maps = [torch.rand(3, n, n, device=kernels.device) for n in (20, 7)]
    upstream = torch.randn(3, 50, 141, device=kernels.device)

    def results() -> list[torch.Tensor]:
        kernels.shuffle()
        options = (True, [1.0, 2.0], False)
        joined = kernels.ops.aggregate_maps(maps, 50, 141, *options, None, 2.0)
        return [*joined, *kernels.ops.aggregate_maps_backward(upstream, maps, *options, 2.0)]

    first = results()
    for _ in range(3):
        assert all(torch.equal(a, b) for a, b in zip(first, results(), strict=True))
