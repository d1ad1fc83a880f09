"""The image size that keeps the aspect ratio of the images."""

import math

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from fastad.data import ImageError, auto_size, parse_size
from fastad.data.sizes import size_of_ratio


def put(path, height, width, **options):
    Image.fromarray(np.zeros((height, width, 3), np.uint8)).save(path, **options)
    return path


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (100, 100, (256, 256)),
        (100, 103, (256, 256)),
        (200, 100, (384, 192)),
        (100, 200, (192, 384)),
        (100, 150, (192, 288)),
        (640, 256, (416, 160)),
        (1080, 1920, (192, 352)),
        (480, 640, (224, 288)),
        (9, 900, (32, 2048)),
        (900, 9, (2048, 32)),
        (1, 1, (256, 256)),
    ],
)
def test_the_size_follows_the_ratio(tmp_path, height, width, expected):
    assert auto_size([put(tmp_path / "a.png", height, width)]) == expected


@settings(deadline=None, max_examples=50)
@example(height=1, width=300)
@given(height=st.integers(1, 300), width=st.integers(1, 300))
def test_rules_of_the_size(height, width):
    size = size_of_ratio(height, width)
    assert parse_size(size) == size
    assert all(side % 32 == 0 for side in size)
    assert max(size) <= 2048
    ratio = max(height, width) / min(height, width)
    if ratio <= 8:
        assert 0.6 <= size[0] * size[1] / 256**2 <= 1.6
        assert abs(math.log(size[0] / size[1] * width / height)) < math.log(1.12)
    assert size == size_of_ratio(width, height)[::-1]
    assert height != width or size == (256, 256)


def test_images_in_any_form():
    array = np.zeros((5, 40, 20, 3), np.uint8)
    tensor = torch.zeros(5, 3, 40, 20)
    images = [Image.fromarray(a) for a in array]
    pairs = torch.utils.data.TensorDataset(tensor, torch.zeros(5))
    forms = (array, array[0], array[0, ..., 0], tensor, tensor[0], images, list(array), pairs)
    assert {auto_size(form) for form in forms} == {(384, 192)}


def test_images_that_cannot_be_counted():
    with pytest.raises(TypeError, match=r"that can be counted.*give \(height, width\)"):
        auto_size(iter([np.zeros((4, 4), np.uint8)]))


def test_few_of_a_data_set_are_read():
    read = []

    class Counted(torch.utils.data.Dataset):
        def __len__(self):
            return 1000

        def __getitem__(self, index):
            read.append(index)
            return {"image": np.zeros((20, 40), np.uint8)}

    assert auto_size(Counted()) == (192, 384)
    assert len(read) == 32
    assert (min(read), max(read)) == (0, 999)


def test_the_median_counts_not_the_mean(tmp_path):
    paths = [put(tmp_path / f"{i}.png", 20, 40) for i in range(3)]
    paths += [put(tmp_path / "tall.png", 400, 4), put(tmp_path / "taller.png", 900, 4)]
    assert auto_size(paths) == (192, 384)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif", "a.webp"])
def test_the_rotation_of_exif_is_respected(tmp_path, name, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = put(tmp_path / name, 20, 40, exif=exif)
    assert auto_size([str(path)]) == ((384, 192) if orientation >= 5 else (192, 384))


def test_pixels_are_not_decoded(tmp_path, monkeypatch):
    path = put(tmp_path / "a.png", 20, 40)
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", None)
    assert auto_size([path]) == (192, 384)


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
    assert auto_size([*bad, good, *bad]) == (288, 192)
    with pytest.raises(ImageError, match=r"no image is readable; .*empty\.png: is empty"):
        auto_size(bad)
    with pytest.raises(ValueError, match="images: at least one image"):
        auto_size([])


def test_tall_and_wide_mirror_each_other(tmp_path):
    tall = [put(tmp_path / f"t{i}.png", h, 20) for i, h in enumerate((31, 53))]
    wide = [put(tmp_path / f"w{i}.png", 20, w) for i, w in enumerate((31, 53))]
    assert auto_size(tall) == auto_size(wide)[::-1]
    assert auto_size(tall) == size_of_ratio(math.sqrt(31 * 53), 20)


def test_deep_images_are_not_decoded(tmp_path, recwarn):
    """Their range is chosen later: nothing is read as nearly black before."""
    deep = np.full((200, 100), 4000, np.uint16)
    pictures = [Image.fromarray(deep) for _ in range(3)]
    pictures[0].save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    for images in (pictures, [deep, deep], [data], [tmp_path / "a.png"]):
        assert auto_size(images) == (384, 192)
    assert not recwarn


def test_shapes_that_differ_are_named_with_what_it_does_to_them(tmp_path):
    wide = [put(tmp_path / f"w{i}.png", 64, 160) for i in range(4)]
    tall = [put(tmp_path / f"t{i}.png", 160, 64) for i in range(3)]
    words = (
        r"^the images looked at are of 64x160 \(4\), 160x64 \(3\) \(height x width\): image size "
    )
    words += r"auto takes 160x416, and 3 of 7 are stretched by more than 20%, up to 6\.5 times\."
    for images in (wide + tall, [Image.open(path) for path in wide + tall]):
        with pytest.warns(UserWarning, match=words) as said:
            assert auto_size(images) == (160, 416)
        assert len(said) == 1
    with pytest.warns(UserWarning, match=r"takes 256x256, and 6 of 6 .* up to 2\.5 times"):
        auto_size(wide[:3] + tall)
    many = [put(tmp_path / f"{i}.png", 20, 40 + 20 * i) for i in range(6)]
    with pytest.warns(UserWarning, match=r"20x120 \(1\), \.\.\. \(height"):
        auto_size(many)


def test_nothing_is_said_of_shapes_alike(tmp_path, recwarn):
    auto_size([put(tmp_path / f"{w}.png", 100, w) for w in (100, 110, 119)])
    for height, width in ((100, 103), (640, 256), (1080, 1920), (480, 640), (9, 70)):
        auto_size([put(tmp_path / "a.png", height, width)])
    assert not recwarn
