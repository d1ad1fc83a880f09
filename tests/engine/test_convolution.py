"""Prediction's own convolutions against float64, at sizes that tiles and panels do not divide."""

import pytest
import torch
import torch.nn.functional as F

from fastad import _extension
from fastad.engine import convolution  # also says what the ops' results look like

ops = torch.ops.fastad
pytestmark = pytest.mark.skipif(
    not _extension.cpu_convolutions, reason="this processor has no AVX2"
)


def test_shortcuts_that_skip_pixels_take_the_projection():
    for size, stride, padding, groups, taken in (
        (1, 2, 0, 1, True),
        (1, 1, 0, 1, False),
        (3, 2, 1, 1, False),
        (1, 2, 1, 1, False),
        (1, 2, 0, 2, False),
    ):
        conv = torch.nn.Conv2d(32, 64, size, stride=stride, padding=padding, groups=groups)
        assert convolution.Conv1x1Strided.suits(conv, torch.float32) is taken
        assert not convolution.Conv1x1Strided.suits(conv, torch.bfloat16)
    assert not convolution.Conv1x1Strided.suits(torch.nn.Conv2d(32, 33, 1, stride=2), torch.float32)


def drawn(*shape):
    return torch.randn(*shape).to(memory_format=torch.channels_last)


def filters_of(outputs, inputs):
    return torch.randn(outputs, inputs, 3, 3, dtype=torch.float64) / (9 * inputs) ** 0.5


def deviation(found, exact):
    return ((found - exact).square().mean().sqrt() / exact.std()).item()


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize(
    ("batch", "inputs", "outputs", "size"),
    [
        (1, 64, 64, (64, 64)),
        (2, 32, 96, (13, 9)),
        (1, 32, 32, (1, 1)),
        (3, 128, 32, (5, 30)),
        (1, 256, 256, (16, 16)),
        (1, 32, 64, (3, 70)),
    ],
)
def test_3x3_rounds_three_times_as_much_at_most(batch, inputs, outputs, size, relu):
    x, weight, bias = drawn(batch, inputs, *size), filters_of(outputs, inputs), torch.randn(outputs)
    exact = F.conv2d(x.double(), weight, bias.double(), padding=1)
    direct = F.conv2d(x, weight.float(), bias, padding=1)
    packed = ops.pack_3x3(weight)
    found = ops.convolve_3x3(x, packed, bias, relu)
    assert found.shape == exact.shape
    assert found.dtype == torch.float32
    assert found.is_contiguous(memory_format=torch.channels_last)
    if relu:
        exact, direct = exact.relu(), direct.relu()
    # One pixel sums only 4 of 9 products, whose rounding may be next to none.
    assert deviation(found, exact) < max(3 * deviation(direct, exact), 3e-7)


def test_3x3_with_a_sum():
    x, weight, bias = drawn(2, 64, 11, 18), filters_of(32, 64), torch.randn(32)
    added = drawn(2, 32, 11, 18)
    exact = F.conv2d(x.double(), weight, bias.double(), padding=1) + added.double()
    kept, packed = added.clone(memory_format=torch.preserve_format), ops.pack_3x3(weight)
    ops.convolve_3x3_add_(added, x, packed, bias, False)
    torch.testing.assert_close(added, exact.float(), rtol=1e-5, atol=1e-5)
    ops.convolve_3x3_add_(kept, x, packed, bias, True)
    torch.testing.assert_close(kept, exact.relu().float(), rtol=1e-5, atol=1e-5)


def test_3x3_does_not_depend_on_the_threads():
    packed, bias = ops.pack_3x3(filters_of(256, 32)), torch.randn(256)
    threads = torch.get_num_threads()
    for size in ((16, 16), (40, 21)):
        x = drawn(1, 32, *size)
        found = []
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            found.append(ops.convolve_3x3(x, packed, bias, True))
        torch.set_num_threads(threads)
        assert all(torch.equal(found[0], other) for other in found[1:])


def test_3x3_keeps_what_is_not_a_number_to_its_tile():
    x, packed = drawn(1, 32, 24, 24), ops.pack_3x3(filters_of(32, 32))
    x[0, 3, 10, 10] = torch.nan
    found = ops.convolve_3x3(x, packed, torch.zeros(32), True).isnan()
    assert found[0, :, 9:12, 9:12].all()
    assert not found[0, :, :4].any()
    assert not found[0, :, :, 20:].any()


