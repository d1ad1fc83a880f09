"""Statistics of images against plain numpy in float64, and what each of them tells apart."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from fastad.data.appearance import STATISTICS, appearance, log_aspects


def picture(height=64, width=96, seed=0):
    rng = np.random.default_rng(seed)
    base = rng.integers(60, 180, (height // 4 + 1, width // 4 + 1, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(base).resize((width, height), Image.Resampling.BICUBIC))


def of(array):
    tensor = torch.from_numpy(np.array(array)).permute(2, 0, 1)[None]
    return dict(zip(STATISTICS, appearance(tensor)[0].tolist(), strict=True))


def test_values_are_those_of_the_definition():
    image = picture()  # 64 rows: all of them
    grey = image.astype(np.float64).mean(axis=2) / 255
    steps = np.abs(np.diff(grey, axis=1)).mean()
    levels = np.sort(grey[::4, ::3].ravel())
    edge = int(0.02 * levels.size)
    channels = image.astype(np.float64)
    found = of(image)
    assert found["brightness"] == pytest.approx(grey.mean(), rel=1e-5)
    assert found["contrast"] == pytest.approx(grey.std(), rel=1e-4)
    sharpness = np.log((steps + 1e-3) / (grey.std() + 1e-3))
    assert found["sharpness"] == pytest.approx(sharpness, rel=1e-4)
    assert found["colour"] == pytest.approx(np.ptp(channels, axis=2).mean() / 255, rel=1e-5)
    assert found["range"] == pytest.approx(levels[-1 - edge] - levels[edge], rel=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (7, 1), (33, 65), (300, 40)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float16])
def test_odd_sizes_and_dtypes(size, dtype):
    images = torch.randint(0, 256, (5, 3, *size), generator=torch.Generator().manual_seed(0))
    images = images.to(torch.uint8)
    expected = appearance(images)
    assert expected.shape == (5, len(STATISTICS))
    assert torch.isfinite(expected).all()
    one_by_one = torch.cat([appearance(image[None]) for image in images])
    assert torch.allclose(expected, one_by_one, atol=1e-6)
    if dtype != torch.uint8:
        found = appearance((images / 255).to(dtype))
        assert torch.allclose(found, expected, atol=5e-3 if dtype == torch.float16 else 1e-5)


def test_none():
    assert appearance(torch.zeros(0, 3, 8, 8, dtype=torch.uint8)).shape == (0, len(STATISTICS))


def test_a_lamp_changes_the_brightness_and_not_the_sharpness():
    image = picture()
    darker = (image * 0.9).round().astype(np.uint8)
    before, after = of(image), of(darker)
    assert after["brightness"] == pytest.approx(0.9 * before["brightness"], rel=1e-2)
    assert after["sharpness"] == pytest.approx(before["sharpness"], abs=0.03)


def test_blur_is_less_sharp_and_as_bright():
    image = picture()
    blurred = np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(4)))
    before, after = of(image), of(blurred)
    assert after["sharpness"] < before["sharpness"] - 0.3
    assert after["brightness"] == pytest.approx(before["brightness"], abs=0.01)


def test_aspects(tmp_path):
    Image.fromarray(picture(30, 60)).save(tmp_path / "a.png")
    items = [tmp_path / "a.png", picture(40, 40), Image.fromarray(picture(60, 30)), tmp_path / "b"]
    found = log_aspects(items, 4)
    assert found[:3] == pytest.approx(np.log([2, 1, 0.5]))
    assert np.isnan(found[3])
    assert log_aspects(np.zeros((2, 8, 16, 3), np.uint8), 2) == pytest.approx(np.log([2, 2]))
    assert np.isnan(log_aspects(object(), 3)).all()
    assert np.isnan(log_aspects(items, 3)).all()  # not one for each
