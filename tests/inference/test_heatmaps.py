"""Heat maps."""

import matplotlib
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from fastad.inference import colour_scale, overlay, save_heatmap
from fastad.inference.heatmaps import INFERNO, colourise

IMAGE = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


def test_colours_are_inferno():
    values = np.linspace(0, 1, 256)
    expected = matplotlib.colormaps["inferno"](values)[:, :3] * 255
    assert np.abs(colourise(values) - expected).max() < 8
    steps = matplotlib.colormaps["inferno"](np.linspace(0, 1, len(INFERNO)))[:, :3]
    np.testing.assert_array_equal(INFERNO, np.rint(steps * 255))
    assert np.array_equal(colourise(np.array([-1.0, 2.0])), colourise(np.array([0.0, 1.0])))


def test_nothing_changes_where_the_map_is_zero():
    assert np.array_equal(overlay(IMAGE, np.zeros((5, 5)), 1.0), IMAGE)


def test_a_higher_map_is_covered_more():
    grey = np.full((4, 40, 3), 60, np.uint8)
    ramp = np.tile(np.linspace(0, 1, 40), (4, 1))
    change = np.abs(overlay(grey, ramp, 1.0).astype(int) - 60).sum(axis=2)[0]
    assert change[0] == 0
    assert change[-1] == change.max()
    clipped = overlay(grey, ramp * 50, 1.0)[0, -1]
    assert np.array_equal(clipped, overlay(grey, ramp, 1.0)[0, -1])


def test_the_scale_is_common_to_all_images():
    dim, bright = np.full((20, 30), 0.1), np.full((20, 30), 0.2)
    assert np.array_equal(overlay(IMAGE, dim, 0.1), overlay(IMAGE, bright, 0.2))
    assert not np.array_equal(overlay(IMAGE, dim, 0.2), overlay(IMAGE, bright, 0.2))
    assert colour_scale(0.25) == 0.5
    assert colour_scale(0.0) == 1.0


def test_save_writes_a_png_of_the_image_size(tmp_path):
    save_heatmap(tmp_path / "h.png", IMAGE, np.ones((4, 6), np.float32), 2.0)
    picture = Image.open(tmp_path / "h.png")
    assert picture.format == "PNG"
    assert np.array_equal(np.array(picture), overlay(IMAGE, np.ones((4, 6)), 2.0))
    assert [p.name for p in tmp_path.iterdir()] == ["h.png"]


def test_what_a_model_shows_comes_beside_the_map(tmp_path):
    image = np.full((40, 120, 3), 200, np.uint8)
    shown = {"first": np.zeros((20, 60, 3), np.uint8)}
    shown["second"] = np.full((40, 120, 3), 90, np.uint8)
    save_heatmap(tmp_path / "h.png", image, np.zeros((4, 6), np.float32), 2.0, shown)
    picture = np.array(Image.open(tmp_path / "h.png"))
    values = [int(part[0, 0, 0]) for part in (image, *shown.values(), image)]
    starts = [122 * i for i in range(4)]
    assert picture.shape[1] == 4 * 122 - 2
    for start, value in zip(starts, values, strict=True):
        panel = picture[-40:, start : start + 120]
        assert (panel == value).all()
        label = picture[:-40, start : start + 120]
        assert label.min() < 100  # there is a name above
    assert (picture[:, 120:122] == 255).all()


def test_names_have_room_beside_each_other(tmp_path):
    image = np.full((30, 20, 3), 100, np.uint8)
    save_heatmap(tmp_path / "h.png", image, np.zeros((3, 2), np.float32), 2.0, {"a name": image})
    picture = np.array(Image.open(tmp_path / "h.png")).astype(int)
    line = picture[:-30].min(axis=(0, 2)) < 128
    wide = picture.shape[1] / 3
    assert wide > 40  # "anomaly map" is longer than 20 pixels
    assert not line[round(wide) - 1 : round(wide) + 1].any()


def test_errors():
    with pytest.raises(ValueError, match=r"image must be \(H, W, 3\) uint8"):
        overlay(IMAGE[:, :, 0], np.zeros((2, 2)), 1.0)
    with pytest.raises(ValueError, match="anomaly_map must be"):
        overlay(IMAGE, np.zeros(2), 1.0)
    with pytest.raises(ValueError, match="scale must be positive"):
        overlay(IMAGE, np.zeros((2, 2)), 0.0)


@pytest.mark.parametrize("size", [(64, 48), (33, 47), (600, 520)])
def test_the_outside_of_a_region_is_darker_and_has_a_border(size, tmp_path):
    roi = np.zeros(size, dtype=bool)
    roi[size[0] // 4 :, : size[1] // 2] = True
    image = np.full((*size, 3), 100, np.uint8)
    save_heatmap(tmp_path / "a.png", image, np.zeros((16, 16)), 1.0, roi=roi)
    found = np.asarray(Image.open(tmp_path / "a.png"))
    assert (found[~roi] == 50).all()
    thick = max(1, min(size) // 256)
    border = roi & (ndimage.minimum_filter(roi, 2 * thick + 1, mode="nearest") == 0)
    assert (found[border] == 255).all()
    assert (found[roi & ~border] == 100).all()
    assert (image == 100).all()
