"""The range of 16-bit pixels that a training chooses by its images."""

import io
import logging
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fastad.data import PixelRange
from fastad.data.survey import choose_range
from fastad.data.training_set import read_training_set

sys.path.insert(0, str(Path(__file__).parent))
from deep_files import write_png, write_tiff

RNG = np.random.default_rng(0)


def pictures(number, low, high, shape=(20, 30)):
    """Images that use all values from low to high."""
    values = RNG.integers(low, high + 1, (number, *shape)).astype(np.uint16)
    values[0].flat[:2] = low, high
    return values


def files(folder, images, write=write_png):
    return [write(folder / f"{i}.x", image) for i, image in enumerate(images)]


def chosen(images):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return choose_range(images)


@pytest.mark.parametrize(
    ("highest", "bits"),
    [
        *((200, 8), (255, 8), (256, 10), (1023, 10), (1024, 12), (4095, 12)),
        *((4096, 14), (16383, 14), (16384, 16), (65535, 16)),
    ],
)
@pytest.mark.parametrize("colour", [False, True])
@pytest.mark.parametrize("write", [write_png, write_tiff])
def test_the_smallest_usual_depth_that_holds_all(tmp_path, write, colour, highest, bits):
    images = pictures(3, 0, highest, (20, 30, 3) if colour else (20, 30))
    expected = PixelRange(0, 2**bits - 1)
    assert chosen(files(tmp_path, images, write)) == expected
    assert chosen(list(images)) == expected
    assert chosen(images if colour else images[..., None]) == expected
    assert chosen(torch.from_numpy(images if colour else images[:, None])) == expected


def test_eight_bits_choose_nothing(tmp_path, caplog):
    caplog.set_level(logging.INFO, "fastad")
    bytes_ = RNG.integers(0, 256, (3, 20, 30, 3), dtype=np.uint8)
    for i, image in enumerate(bytes_):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    paths = sorted(tmp_path.iterdir())
    for images in (paths, bytes_, list(bytes_), torch.from_numpy(bytes_), Image.open(paths[0])):
        assert chosen(images) is None
    assert chosen([]) is None
    assert chosen(np.empty((0, 4, 4, 3), np.uint16)) is None
    assert not caplog.records


def test_pillow_images_and_data_sets(tmp_path):
    paths = files(tmp_path, pictures(3, 0, 4095, (20, 30, 3)))
    assert chosen([Image.open(path) for path in paths]) == PixelRange(0, 4095)

    class Items:
        def __init__(self, wrap):
            self.wrap = wrap

        def __len__(self):
            return len(paths)

        def __getitem__(self, index):
            return self.wrap(np.full((4, 4), 1000, np.uint16))

    for wrap in (lambda image: image, lambda image: (image, 0), lambda image: {"image": image}):
        assert chosen(Items(wrap)) == PixelRange(0, 1023)


def test_mixed_depths_are_told(tmp_path, caplog):
    caplog.set_level(logging.INFO, "fastad")
    paths = files(tmp_path, pictures(2, 0, 4095))
    Image.fromarray(np.full((20, 30), 255, np.uint8)).save(tmp_path / "8.png")
    words = (
        r"^1 of 3 images looked at have 8 bits, the others 16, for example .*8\.png and .*0\.x: "
    )
    with pytest.warns(UserWarning, match=words):
        assert choose_range([*paths, tmp_path / "8.png"]) == PixelRange(0, 4095)
    with pytest.warns(UserWarning, match=words):
        assert choose_range([*paths, tmp_path / "8.png"], PixelRange(0, 4095)).bits == 12
    assert "16-bit values are read as 12 bits, 0 to 4095 (bit_depth=12)" in caplog.messages


