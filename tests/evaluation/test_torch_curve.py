"""The curve from tensors where they are, against the core: on the CPU, and on a GPU if any."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from fastad.evaluation import aupimo, aupro, metrics, pixel_metrics, torch_curve

DEVICES = [
    "cpu",
    pytest.param(
        "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
    ),
]


def random_case(seed, shape, levels, density):
    rng = np.random.default_rng(seed)
    masks = rng.random(shape) < density
    masks[::3] = False
    maps = np.float32(rng.integers(-levels, levels, shape) / 7 + masks)
    return masks, maps


def same(found, expected):
    for name in ("values", "defects", "normal_above", "normal_equal"):
        column = getattr(found, name)
        assert column.dtype == getattr(expected, name).dtype
        np.testing.assert_array_equal(column, getattr(expected, name), err_msg=name)
    np.testing.assert_allclose(found.overlap, expected.overlap, rtol=1e-13)
    assert (found.normal, found.regions) == (expected.normal, expected.regions)


@pytest.mark.parametrize("on", DEVICES)
@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**31),
    shape=st.tuples(st.integers(1, 5), st.integers(1, 15), st.integers(1, 15)),
    levels=st.sampled_from([1, 4, 10**6]),
    density=st.sampled_from([0.0, 0.05, 0.5, 1.0]),
    normal_images=st.booleans(),
    dtype=st.sampled_from(["float32", "float64"]),
)
def test_the_curve_is_that_of_the_core(on, seed, shape, levels, density, normal_images, dtype):
    masks, maps = random_case(seed, shape, levels, density)
    maps = maps.astype(dtype)
    expected = metrics.pixel_curve(masks, maps, normal_images=normal_images)
    tensors = torch.from_numpy(masks).to(on), torch.from_numpy(maps).to(on)
    same(torch_curve.pixel_curve(*tensors, normal_images=normal_images), expected)


@pytest.mark.parametrize("on", DEVICES)
@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**31),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 30), st.integers(1, 30)),
    density=st.sampled_from([0.1, 0.4, 0.6, 0.95]),
)
def test_regions_are_those_of_scipy(on, seed, shape, density):
    masks = np.random.default_rng(seed).random(shape) < density
    labels = torch_curve.label_regions(torch.from_numpy(masks).to(on)).cpu().numpy()
    neighbours = np.zeros((3, 3, 3), bool)
    neighbours[1] = True
    expected, count = ndimage.label(masks, structure=neighbours)
    assert (labels[~masks] == -1).all()
    pairs = set(zip(labels[masks].tolist(), expected[masks].tolist(), strict=True))
    assert len(pairs) == len(set(labels[masks].tolist())) == count


@pytest.mark.parametrize("on", DEVICES)
def test_a_long_snake_takes_few_rounds(on, monkeypatch):
    mask = torch.ones(1, 61, 61, dtype=torch.bool)
    mask[0, 1::4, :-1] = mask[0, 3::4, 1:] = False  # 1,900 pixels one after the other
    rounds, pool = [], torch_curve.F.max_pool2d
    monkeypatch.setattr(
        torch_curve.F, "max_pool2d", lambda *a, **k: rounds.append(1) or pool(*a, **k)
    )
    labels = torch_curve.label_regions(mask.to(on))
    assert labels[mask.to(on)].unique().numel() == 1
    assert len(rounds) < 100


@pytest.mark.parametrize("on", DEVICES)
def test_zeros_of_both_signs_are_one_value(on):
    masks = torch.tensor([[[True, True, False, False]]], device=on)
    maps = torch.tensor([[[-0.0, 0.0, -0.0, 1.0]]], device=on)
    same(torch_curve.pixel_curve(masks, maps), metrics.pixel_curve(masks.cpu(), maps.cpu()))


@pytest.mark.parametrize("on", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_compared_as_float32(on, dtype):
    masks, maps = map(torch.from_numpy, random_case(0, (4, 9, 8), 50, 0.2))
    maps = maps.to(dtype)
    found = torch_curve.pixel_curve(masks.to(on), maps.to(on))
    same(found, metrics.pixel_curve(masks, maps.float()))


@pytest.mark.parametrize("on", DEVICES)
def test_image_means(on):
    masks, maps = random_case(1, (6, 9, 8), 50, 0.2)
    limits = (0.02, 0.3)
    curve = metrics.pixel_curve(masks, maps, normal_images=True)
    tensors = torch_curve.checked_pixels(
        torch.from_numpy(masks).to(on), torch.from_numpy(maps).to(on)
    )
    found = torch_curve.image_means(*tensors, curve.values, curve.log_shares(limits))
    np.testing.assert_allclose(found, aupimo(masks, maps, fpr_range=limits), atol=1e-12)
    assert np.isnan(found[::3]).all()


@pytest.mark.parametrize("on", DEVICES)
def test_errors_name_what_is_wrong(on):
    masks, maps = torch.zeros(2, 4, 4, dtype=torch.bool, device=on), torch.zeros(2, 4, 4, device=on)
    with pytest.raises(ValueError, match=r"\(2, 4, 4\) and \(2, 4, 5\)"):
        torch_curve.pixel_curve(masks, torch.zeros(2, 4, 5, device=on))
    with pytest.raises(ValueError, match="not empty"):
        torch_curve.pixel_curve(masks[:0], maps[:0])
    with pytest.raises(ValueError, match=r"masks must be bool, got torch\.uint8"):
        torch_curve.pixel_curve(masks.byte(), maps)
    with pytest.raises(ValueError, match=r"maps must be floating point, got torch\.int64"):
        torch_curve.pixel_curve(masks, maps.long())
    maps[1, 2, 3] = torch.nan
    with pytest.raises(ValueError, match="maps must be finite, but 1 of 32"):
        torch_curve.pixel_curve(masks, maps)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_public_functions_measure_where_the_maps_are():
    masks, maps = random_case(2, (6, 40, 50), 10**6, 0.1)
    on_gpu = torch.from_numpy(maps).cuda()
    assert pixel_metrics(torch.from_numpy(masks).cuda(), on_gpu) == pytest.approx(
        pixel_metrics(masks, maps), abs=1e-12
    )
    assert aupro(masks, on_gpu) == pytest.approx(aupro(masks, maps), abs=1e-12)
    limits = {"fpr_range": (0.01, 0.1)}
    np.testing.assert_allclose(aupimo(masks, on_gpu, **limits), aupimo(masks, maps, **limits))
