"""A word, once, on images that are not like those of a training."""

import pickle
import re
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fastad.data import ImageDataset
from fastad.data.depth import PixelRange
from fastad.data.facts import Expectation, ImageFacts, facts_of, warn_of_constant_images
from fastad.data.inputs import image_dataset, to_tensor

sys.path.insert(0, str(Path(__file__).parent))
from deep_files import write_png, write_tiff

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (30, 60, 1), dtype=np.uint8).repeat(3, 2)
COLOUR = RNG.integers(0, 256, (30, 60, 3), dtype=np.uint8)
SIZE = (64, 64)


def facts(images, dataset=None):
    return facts_of(images, image_dataset(images, SIZE) if dataset is None else dataset)


@pytest.fixture
def said():
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        yield found


def texts(said):
    return [str(warning.message) for warning in said]


@pytest.mark.parametrize("image", [GREY, COLOUR])
def test_facts_are_the_same_in_all_forms(tmp_path, image):
    Image.fromarray(image).save(tmp_path / "a.png")
    forms = [[tmp_path / "a.png"], [str(tmp_path / "a.png")], [image], image[None], image]
    forms += [[Image.fromarray(image)], torch.from_numpy(image).permute(2, 0, 1)[None]]
    for form in forms:
        found = facts(form)
        assert found.is_grey == (image is GREY)
        assert found.is_deep is False
        assert found.aspect is None or found.aspect == pytest.approx(2)
    assert facts([tmp_path / "a.png"]).aspect == pytest.approx(2)


def test_facts_of_deep_images(tmp_path):
    deep = GREY.astype(np.uint16) * 16
    path = write_png(tmp_path / "a.png", deep)
    assert facts([path]) == ImageFacts(pytest.approx(2), True, True, 15)
    assert facts([deep]) == ImageFacts(pytest.approx(2), True, True, 15)
    assert facts([deep, GREY]).is_deep is None  # both kinds


@pytest.mark.parametrize("ending", ["png", "jpg", "bmp", "tif", "webp", "gif", "ppm"])
def test_eight_bits_in_every_format(tmp_path, ending):
    Image.fromarray(COLOUR).save(tmp_path / f"a.{ending}")
    assert facts([tmp_path / f"a.{ending}"]).is_deep is False


def test_sixteen_bits_in_every_format(tmp_path):
    deep = COLOUR.astype(np.uint16) * 256
    Image.fromarray(deep[..., 0]).save(tmp_path / "a.tif")
    paths = [write_png(tmp_path / "a.png", deep), write_tiff(tmp_path / "b.tif", deep)]
    for path in (*paths, tmp_path / "a.tif"):
        assert facts([path]).is_deep is True


def test_ratios_that_differ_expect_none(tmp_path):
    assert facts([GREY] * 9 + [GREY[:, :30]]).aspect == pytest.approx(2)
    assert facts([GREY] * 8 + [GREY[:, :30]] * 2).aspect is None


def test_unreadable_files_and_data_sets_are_passed_over(tmp_path):
    Image.fromarray(GREY).save(tmp_path / "a.png")
    paths = [tmp_path / "a.png", tmp_path / "none.png"]
    dataset = ImageDataset(paths, SIZE, skip_bad=True)
    assert facts(paths, dataset) == ImageFacts(pytest.approx(2), True, False)

    class Items(torch.utils.data.Dataset):
        def __len__(self):
            return 3

        def __getitem__(self, index):
            raise AssertionError

    assert facts(Items()) == ImageFacts()


@pytest.mark.parametrize(
    ("known", "image", "words"),
    [
        (ImageFacts(aspect=2), COLOUR[:, :45], r"30x45 .* 1\.50, but 2\.00 in training"),
        (ImageFacts(aspect=2), COLOUR[:20], r"20x60 .* 3\.00, but 2\.00 in training"),
        (ImageFacts(is_grey=True), COLOUR, "has colours, but all training images were grey"),
        (ImageFacts(is_deep=True), COLOUR, "has 8 bits a value, but the training images 16"),
        (
            ImageFacts(is_deep=False),
            COLOUR.astype(np.uint16) * 257,
            "has 16 bits a value, but the training images 8",
        ),
    ],
)
def test_what_differs_is_said_once(said, tmp_path, known, image, words):
    path = tmp_path / "odd.png"
    save = write_png if image.dtype == np.uint16 else lambda path, a: Image.fromarray(a).save(path)
    save(path, image)
    for form in (image, Image.open(path), path, str(path)):
        expectation = Expectation(known, SIZE)
        copy = pickle.loads(pickle.dumps(expectation))
        expectation.look(form, to_tensor(image))
        expectation.look(form, to_tensor(image))
        copy.look(form, to_tensor(image))
        (text, again) = texts(said)
        assert text == again
        assert re.search(words, text)
        assert ("odd.png" in text) == isinstance(form, (str, Path))
        assert "(said once)" in text
        said.clear()


