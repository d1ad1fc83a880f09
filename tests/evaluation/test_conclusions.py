"""What an evaluation concludes, and that it concludes nothing where all is as it should be."""

import math

import numpy as np
import pytest
from PIL import Image

from fastad.data import Sample
from fastad.evaluation import evaluate, exact_interval
from fastad.evaluation.conclusions import conclusions

GOOD = {
    "image_auroc": 0.9,
    "image_auroc_interval": (0.8, 0.97),
    "pixel_auroc": 0.9,
    "counts": {"normal": 40, "defect": 20, "defect_without_mask": 0},
    "at_threshold": {"false_positive_rate": 0.05},
}


def said(large_masks=0, promised=0.05, **changes):
    return conclusions(GOOD | changes, large_masks=large_masks, promised=promised)


def test_nothing_where_all_is_well():
    assert said() == []
    assert said(promised=None, at_threshold={"false_positive_rate": 1.0}) == []


def test_chance():
    [text] = said(image_auroc=0.31, image_auroc_interval=(0.2, 0.44))
    assert text.startswith("worse than chance: image AUROC 0.31, 95 % interval 0.20 to 0.44")
    [text] = said(image_auroc=0.57, image_auroc_interval=(0.45, 0.69))
    assert text.startswith("no better than chance: image AUROC 0.57")
    assert said(image_auroc_interval=(0.501, 0.6)) == []


@pytest.mark.parametrize("promised", [0.01, 0.05, 1 / 23])
def test_a_promise_is_broken_where_the_exact_interval_excludes_it(promised):
    for alarms in range(41):
        texts = said(promised=promised, at_threshold={"false_positive_rate": alarms / 40})
        assert bool(texts) == (exact_interval(alarms, 40)[0] > promised), alarms
    assert "40 of 40 good test images" in texts[0]
    assert f"at most {promised:.1%} were promised" in texts[0]


def test_masks():
    [text] = said(large_masks=11, pixel_auroc=0.2)
    assert text.startswith("the masks look inverted: 11 of 20 mark more than half")
    assert "pixel AUROC is 0.20" in text
    assert said(large_masks=10) == []
    [text] = said(pixel_auroc=0.3)
    assert text.startswith("pixels are told apart worse than by chance")
    nan = {"counts": {"normal": 40, "defect": 20, "defect_without_mask": 20}}
    assert said(pixel_auroc=math.nan, **nan) == []


def write(path, array):
    Image.fromarray(array).save(path)
    return path


@pytest.fixture
def samples(tmp_path):
    """Eight good images, dark, and eight defects, of which the mask is the bright square."""
    found = []
    for i in range(8):
        dark, bright, mask = (np.zeros((16, 16), np.uint8) for _ in range(3))
        dark[:] = bright[:] = 20 + i
        bright[2:6, 2:6], mask[2:6, 2:6] = 200, 255
        found.append(Sample(write(tmp_path / f"g{i}.png", dark), 0, "good", ()))
        path = write(tmp_path / f"m{i}.png", mask)
        found.append(Sample(write(tmp_path / f"d{i}.png", bright), 1, "hole", (path,)))
    return found


def of(samples, sign=1, **options):
    def predict(images):
        maps = sign * images[:, 0].float().numpy() / 255
        return maps.max(axis=(1, 2)) if sign > 0 else maps.min(axis=(1, 2)), maps

    return evaluate(predict, samples, (16, 16), **options)["conclusions"]


@pytest.mark.filterwarnings("ignore:.*may be inverted")
def test_on_images(samples):
    assert of(samples, threshold=0.5, promised=0.1) == []
    [broken] = of(samples, threshold=0.0, promised=0.1)
    assert broken.startswith("the promise is broken: 8 of 8 good test images")
    chance, pixels = of(samples, sign=-1)
    assert chance.startswith("worse than chance: image AUROC 0.00")
    assert pixels.startswith("pixels are told apart worse than by chance")
    for sample in samples:
        for path in sample.mask_paths:
            write(path, 255 - np.asarray(Image.open(path)))
    [inverted] = of(samples)
    assert inverted.startswith("the masks look inverted: 8 of 8 mark more than half")


def test_a_test_set_without_one_class_is_said_once_in_all(samples):
    with pytest.warns(UserWarning, match="no test image is normal") as warned:
        texts = of([s for s in samples if s.label == 1])
    assert [str(w.message) for w in warned] == texts
    assert texts == ["image scores are undefined (NaN): no test image is normal"]
    with pytest.warns(UserWarning, match="no test image has a defect"):
        texts = of([s for s in samples if s.label == 0])
    assert texts == ["image and pixel scores are undefined (NaN): no test image has a defect"]
