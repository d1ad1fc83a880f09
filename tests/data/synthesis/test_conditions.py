"""Other conditions of the same product: each against an independent reference."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from fastad.data.synthesis import DISTURBANCES, Variants, disturbed, varied
from fastad.data.synthesis import conditions as module


def images(count=5, height=37, width=50, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=generator)


IMAGE = images(1)[0]


@pytest.mark.parametrize(
    ("name", "factor"),
    [("light -20 %", 0.8), ("light -10 %", 0.9), ("light +10 %", 1.1), ("light +20 %", 1.2)],
)
def test_light_is_a_factor_cut_off_at_white(name, factor):
    expected = (IMAGE.double() * factor).clamp(max=255)
    assert (disturbed(IMAGE, name).double() - expected).abs().max() <= 0.5 + 1e-4
    of_floats = disturbed(IMAGE.double() / 255, name)
    assert of_floats.dtype == torch.float64
    torch.testing.assert_close(of_floats, expected / 255, atol=1e-6, rtol=0)


@pytest.mark.parametrize("pixels", [-5, 5])
def test_a_shift_repeats_the_border(pixels):
    padded = functional.pad(IMAGE[None].double(), (5, 5, 5, 5), mode="replicate")[0]
    begin = 5 - pixels
    expected = padded[:, begin : begin + IMAGE.shape[1], begin : begin + IMAGE.shape[2]]
    assert torch.equal(disturbed(IMAGE, f"shift {pixels:+d} px").double(), expected)


def test_the_blur_is_a_gaussian_of_one_pixel():
    weights = torch.exp(-(torch.arange(-4, 5, dtype=torch.float64) ** 2) / 2)
    kernel = torch.outer(weights, weights) / weights.sum() ** 2
    padded = functional.pad(IMAGE[:, None].double(), (4, 4, 4, 4), mode="replicate")
    expected = functional.conv2d(padded, kernel[None, None])[:, 0]
    assert (disturbed(IMAGE, "mild blur").double() - expected).abs().max() <= 0.51


def test_the_noise_has_five_grey_levels_and_a_seed():
    grey = torch.full((3, 200, 200), 128, dtype=torch.uint8)
    found = disturbed(grey, "mild noise", seed=1)
    assert torch.equal(found, disturbed(grey, "mild noise", seed=1))
    assert not torch.equal(found, disturbed(grey, "mild noise", seed=2))
    assert torch.equal(found[0], found[1])  # of a grey image
    assert torch.equal(found[0], found[2])
    assert found[0].double().std() == pytest.approx(5, rel=0.02)
    coloured = disturbed(IMAGE, "mild noise").short() - IMAGE
    assert not torch.equal(coloured[0], coloured[1])


def test_an_unknown_condition_is_refused():
    with pytest.raises(ValueError, match=r"name must be one of light -20 %, .*; got 'fog'"):
        disturbed(IMAGE, "fog")


@pytest.mark.parametrize("name", DISTURBANCES)
def test_form_stays_and_the_image_itself_too(name):
    before = IMAGE.clone()
    found = disturbed(IMAGE, name)
    assert (found.dtype, found.shape) == (torch.uint8, IMAGE.shape)
    assert not torch.equal(found, IMAGE)
    assert torch.equal(IMAGE, before)


def test_moving_and_turning_are_bilinear_about_the_middle():
    pixels = IMAGE.permute(1, 2, 0).float().numpy()
    down, right, turn = 0.3, -0.7, 0.9
    height, width = pixels.shape[:2]
    angle = np.deg2rad(module.TURN * turn)
    y, x = np.mgrid[:height, :width].astype(np.float64)
    y, x = y - (height - 1) / 2, x - (width - 1) / 2
    rows = np.cos(angle) * y - np.sin(angle) * x + module.SHIFT * down
    columns = np.sin(angle) * y + np.cos(angle) * x + module.SHIFT * right
    grid = np.stack([columns / ((width - 1) / 2), rows / ((height - 1) / 2)], axis=-1)
    expected = functional.grid_sample(
        IMAGE[None].double(),
        torch.from_numpy(grid)[None],
        align_corners=True,
        padding_mode="border",
    )
    found = torch.from_numpy(module._placed(pixels, down, right, turn)).permute(2, 0, 1)
    torch.testing.assert_close(found.double(), expected[0], atol=1e-3, rtol=0)


def test_light_contrast_and_warmth_by_their_formula():
    pixels = IMAGE.permute(1, 2, 0).double().numpy()
    light, contrast, warmth = 0.4, -0.6, 0.5
    mean = pixels.mean(axis=(0, 1))
    expected = (mean + (pixels - mean) * 1.1**contrast) * 1.25**light
    expected *= np.array([1 + 0.05 * warmth, 1, 1 - 0.05 * warmth])
    found = module._lit(pixels.astype(np.float32), light, contrast, warmth)
    np.testing.assert_allclose(found, expected, atol=1e-3)


def seed_of_copies(noisy):
    """Of a copy that has noise, or else blur."""
    draws = ((seed, np.random.default_rng(seed).uniform(-1, 1, 7)[6]) for seed in range(100))
    return next(seed for seed, grain in draws if (grain > 0.2 if noisy else grain < -0.2))


@pytest.mark.parametrize("noisy", [True, False])
def test_a_grey_image_stays_grey(noisy):
    grey = IMAGE[:1].repeat(3, 1, 1)
    found = varied(grey, np.random.default_rng(seed_of_copies(noisy)))
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_without_position_nothing_moves():
    light = torch.zeros(3, 41, 41)
    light[:, 20, 20] = 0.8
    found = varied(light, np.random.default_rng(seed_of_copies(noisy=False)), position=False)
    assert found[0].argmax() == light[0].argmax()
    torch.testing.assert_close(found, found.flip(1))
    torch.testing.assert_close(found, found.flip(2))
    moved = varied(light, np.random.default_rng(seed_of_copies(noisy=False)))
    assert not torch.allclose(moved, moved.flip(1))


def test_half_of_the_copies_have_noise_and_the_others_blur():
    even = torch.full((3, 40, 40), 0.5)
    deviations = []
    for seed in range(200):
        found = 255 * varied(even, np.random.default_rng(seed), position=False)
        deviations.append(found.flatten(1).std(dim=1).max().item())
    noisy = np.array(deviations) > 1e-3  # a blur leaves an even image as it is
    assert 70 < noisy.sum() < 130
    assert np.array(deviations)[noisy].max() == pytest.approx(module.COPY_NOISE, rel=0.1)
    edge = torch.zeros(3, 40, 40)
    edge[:, :, 20:] = 0.7
    steps = []
    for seed in np.flatnonzero(~noisy).tolist():
        found = varied(edge, np.random.default_rng(seed), position=False)[0, 20].double()
        rise = found.diff().abs() / found.diff().abs().sum()
        middle = (rise * torch.arange(39)).sum()
        steps.append((rise * (torch.arange(39) - middle) ** 2).sum().sqrt().item())
    assert max(steps) == pytest.approx(module.COPY_BLUR, rel=0.15)
    assert min(steps) < 0.5


@pytest.mark.parametrize("form", ["tensor", "list", "dicts"])
def test_items_are_the_images_and_then_their_copies(form):
    source = images()
    given = {"tensor": source, "list": list(source), "dicts": [{"image": i} for i in source]}[form]
    dataset = Variants(given, torch.tensor([1, 4]), 3, seed=7)
    assert len(dataset) == 5 + 3 * 2
    assert dataset.rows().tolist() == [[1, 4], [5, 6], [7, 8], [9, 10]]
    assert all(torch.equal(dataset[i]["image"], source[i]) for i in range(5))
    assert dataset.is_fixed == (form == "tensor")
    # Of images whose light differs by a factor of three a copy is nearest to its own.
    scaled = (3 ** torch.arange(1, 6)).view(5, 1, 1, 1).to(torch.uint8).repeat(1, 3, 32, 32)
    copies = Variants(scaled, torch.tensor([1, 4]), 3)
    for row in copies.rows()[1:]:
        for own, item in zip((1, 4), row.tolist(), strict=True):
            mean = copies[item]["image"].float().mean()
            assert (scaled.float().mean((1, 2, 3)) - mean).abs().argmin() == own


def test_a_copy_depends_on_seed_number_and_index_alone():
    source = images()
    first = Variants(source, torch.tensor([1, 4]), 2, seed=7)
    other = Variants(source, torch.tensor([0, 4]), 3, seed=7)
    assert torch.equal(first[6]["image"], other[6]["image"])  # the first of image 4
    assert torch.equal(first[8]["image"], other[8]["image"])  # the second
    assert torch.equal(
        first[8]["image"], Variants(list(source), torch.tensor([4]), 2, 7)[6]["image"]
    )
    assert not torch.equal(first[6]["image"], first[8]["image"])
    assert not torch.equal(first[6]["image"], Variants(source, torch.tensor([1, 4]), 2)[6]["image"])
    assert first[6]["image"] is first[6]["image"]  # of images in memory it is drawn once
    with pytest.raises(IndexError, match="no item 9 among 9"):
        first[9]


def test_what_is_outside_a_region_changes_nothing_inside():
    inside = np.zeros(tuple(IMAGE.shape[1:]), dtype=bool)
    inside[:, :9] = True
    other = IMAGE.clone()
    other[:, :, 20:] = 255 - other[:, :, 20:]
    seed = seed_of_copies(noisy=True)
    one, two = (
        varied(image, np.random.default_rng(seed), position=False, inside=inside)
        for image in (IMAGE, other)
    )
    assert torch.equal(one[:, :, :9], two[:, :, :9])
    assert not torch.equal(one[:, :, 20:], two[:, :, 20:])