def test_what_cannot_be_read_is_passed_over(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no image")
    paths = files(tmp_path, pictures(2, 0, 4095))
    assert chosen([tmp_path / "broken.png", tmp_path / "none.png", *paths]) == PixelRange(0, 4095)


def test_images_are_looked_at_over_the_whole_set():
    images = pictures(1000, 0, 1023, (4, 4))
    images[-1] = 4000
    with pytest.warns(UserWarning, match=r"63 use 10 bits .*, 1 use 12 bits .*image 999\)"):
        assert choose_range(list(images)) == PixelRange(0, 4095)


@pytest.mark.parametrize("image", [False, True])
def test_a_narrow_window_is_named_with_the_cure(tmp_path, image):
    images = pictures(4, 30000, 34000, (100, 100))
    images[0, 0, :3] = 65535  # letters burnt into the picture
    images = files(tmp_path, images) if image else list(images)
    with pytest.warns(UserWarning, match=r"16 bits, 0 to 65535.* 30\d\d\d and 3[34]\d\d\d") as said:
        assert choose_range(images) == PixelRange(0, 65535)
    assert "that leaves 16 of 256 grey levels" in str(said[0].message)
    assert "--bit-depth 29600-34400 (bit_depth='29600-34400')" in str(said[0].message)


def test_no_window_is_named_where_the_range_is_used():
    assert chosen([np.full((4, 4), 5000, np.uint16)]) == PixelRange(0, 16383)  # one value
    assert chosen(list(pictures(3, 20000, 29000))) == PixelRange(0, 65535)


def test_files_in_memory_and_generators(tmp_path):
    """16 bits are found in every form in which images are taken."""
    paths = files(tmp_path, pictures(3, 0, 4095, (20, 30, 3)))
    assert chosen([path.read_bytes() for path in paths]) == PixelRange(0, 4095)
    assert chosen([io.BytesIO(path.read_bytes()) for path in paths]) == PixelRange(0, 4095)
    images = list(pictures(40, 0, 4095, (40, 40, 3)))
    expected = read_training_set(images, 32)
    found = read_training_set((image for image in images), 32)
    assert found.pixel_range == expected.pixel_range == PixelRange(0, 4095)
    assert torch.equal(found.dataset, expected.dataset)
    encoded = read_training_set([path.read_bytes() for path in paths], 32)
    assert torch.equal(encoded.dataset, read_training_set(paths, 32).dataset.images)
    assert encoded.facts == read_training_set(paths, 32).facts


def test_alpha_says_nothing_of_the_depth():
    colour = np.random.default_rng(0).integers(0, 4096, (20, 30, 3), dtype=np.uint16)
    alpha = np.full((20, 30, 1), 65535, np.uint16)
    array = np.concatenate([colour, alpha], axis=2)
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    grey = np.concatenate([colour[..., :1], alpha], axis=2)
    for images in ([array], array[None], [tensor], [grey]):
        assert choose_range(images) == PixelRange(0, 4095)


def test_several_depths_within_16_bits_are_told(tmp_path):
    """A camera that was changed, or files of two programs: one range reads some as nearly black."""
    images = [*pictures(3, 0, 4095), *pictures(2, 0, 65535)]
    words = (
        r"^of 5 images looked at with 16 bits a value, 3 use 12 bits \(values up to 40\d\d, for "
        r"example .*\), 2 use 16 bits \(values up to 65\d\d\d, for example .*\)\. One range is for "
        r"all, 16 bits, 0 to 65535, so those of fewer bits are read as nearly black"
    )
    for form in (images, files(tmp_path, images)):
        with pytest.warns(UserWarning, match=words) as said:
            assert choose_range(form) == PixelRange(0, 65535)
        assert len(said) == 1
        with pytest.warns(UserWarning, match=words):
            choose_range(form, PixelRange(0, 65535))
    with pytest.warns(UserWarning, match="2 use 8 bits .*, 3 use 12 bits .*, 2 use 16 bits"):
        choose_range([*pictures(2, 0, 255), *images])


def test_brightness_that_differs_little_by_little_is_one_depth():
    images = [pictures(1, 0, high)[0] for high in (900, 1500, 3000, 4095, 9000, 16000)]
    assert chosen(images) == PixelRange(0, 16383)
    assert chosen([*pictures(3, 0, 3000), np.zeros((4, 4), np.uint16)]).bits == 12  # no picture


def test_black_images_alone_have_no_range(tmp_path):
    images = [np.zeros((4, 4), np.uint16)] * 2
    for form in (images, files(tmp_path, images)):
        with pytest.raises(ValueError, match=r"^bit_depth auto: all 2 images .* black, .*0"):
            choose_range(form)
        assert choose_range(form, PixelRange(0, 4095)) == PixelRange(0, 4095)


@pytest.mark.parametrize("window", [(30000, 34000), (5, 9), (0, 1)])
def test_a_range_that_clips_practically_everything_is_refused(tmp_path, window):
    images = pictures(2, 500, 4000, (60, 60))
    images.reshape(2, -1)[:, :30] = sum(window) // 2  # less than 1 % of them
    words = (
        r"^bit_depth \d+-\d+: 99\.\d% of the pixels .* would become black or white\. Nearly all "
    )
    for form in (list(images), files(tmp_path, images)):
        with pytest.raises(ValueError, match=words):
            choose_range(form, PixelRange(*window))
    images.reshape(2, -1)[:, :40] = sum(window) // 2
    assert choose_range(images[..., None], PixelRange(*window)) == PixelRange(*window)
    with pytest.raises(ValueError, match="bit_depth 8: 100"):
        read_training_set(np.full((2, 60, 60, 1), 4000, np.uint16), 32, bit_depth=8)


def test_a_given_range_stays_where_all_have_8_bits():
    assert choose_range(np.zeros((2, 4, 4, 3), np.uint8), PixelRange(0, 4095)).bits == 12


@pytest.mark.parametrize("size", [32, "auto"])
@pytest.mark.parametrize("colour", [False, True])
def test_generators_are_looked_at_in_every_form(tmp_path, size, colour):
    images = pictures(40, 0, 4095, (40, 40, 3) if colour else (40, 40))
    paths = files(tmp_path, images)
    expected = read_training_set(paths, size)
    assert expected.pixel_range.bits == 12

    def handles():
        for path in paths:
            with open(path, "rb") as file:
                yield file

    def closed():
        for path in paths:
            with Image.open(path) as image:
                yield image

    forms = [
        (Image.open(path) for path in paths),
        closed(),
        (path.read_bytes() for path in paths),
        (io.BytesIO(path.read_bytes()) for path in paths),
        handles(),
        iter(images),
    ]
    for form in forms:
        found = read_training_set(form, size)
        assert (found.pixel_range, found.facts) == (expected.pixel_range, expected.facts)
        assert torch.equal(found.dataset, expected.dataset.images)