def test_3x3_of_no_images():
    packed = ops.pack_3x3(filters_of(32, 32))
    assert ops.convolve_3x3(drawn(0, 32, 8, 8), packed, torch.zeros(32), True).shape == (
        0,
        32,
        8,
        8,
    )


def test_3x3_in_torch():
    x, weight, bias = drawn(1, 32, 6, 7), filters_of(64, 32), torch.randn(64)
    packed, added = ops.pack_3x3(weight), drawn(1, 64, 6, 7)
    torch.library.opcheck(ops.pack_3x3.default, (weight,))
    torch.library.opcheck(ops.convolve_3x3.default, (x, packed, bias, True))
    torch.library.opcheck(ops.convolve_3x3_add_.default, (added, x, packed, bias, True))
    for wrong in (weight.float(), weight[:, :, 1:], weight.mT):
        with pytest.raises(RuntimeError, match="weight must be"):
            ops.pack_3x3(wrong)
    for wrong in (weight[:33], weight[:, :16].contiguous()):
        with pytest.raises(RuntimeError, match="multiples of 32"):
            ops.pack_3x3(wrong)
    for wrong in (x.double(), x[0], x.contiguous()):
        with pytest.raises(RuntimeError, match="x must be"):
            ops.convolve_3x3(wrong, packed, bias, True)
    with pytest.raises(RuntimeError, match="weight must come from pack_3x3"):
        ops.convolve_3x3(drawn(1, 64, 6, 7), packed, bias, True)
    with pytest.raises(RuntimeError, match="bias must be"):
        ops.convolve_3x3(x, packed, bias[1:], True)
    for wrong in (added[:, 1:], added.contiguous(), added.double()):
        with pytest.raises(RuntimeError, match="added must be"):
            ops.convolve_3x3_add_(wrong, x, packed, bias, True)
    square = ops.pack_3x3(filters_of(32, 32))
    with pytest.raises(RuntimeError, match="added must not be x"):
        ops.convolve_3x3_add_(x, x, square, bias[:32], True)


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize(
    ("batch", "inputs", "outputs", "size"),
    [(1, 64, 128, (64, 64)), (3, 5, 32, (7, 19)), (2, 32, 96, (1, 1)), (0, 8, 32, (4, 4))],
)
def test_projection(batch, inputs, outputs, size, stride):
    x, bias = drawn(batch, inputs, *size), torch.randn(outputs)
    weight = torch.randn(outputs, inputs) / inputs**0.5
    packed = weight.view(-1, 32, inputs).mT.contiguous()
    exact = F.conv2d(x.double(), weight.double()[..., None, None], bias.double(), stride=stride)
    found = ops.conv1x1_strided(x, packed, bias, stride)
    assert found.shape == exact.shape
    assert batch == 0 or found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found, exact.float(), rtol=1e-5, atol=1e-5)


def test_projection_in_torch():
    x, packed, bias = drawn(2, 8, 5, 6), torch.randn(2, 8, 32), torch.randn(64)
    for stride in (1, 2):
        torch.library.opcheck(ops.conv1x1_strided.default, (x, packed, bias, stride))
    for wrong in (x.double(), x.contiguous(), x[0]):
        with pytest.raises(RuntimeError, match="x must be"):
            ops.conv1x1_strided(wrong, packed, bias, 2)
    for wrong in (packed[:, 1:], packed.double(), packed.mT):
        with pytest.raises(RuntimeError, match="weight must be"):
            ops.conv1x1_strided(x, wrong, bias, 2)
    with pytest.raises(RuntimeError, match="bias must be"):
        ops.conv1x1_strided(x, packed, bias[1:], 2)
    with pytest.raises(RuntimeError, match="stride must be 1 to 64; got 0"):
        ops.conv1x1_strided(x, packed, bias, 0)


