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
from fastad.data.facts import Expectation, ImageFacts, facts_of
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
    assert facts([path]) == ImageFacts(pytest.approx(2), True, True)
    assert facts([deep]) == ImageFacts(pytest.approx(2), True, True)
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
            COLOUR.astype(np.uint16),
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
        (ImageFacts(aspect=2), np.zeros((*SIZE, 3), np.uint8)),  # resized by the user
        (ImageFacts(is_grey=True), np.clip(GREY + np.array([0, 1, 0]), 0, 255).astype(np.uint8)),
        (ImageFacts(is_deep=True), COLOUR.astype(np.uint16)),
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
