"""PRN's network against its definition in float64, written out position by position."""

import math

import pytest
import torch
from torch.nn import functional

from fastad.models.prn.network import Decoder, Depthwise, Fusion, PatchAttention, resized


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def attended(x, factors, parts):
    """One image (C, H, W): every patch becomes the mean of all, weighted by the softmax."""
    channels, height, width = x.shape
    h, w = math.ceil(height / parts), math.ceil(width / parts)
    rows, columns = math.ceil(height / h), math.ceil(width / w)
    whole = x.new_zeros(channels, rows * h, columns * w)
    whole[:, :height, :width] = x
    places = [
        (slice(None), slice(r * h, r * h + h), slice(c * w, c * w + w))
        for r in range(rows)
        for c in range(columns)
    ]
    tokens = [whole[place] for place in places]
    result = torch.empty_like(whole)
    for place, own in zip(places, tokens, strict=True):
        alike = torch.stack([(own * factors[:, None, None] * other).sum() for other in tokens])
        weights = (alike / math.sqrt(own.numel())).softmax(0)
        result[place] = sum(weight * other for weight, other in zip(weights, tokens, strict=True))
    return result[:, :height, :width]


@pytest.mark.parametrize("size", [(16, 16), (9, 14), (3, 5), (1, 1)])
def test_patches_attend_to_each_other(size):
    torch.manual_seed(0)
    module = PatchAttention(6).double().eval()
    x = random(2, 6, *size)
    kinds = [x]
    for parts in (2, 4, 8):
        kinds.append(torch.stack([attended(image, module.factors, parts) for image in x]))
    joined = module.join(torch.cat(kinds, dim=1))
    expected = (x + module.merge.bn(module.merge.conv(joined))).relu()
    for layout in (torch.contiguous_format, torch.channels_last):
        found = module(x.clone(memory_format=layout))
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_the_scale_is_that_of_the_square_root():
    """With 1 / d, as public code has it, the weights of many numbers are all the same."""
    module = PatchAttention(8).double()
    x = random(1, 8, 16, 16)
    torch.nn.init.ones_(module.factors)
    near = attended(x[0], module.factors, 2)
    d = 8 * 8 * 8
    tokens = x[0].unflatten(2, (2, 8)).unflatten(1, (2, 8)).permute(1, 3, 0, 2, 4).reshape(4, d)
    uniform = (tokens @ tokens.T / d).softmax(-1)
    assert uniform.diag().max() < 0.6
    assert (tokens @ tokens.T / math.sqrt(d)).softmax(-1).diag().min() > 0.99
    torch.testing.assert_close(near, x[0], rtol=0, atol=0.05)


def test_fusion_adds_what_all_scales_see():
    torch.manual_seed(0)
    channels = (4, 8, 16)
    module = Fusion(channels).double().eval()
    levels = [
        random(2, c, *s, seed=c) for c, s in zip(channels, ((12, 20), (6, 10), (3, 5)), strict=True)
    ]
    found = module(levels)
    for target, own in enumerate(levels):
        total = own.clone()
        for source, other in enumerate(levels):
            path = module.paths[target][source]
            if source > target:  # upsampled first, as the definition says
                up = functional.interpolate(other, own.shape[-2:], mode="bilinear")
                total += functional.conv2d(up, path.weight)
            elif source < target:
                stride = 2 ** (target - source)
                assert path[0].kernel_size == ({2: 3, 4: 5}[stride],) * 2
                assert path[0].groups == other.shape[1]
                total += path(other)
        expected = module.norms[target](total).relu()
        torch.testing.assert_close(found[target], expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("size", [(16, 16), (13, 9), (1, 3)])
def test_odd_sizes_come_back(size):
    torch.manual_seed(0)
    channels = (4, 8, 16)
    sizes = [size]
    for _ in range(3):
        sizes.append(tuple((n + 1) // 2 for n in sizes[-1]))
    levels = [random(2, c, *s) for c, s in zip(channels, sizes, strict=False)]
    fused = Fusion(channels).double().eval()(levels)
    assert [x.shape for x in fused] == [x.shape for x in levels]
    logits = Decoder(10, channels, channels).double().eval()(random(2, 10, *sizes[-1]), fused)
    assert logits.shape == (2, *size)


def test_resizing_is_bilinear_and_differentiable():
    x = random(2, 3, 4, 5).requires_grad_()
    expected = functional.interpolate(x, (9, 7), mode="bilinear")
    torch.testing.assert_close(resized(x, (9, 7)), expected)
    assert resized(x, (4, 5)) is x
    assert resized(x.bfloat16(), (9, 7)).dtype == torch.bfloat16
    torch.autograd.gradcheck(lambda x: resized(x, (9, 7)), x)


def test_depthwise_convolutions_are_float32_under_autocast():
    conv, x = Depthwise(4, 4, 5, 4, 2, groups=4), torch.randn(2, 4, 12, 9)
    expected = conv(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(conv(x), expected)
        assert conv(x.bfloat16()).dtype == torch.float32
