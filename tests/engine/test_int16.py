"""Convolutions in 16-bit integers against float64 and bfloat16, at sizes that nothing divides."""

import pytest
import torch
import torch.nn.functional as F

from fastad import _extension
from fastad.engine import convolution  # noqa: F401 (says what the ops' results look like)

ops = torch.ops.fastad
pytestmark = pytest.mark.skipif(
    not _extension.cpu_int16, reason="this processor has no AVX-512 VNNI"
)


def drawn(*shape):
    return torch.randn(*shape).to(memory_format=torch.channels_last)


def filters_of(outputs, inputs, side=3):
    return torch.randn(outputs, inputs, side, side, dtype=torch.float64) / (side**2 * inputs) ** 0.5


def bias_of(outputs):
    return torch.randn(outputs), -outputs % 32


def error(found, exact):
    """The largest of the pixels' relative errors."""
    return ((found - exact).norm(dim=1) / exact.norm(dim=1)).max().item()


def of_bfloat16(x, weight, **geometry):
    return F.conv2d(x.bfloat16().double(), weight.bfloat16().double(), **geometry)


def convolved(x, weight, bias, stride=1, relu=False):
    filled = F.pad(bias, (0, -len(bias) % 32))
    side = weight.shape[-1]
    packed = ops.pack_int16(weight)
    return ops.convolve_int16(x, packed, filled, len(bias), side, stride, relu)