@pytest.mark.parametrize(
    ("known", "image"),
    [
        (ImageFacts(), COLOUR),
        (ImageFacts(2, False, False), COLOUR),
        (ImageFacts(2, False, False), GREY),
        (ImageFacts(2, True, False), GREY),
        (ImageFacts(aspect=2), COLOUR[:, :51]),  # by less than 20 %
        (ImageFacts(aspect=2), COLOUR.repeat(4, 0).repeat(4, 1)),
        (
            ImageFacts(aspect=2),
            COLOUR.repeat(3, 0)[:64].repeat(2, 1)[:, :64],
        ),  # resized by the user
        (ImageFacts(is_grey=True), np.clip(GREY + np.array([0, 1, 0]), 0, 255).astype(np.uint8)),
        (ImageFacts(is_deep=True), COLOUR.astype(np.uint16) * 257),
    ],
)
def test_nothing_is_said_of_what_fits(said, known, image):
    Expectation(known, SIZE).look(image, to_tensor(image))
    assert not said


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.bool_])
def test_arrays_that_are_not_stored_values_have_no_depth(dtype):
    images = np.zeros((4, 20, 30, 3), dtype)
    dataset = torch.zeros(4, 3, 32, 32, dtype=torch.uint8)
    assert facts_of(images, dataset).is_deep is None
    assert facts_of(images.astype(np.uint8), dataset).is_deep is False
    assert facts_of(images.astype(np.uint16), dataset).is_deep is True


def test_the_aspect_of_a_pillow_image_is_that_after_its_rotation(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (60, 20)).save(tmp_path / "a.jpg", exif=exif)
    with Image.open(tmp_path / "a.jpg") as image:
        facts = facts_of([image], torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
    assert facts.aspect == pytest.approx(20 / 60)


def test_a_picture_of_fewer_bits_is_told(said, tmp_path):
    """10 bits where the training had 12: read as nearly black."""
    twelve = PixelRange(0, 4095)
    picture = RNG.integers(0, 4096, (30, 60), dtype=np.uint16)
    dataset = image_dataset([picture], SIZE, pixel_range=twelve)
    known = facts_of([picture], dataset)
    assert 180 < known.brightest <= 255
    write_png(tmp_path / "odd.png", picture // 4)
    for form in (picture // 4, tmp_path / "odd.png", Image.open(tmp_path / "odd.png")):
        expectation = Expectation(known, SIZE)
        for _ in range(2):
            expectation.look(form, to_tensor(form, twelve))
        (text,) = texts(said)
        assert re.search(
            rf"is less than half as bright .* below {known.brightest // 2} of 255, theirs reach "
            rf"{known.brightest}\. If it has fewer bits",
            text,
        )
        assert ("odd.png" in text) == isinstance(form, Path)
        said.clear()
    stack = np.stack([picture, picture // 4])[..., None]
    Expectation(known, SIZE).look(stack, torch.stack([to_tensor(i, twelve) for i in stack]))
    assert len(said) == 1
    said.clear()
    for fits in (picture, picture // 4 * 3):
        Expectation(known, SIZE).look(fits, to_tensor(fits, twelve))
    Expectation(ImageFacts(), SIZE).look(picture // 4, to_tensor(picture // 4, twelve))
    assert not said


def test_a_few_bright_pixels_make_no_picture_bright(said):
    deep = np.full((40, 50), 40, np.uint16)
    deep[0, :2] = 255  # a thousandth
    Expectation(ImageFacts(is_deep=True, brightest=100), SIZE).look(
        deep, to_tensor(deep, PixelRange(0, 255))
    )
    assert "less than half as bright" in texts(said)[0]


@pytest.mark.parametrize("value", [0, 99, 255])
def test_an_image_of_one_colour_is_told(said, tmp_path, value):
    image = np.full((20, 40, 3), (value, 7, 7), np.uint8)
    Image.fromarray(image).save(tmp_path / "odd.png")
    stack = np.stack([COLOUR[:20, :40], image])
    for form in (image, tmp_path / "odd.png", stack):
        expectation = Expectation(ImageFacts(), SIZE)
        pixels = torch.from_numpy(stack).permute(0, 3, 1, 2) if form is stack else to_tensor(form)
        for _ in range(2):
            expectation.look(form, pixels)
        (text,) = texts(said)
        assert re.search(r"has one colour everywhere: its score means little.*\(said once\)", text)
        assert ("odd.png" in text) == isinstance(form, Path)
        said.clear()
    image[-1, -1, 0] ^= 1
    Expectation(ImageFacts(), SIZE).look(image, to_tensor(image))
    assert not said


def test_training_images_of_one_colour_are_counted(said, tmp_path):
    black = np.zeros_like(COLOUR)
    paths = [tmp_path / f"{i}.png" for i in range(5)]
    for path, image in zip(paths, (COLOUR, GREY, black, COLOUR, black + 200), strict=True):
        Image.fromarray(image).save(path)
    for in_memory in (True, False):
        warn_of_constant_images(ImageDataset(paths, SIZE, in_memory=in_memory))
    arrays = [COLOUR, black]
    warn_of_constant_images(image_dataset(arrays, SIZE))
    of_files, again, of_arrays = texts(said)
    assert of_files == again
    assert re.match(r"2 of 5 images looked at have one colour .*, for example .*2\.png: ", of_files)
    assert re.match(r"1 of 2 images looked at .*, for example image 1: ", of_arrays)
    warn_of_constant_images(image_dataset([COLOUR, GREY], SIZE))
    assert len(said) == 3


def test_images_of_one_colour_are_looked_for_among_all_in_memory(said):
    images = torch.randint(0, 256, (200, 3, 32, 32), dtype=torch.uint8)
    images[101] = 0
    warn_of_constant_images(images)
    assert "1 of 200 images" in texts(said)[0]