@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize(
    ("batch", "filters", "size"),
    [
        (1, 64, (256, 256)),
        (2, 64, (37, 53)),
        (40, 32, (6, 5)),
        (2, 32, (64, 30)),
        (3, 96, (33, 7)),
        (1, 64, (255, 130)),
    ],
)
def test_stem(batch, filters, size, padding):
    images, bias = drawn(batch, 3, *size), torch.randn(filters)
    weight = torch.randn(filters, 3, 7, 7, dtype=torch.float64) / 12
    exact = F.conv2d(images.double(), weight, bias.double(), stride=2, padding=3).relu()
    exact = F.max_pool2d(exact, 3, 2, padding, ceil_mode=padding == 0)
    packed = ops.pack_stem(weight)
    found = ops.stem(images, packed, bias, padding, False)
    assert found.shape == exact.shape
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert deviation(found, exact) < 3e-6
    half = ops.stem(images, packed, bias, padding, True)
    assert torch.equal(half, found.bfloat16())


def test_stem_keeps_what_is_not_a_number():
    weight, bias = torch.randn(32, 3, 7, 7, dtype=torch.float64), torch.randn(32)
    for int16 in (False, True) if _extension.cpu_int16 else (False,):
        for place in ((30, 32), (31, 37), (0, 63), (17, 0)):
            images = drawn(1, 3, 64, 64)
            images[(0, 1, *place)] = torch.nan
            expected = F.conv2d(images, weight.float(), bias, stride=2, padding=3).relu()
            expected = F.max_pool2d(expected, 3, 2, 1).isnan()
            found = ops.stem(images, ops.pack_stem(weight, int16), bias, 1, False).isnan()
            assert expected.any()
            assert (found >= expected).all()
            # Winograd: it spreads through tiles of two by two results, and to the next one.
            near = F.max_pool2d(expected.float(), 5, 1, 2).bool()
            assert (found <= near).all()


def test_stem_in_torch():
    images, bias = drawn(1, 3, 21, 18), torch.randn(32)
    weight = torch.randn(32, 3, 7, 7, dtype=torch.float64)
    packed = ops.pack_stem(weight)
    torch.library.opcheck(ops.pack_stem.default, (weight,))
    for padding in (0, 1):
        torch.library.opcheck(ops.stem.default, (images, packed, bias, padding, True))
    for wrong in (weight.float(), weight[:, :1], weight.mT):
        with pytest.raises(RuntimeError, match="weight must be"):
            ops.pack_stem(wrong)
    with pytest.raises(RuntimeError, match="multiple of 32"):
        ops.pack_stem(weight[:20])
    for wrong in (images.double(), images[:, :1], images.contiguous()):
        with pytest.raises(RuntimeError, match="images must be"):
            ops.stem(wrong, packed, bias, 1, False)
    with pytest.raises(RuntimeError, match="weight must come from pack_stem"):
        ops.stem(images, weight.float(), bias, 1, False)
    with pytest.raises(RuntimeError, match="bias must be"):
        ops.stem(images, packed, bias.double(), 1, False)
    with pytest.raises(RuntimeError, match="padding must be 0 or 1; got 2"):
        ops.stem(images, packed, bias, 2, False)
    with pytest.raises(RuntimeError, match="images are too small"):
        ops.stem(drawn(1, 3, 4, 21), packed, bias, 0, False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.int16])
@pytest.mark.parametrize("added", [False, True])
@pytest.mark.parametrize(("outputs", "side", "stride"), [(40, 3, 1), (64, 3, 2), (8, 1, 1)])
def test_what_is_added_to_any_convolution(dtype, added, outputs, side, stride):
    """Filters that fill no panel and strides have no kernel that adds: the module does."""
    if not convolution.can_fuse(dtype):
        pytest.skip(f"nothing convolves in {dtype} here")
    conv = torch.nn.Conv2d(64, outputs, side, stride, padding=side // 2, bias=False)
    norm = torch.nn.BatchNorm2d(outputs).eval()
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    x = drawn(2, 64, 11, 14)
    with torch.inference_mode():
        exact = norm.double()(conv.double()(x.double()))
        shortcut = drawn(*exact.shape)
        exact = (exact + shortcut if added else exact).relu()
        ours = convolution.Convolution(conv, norm, dtype, relu=True, winograd=True)
        found = ours(x, shortcut.clone(memory_format=torch.preserve_format) if added else None)
    assert found.shape == exact.shape
    assert deviation(found, exact) < (1e-6 if dtype == torch.float32 else 1e-3)