SHAPES = [
    (1, 64, 64, (32, 32)),
    (2, 32, 96, (13, 9)),
    (1, 32, 32, (1, 1)),
    (3, 128, 32, (5, 30)),
    (1, 256, 64, (16, 16)),
    (1, 160, 32, (3, 70)),
]


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize(("batch", "inputs", "outputs", "size"), SHAPES)
def test_winograd_rounds_half_as_much_as_bfloat16(batch, inputs, outputs, size, relu):
    x, weight, bias = drawn(batch, inputs, *size), filters_of(outputs, inputs), torch.randn(outputs)
    exact = F.conv2d(x.double(), weight, bias.double(), padding=1)
    half = of_bfloat16(x, weight, bias=bias.double(), padding=1)
    found = ops.convolve_3x3(x, ops.pack_3x3(weight, True), bias, relu)
    assert found.shape == exact.shape
    assert found.is_contiguous(memory_format=torch.channels_last)
    if relu:
        exact, half = exact.relu(), half.relu()
    deviations = [(y - exact).square().mean().sqrt() for y in (found, half)]
    assert deviations[0] < 0.6 * deviations[1]


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("side", [1, 3])
@pytest.mark.parametrize(
    ("batch", "inputs", "outputs", "size"), [*SHAPES, (2, 96, 40, (7, 11)), (1, 32, 8, (4, 300))]
)
def test_every_pixel_rounds_a_third_as_much_as_in_bfloat16(
    batch, inputs, outputs, size, side, stride
):
    # From pixel to pixel values may differ by any factor.
    x = drawn(batch, inputs, *size) * torch.logspace(-9, 3, size[1])
    weight = filters_of(outputs, inputs, side)
    geometry = {"stride": stride, "padding": side // 2}
    exact = F.conv2d(x.double(), weight, **geometry)
    found = convolved(x, weight, torch.zeros(outputs), stride)
    assert found.shape == exact.shape
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert error(found, exact) < max(error(of_bfloat16(x, weight, **geometry), exact) / 3, 2e-4)


def test_bias_sum_and_relu():
    x, added, bias = drawn(2, 64, 11, 18), drawn(2, 40, 11, 18), torch.randn(40)
    for side in (1, 3):
        weight = filters_of(40, 64, side)
        exact = F.conv2d(x.double(), weight, bias.double(), padding=side // 2)
        found = convolved(x, weight, bias, relu=True)
        torch.testing.assert_close(found, exact.relu().float(), rtol=1e-3, atol=3e-3)
        for relu in (False, True):
            kept = added.clone(memory_format=torch.preserve_format)
            packed, filled = ops.pack_int16(weight), F.pad(bias, (0, 24))
            ops.convolve_int16_add_(kept, x, packed, filled, side, relu)
            summed = exact + added.double()
            expected = (summed.relu() if relu else summed).float()
            torch.testing.assert_close(kept, expected, rtol=1e-3, atol=3e-3)
    weight = filters_of(96, 64)
    kept = drawn(2, 96, 11, 18)
    exact = F.conv2d(x.double(), weight, padding=1) + kept.double()
    ops.convolve_3x3_add_(kept, x, ops.pack_3x3(weight, True), torch.zeros(96), True)
    torch.testing.assert_close(kept, exact.relu().float(), rtol=1e-3, atol=6e-3)


@pytest.mark.parametrize("channels", [32, 64, 128, 256, 1024])
def test_no_sum_overflows(channels):
    """The largest sums that there can be: every input at its limit, every filter of one sign."""
    x = torch.ones(1, channels, 8, 8).to(memory_format=torch.channels_last)
    for value in (1.0, -3.0):
        for side in (1, 3):
            weight = torch.full((32, channels, side, side), value, dtype=torch.float64)
            weight[1, ::2] *= 1e-3
            exact = F.conv2d(x.double(), weight, padding=side // 2)
            assert error(convolved(x, weight, torch.zeros(32)), exact) < 1e-3
            if side == 3:
                found = ops.convolve_3x3(x, ops.pack_3x3(weight, True), torch.zeros(32), False)
                assert error(found, exact) < 2e-3


def test_what_is_not_a_number_stays_and_stays_where_it_is():
    x, weight, zeros = drawn(1, 32, 24, 24), filters_of(32, 32), torch.zeros(32)
    for value in (torch.nan, torch.inf):
        x[0, 3, 10, 10] = value
        found = ops.convolve_3x3(x, ops.pack_3x3(weight, True), zeros, True).isfinite()
        assert not found[0, :, 9:12, 9:12].any()
        assert found[0, :, :4].all()
        found = convolved(x, weight, zeros, relu=True).isfinite()
        assert not found[0, :, 9:12, 9:12].any()
        found[0, :, 9:12, 9:12] = True
        assert found.all()
    for channel in (5, 100, 200):
        one = filters_of(32, 256, 1)
        one[3, channel] = torch.nan
        found = convolved(drawn(1, 256, 4, 4), one, zeros)
        assert found[0, 3].isnan().all()
        assert found[0, :3].isfinite().all()
    weight[5] = torch.nan
    for found in (
        convolved(drawn(1, 32, 6, 6), weight, zeros),
        ops.convolve_3x3(drawn(1, 32, 6, 6), ops.pack_3x3(weight, True), zeros, False),
    ):
        assert found[0, 5].isnan().all()
        assert found[0, :5].isfinite().all()


def test_zeros_and_the_smallest_numbers():
    weight, zeros = filters_of(32, 32), torch.zeros(32)
    for value in (0.0, 1e-42, 1e-35):
        x = torch.full((1, 32, 5, 5), value).to(memory_format=torch.channels_last)
        found = ops.convolve_3x3(x, ops.pack_3x3(weight, True), zeros, False)
        for y in (found, convolved(x, weight, zeros)):
            assert y.isfinite().all()
            assert y.abs().max() <= 1e-30
    for factor in (0.0, 1e-40, 1e-310):
        for y in (
            convolved(drawn(1, 32, 5, 5), weight * factor, zeros),
            ops.convolve_3x3(drawn(1, 32, 5, 5), ops.pack_3x3(weight * factor, True), zeros, False),
        ):
            assert not y.any()


def test_threads_and_batches_change_nothing():
    weight, bias = filters_of(256, 32), torch.randn(256)
    stem, threads = (
        ops.pack_stem(torch.randn(64, 3, 7, 7, dtype=torch.float64), True),
        torch.get_num_threads(),
    )
    for size in ((16, 16), (40, 21), (150, 9)):
        x, images = drawn(3, 32, *size), drawn(3, 3, *size)
        found = []
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            packed = ops.pack_3x3(weight, True)
            found.append(
                (
                    ops.convolve_3x3(x, packed, bias, True),
                    convolved(x, weight, bias, 2),
                    ops.stem(images, stem, torch.zeros(64), 1, False),
                )
            )
            found.append(
                tuple(
                    map(
                        torch.cat,
                        zip(
                            *(
                                (
                                    ops.convolve_3x3(x[i : i + 1], packed, bias, True),
                                    convolved(x[i : i + 1], weight, bias, 2),
                                    ops.stem(images[i : i + 1], stem, torch.zeros(64), 1, False),
                                )
                                for i in range(3)
                            ),
                            strict=True,
                        ),
                    )
                )
            )
        torch.set_num_threads(threads)
        for others in found[1:]:
            assert all(map(torch.equal, found[0], others))


@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("smooth", [True, False])
@pytest.mark.parametrize(
    ("batch", "size", "most"),
    # White noise is the worst that tiles of so many points can get, and of tiny images, mostly
    # padding, what is summed is little beside a tile's largest value.
    [(8, (64, 64), 0.65), (8, (57, 31), 0.65), (8, (13, 200), 0.65), (64, (8, 5), 0.9)],
)
def test_stem(batch, size, most, smooth, padding):
    images, bias = drawn(batch, 3, *size), torch.randn(64)
    if smooth:
        images = F.avg_pool2d(images, 5, 1, 2).contiguous(memory_format=torch.channels_last)
        most = min(most, 0.5) if min(size) > 8 else most
    weight = torch.randn(64, 3, 7, 7, dtype=torch.float64) / 12

    def pooled(x):
        return F.max_pool2d(x.relu(), 3, 2, padding, ceil_mode=padding == 0)

    exact = F.conv2d(images.double(), weight, bias.double(), stride=2, padding=3)
    half = of_bfloat16(images, weight, bias=bias.double(), stride=2, padding=3)
    found = ops.stem(images, ops.pack_stem(weight, True), bias, padding, False)
    assert found.shape == pooled(exact).shape
    deviations = [(y - pooled(exact)).square().mean().sqrt() for y in (found, pooled(half))]
    assert deviations[0] < most * deviations[1]


def test_groups_are_as_convolutions_of_their_own():
    x, bias = drawn(4, 32, 9, 14), torch.randn(2, 64)
    for int16 in (False, True):
        packed = [ops.pack_3x3(filters_of(64, 32), int16) for _ in range(2)]
        both = ops.convolve_3x3(x, torch.stack(packed), bias, True)
        for part, weight, shift, of_both in zip(
            x.split(2), packed, bias, both.split(2), strict=True
        ):
            assert torch.equal(of_both, ops.convolve_3x3(part, weight, shift, True))
        images, stems = (
            drawn(3, 3, 20, 26),
            [ops.pack_stem(torch.randn(64, 3, 7, 7, dtype=torch.float64), int16) for _ in range(2)],
        )
        both = ops.stem(images, torch.stack(stems), bias, 1, False)
        for weight, shift, of_both in zip(stems, bias, both.split(3), strict=True):
            assert torch.equal(of_both, ops.stem(images, weight, shift, 1, False))
    packed = [ops.pack_int16(filters_of(64, 32, 1)) for _ in range(2)]
    both = ops.convolve_int16(x, torch.stack(packed), bias, 64, 1, 2, True)
    projections = torch.randn(2, 2, 32, 32)
    projected = ops.conv1x1_strided(x, projections, bias, 2)
    for index, part in enumerate(x.split(2)):
        found = ops.convolve_int16(part, packed[index], bias[index], 64, 1, 2, True)
        assert torch.equal(both[2 * index : 2 * index + 2], found)
        found = ops.conv1x1_strided(part, projections[index], bias[index], 2)
        assert torch.equal(projected[2 * index : 2 * index + 2], found)


def test_in_torch():
    x, weight, bias = drawn(2, 32, 6, 7), filters_of(40, 32), torch.randn(64)
    packed, added = ops.pack_int16(weight), drawn(2, 40, 6, 7)
    torch.library.opcheck(ops.pack_int16.default, (weight,))
    torch.library.opcheck(ops.convolve_int16.default, (x, packed, bias, 40, 3, 2, True))
    torch.library.opcheck(ops.convolve_int16_add_.default, (added, x, packed, bias, 3, True))
    torch.library.opcheck(ops.pack_3x3.default, (filters_of(64, 32), True))
    tiles = ops.pack_3x3(filters_of(64, 32), True)
    torch.library.opcheck(ops.convolve_3x3.default, (x, tiles, bias, True))
    torch.library.opcheck(
        ops.pack_stem.default, (torch.randn(64, 3, 7, 7, dtype=torch.float64), True)
    )
    stem = ops.pack_stem(torch.randn(64, 3, 7, 7, dtype=torch.float64), True)
    torch.library.opcheck(ops.stem.default, (drawn(1, 3, 16, 20), stem, bias, 1, True))


def test_errors():
    x, weight, bias = drawn(2, 32, 6, 7), filters_of(40, 32), torch.randn(64)
    packed, added = ops.pack_int16(weight), drawn(2, 40, 6, 7)
    for wrong in (weight.float(), filters_of(32, 32, 5), weight.mT):
        with pytest.raises(RuntimeError, match="weight must be"):
            ops.pack_int16(wrong)
    with pytest.raises(RuntimeError, match="multiple of 32 channels; got 33"):
        ops.pack_int16(filters_of(32, 33))
    for wrong in (x.double(), x[0], x.contiguous()):
        with pytest.raises(RuntimeError, match="x must be"):
            ops.convolve_int16(wrong, packed, bias, 40, 3, 1, True)
    for filters, side in ((65, 3), (40, 1)):
        with pytest.raises(RuntimeError, match="weight must come from pack_int16"):
            ops.convolve_int16(x, packed, bias, filters, side, 1, True)
    narrow = torch.zeros(2, 17 * 9 + 2, 32, dtype=torch.int16)
    with pytest.raises(RuntimeError, match="x must have a multiple of 32 channels, not 17"):
        ops.convolve_int16(drawn(1, 17, 6, 7), narrow, bias, 40, 3, 1, True)
    for side, stride in ((5, 1), (3, 0), (3, 2**40), (3, 2**63 - 1)):
        with pytest.raises(RuntimeError, match="side must be 1 or 3 and stride 1 to 64"):
            ops.convolve_int16(x, packed, bias, 40, side, stride, True)
    for filters in (0, 2**63 - 31):
        with pytest.raises(RuntimeError, match="filters must be 1 to"):
            ops.convolve_int16(x, packed, bias, filters, 3, 1, True)
    with pytest.raises(RuntimeError, match="bias must be"):
        ops.convolve_int16(x, packed, bias[:40], 40, 3, 1, True)
    for wrong in (added[:, :, 1:], added.contiguous(), added.double()):
        with pytest.raises(RuntimeError, match="added must be"):
            ops.convolve_int16_add_(wrong, x, packed, bias, 3, True)
    square = ops.pack_int16(filters_of(32, 32))
    with pytest.raises(RuntimeError, match="added must not be x"):
        ops.convolve_int16_add_(x, x, square, bias[:32], 3, True)
    three = torch.stack([packed] * 3)
    with pytest.raises(RuntimeError, match="as many images for each of 3 groups; got 2"):
        ops.convolve_int16(x, three, bias.expand(3, -1).contiguous(), 40, 3, 1, True)
    with pytest.raises(RuntimeError, match="weight must come from pack_stem"):
        ops.stem(drawn(1, 3, 16, 20), packed, bias, 1, False)
