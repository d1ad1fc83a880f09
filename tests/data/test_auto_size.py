"""The image size that keeps the aspect ratio of the images."""

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from fastad.data import ImageError, auto_size, parse_size


def put(path, height, width, **options):
    Image.fromarray(np.zeros((height, width, 3), np.uint8)).save(path, **options)
    return path


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (100, 100, (256, 256)),
        (100, 103, (256, 256)),
        (200, 100, (512, 256)),
        (100, 200, (256, 512)),
        (100, 150, (256, 384)),
        (100, 108, (256, 288)),
        (9, 900, (256, 1024)),
        (900, 9, (1024, 256)),
        (1, 1, (256, 256)),
    ],
)
def test_the_longer_side_follows_the_ratio(tmp_path, height, width, expected):
    assert auto_size([put(tmp_path / "a.png", height, width)]) == expected


@settings(deadline=None, max_examples=50)
@example(height=1, width=300)
@given(height=st.integers(1, 300), width=st.integers(1, 300))
def test_rules_of_the_size(tmp_path_factory, height, width):
    path = put(tmp_path_factory.mktemp("auto") / "a.bmp", height, width)
    size = auto_size([path])
    assert parse_size(size) == size
    assert min(size) == 256
    assert max(size) % 32 == 0
    assert max(size) <= 1024
    wanted = 256 * max(height, width) / min(height, width)
    assert abs(max(size) - min(wanted, 1024)) <= 16
    assert height == width or max(size) == 256 or (size[0] > size[1]) == (height > width)


def test_the_median_counts_not_the_mean(tmp_path):
    paths = [put(tmp_path / f"{i}.png", 20, 40) for i in range(3)]
    paths += [put(tmp_path / "tall.png", 400, 4), put(tmp_path / "taller.png", 900, 4)]
    assert auto_size(paths) == (256, 512)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif", "a.webp"])
def test_the_rotation_of_exif_is_respected(tmp_path, name, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = put(tmp_path / name, 20, 40, exif=exif)
    assert auto_size([str(path)]) == ((512, 256) if orientation >= 5 else (256, 512))


def test_pixels_are_not_decoded(tmp_path, monkeypatch):
    path = put(tmp_path / "a.png", 20, 40)
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", None)
    assert auto_size([path]) == (256, 512)


def test_at_most_256_spread_evenly_are_looked_at(tmp_path, monkeypatch):
    path = put(tmp_path / "a.bmp", 20, 40)
    seen = []

    class Paths(list):
        def __getitem__(self, index):
            seen.append(int(index))
            return path

    auto_size(Paths([path] * 10_000))
    assert len(set(seen)) == 256
    assert (min(seen), max(seen)) == (0, 9999)
    steps = np.diff(sorted(set(seen)))
    assert steps.max() - steps.min() <= 1
    seen.clear()
    auto_size(Paths([path] * 200))
    assert sorted(set(seen)) == list(range(200))


def test_unreadable_files_are_passed_over(tmp_path):
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("no image")
    bad = [tmp_path / "empty.png", tmp_path / "text.png", tmp_path / "gone.png", tmp_path]
    good = put(tmp_path / "a.png", 30, 20)
    assert auto_size([*bad, good, *bad]) == (384, 256)
    with pytest.raises(ImageError, match=r"no image is readable; .*empty\.png: is empty"):
        auto_size(bad)
    with pytest.raises(ValueError, match="paths: at least one image"):
        auto_size([])


def test_tall_and_wide_mirror_each_other(tmp_path):
    tall = [put(tmp_path / f"t{i}.png", h, 20) for i, h in enumerate((31, 53))]
    wide = [put(tmp_path / f"w{i}.png", 20, w) for i, w in enumerate((31, 53))]
    assert auto_size(tall) == auto_size(wide)[::-1]
    assert math.isclose(auto_size(tall)[0], 256 * math.sqrt(31 * 53) / 20, abs_tol=16)
