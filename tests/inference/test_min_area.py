"""A smallest area: scores by brute force, the promise by simulation, and what a detector does."""

import dataclasses
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

import fastad
from fastad import Detector
from fastad._extension import _C
from fastad.inference import conformal_threshold, load, save
from fastad.inference.min_area import LARGEST, LevelRecorder, ladder, region_scores, share_of

EIGHT = np.ones((3, 3))


def score_by_labels(anomaly_map, least):
    """The definition, level by level."""
    for level in np.unique(anomaly_map)[::-1]:
        labels, _ = ndimage.label(anomaly_map >= level, EIGHT)
        if np.bincount(labels.ravel())[1:].max() >= least:
            return level
    raise AssertionError


@settings(deadline=None, max_examples=80)
@given(
    seed=st.integers(0, 2**31),
    height=st.integers(1, 24),
    width=st.integers(1, 24),
    blur=st.sampled_from([0, 1, 3]),
    steps=st.sampled_from([0, 3]),
)
def test_scores_are_those_of_the_definition(seed, height, width, blur, steps):
    rng = np.random.default_rng(seed)
    found = ndimage.gaussian_filter(rng.normal(size=(height, width)), blur)
    found = (np.round(found * steps) if steps else found).astype(np.float32)  # ties, too
    areas = np.unique(rng.integers(1, height * width + 1, 5))
    expected = [score_by_labels(found, least) for least in areas]
    assert _C.region_levels(found[None], areas)[0].tolist() == expected
    assert [region_scores(found[None], least)[0] for least in areas] == expected


def test_large_maps_need_more_than_the_first_pixels():
    rng = np.random.default_rng(0)  # the sample misleads where the highest pixels are specks
    maps = rng.random((2, 96, 80)).astype(np.float32)
    maps[1, 40:60, 10:40] += 0.3
    for least in (1, 7, 60, 400, 96 * 80):
        scores = region_scores(maps, least)
        assert scores.tolist() == [score_by_labels(one, least) for one in maps]


def test_a_map_that_is_no_number_has_no_level():
    maps = np.ones((2, 4, 4), np.float32)
    maps[1, 2, 2] = np.nan
    assert np.isnan(region_scores(maps, 2)).tolist() == [False, True]


@pytest.mark.parametrize("areas", [[0], [2, 1], [17]])
def test_areas_that_cannot_be_are_refused(areas):
    with pytest.raises(ValueError, match="areas must ascend"):
        _C.region_levels(np.ones((1, 4, 4), np.float32), np.array(areas))


@pytest.mark.parametrize("pixels", [1, 5, 1024, 65536, 800 * 600])
def test_the_ladder(pixels):
    areas = ladder(pixels)
    assert areas[0] == 1
    assert areas[-1] <= max(LARGEST * pixels, 1)
    assert (np.diff(areas) > 0).all()
    assert (areas[1:] / areas[:-1] <= 2).all()
    assert pixels < 64 or areas[-1] > 0.8 * LARGEST * pixels


def good_maps(rng, count):
    """Maps of good images: smooth noise with specks, of another strength in each."""
    noise = rng.normal(size=(count, 24, 24))
    smooth = ndimage.gaussian_filter(noise, (0, 2, 2)) * rng.uniform(1, 3, (count, 1, 1))
    specks = (rng.random(noise.shape) < 0.005) * rng.exponential(3, noise.shape)
    return (smooth + specks).astype(np.float32)


@pytest.mark.parametrize("least", [1, 9, 12, 37])  # 9, 12 and 37 are between steps of the ladder
def test_the_promise_holds(least):
    rng, n, rate, trials, new = np.random.default_rng(least), 39, 0.1, 400, 20
    alarms = {"own": [], "larger": []}
    for _ in range(trials):
        recorder = LevelRecorder((24, 24))
        recorder.add(good_maps(rng, n))
        levels = recorder.result(None)
        scores = region_scores(good_maps(rng, new), least)
        for name, area in (("own", least), ("larger", 3 * least + 8)):
            threshold = conformal_threshold(levels.at(area), rate)
            alarms[name].append(np.mean(scores.astype(np.float64) > threshold))
    # Of trials that do not depend on each other: three standard errors of their mean.
    error = {name: 3 * np.std(shares) / np.sqrt(trials) for name, shares in alarms.items()}
    assert np.mean(alarms["own"]) <= rate + error["own"]
    assert np.mean(alarms["own"]) >= 0.5 * rate  # and it is not kept by calling nothing anomalous
    assert np.mean(alarms["larger"]) > rate + error["larger"]  # a wrong calibration is seen


@pytest.mark.parametrize(
    ("area", "shape", "scale", "share"),
    [
        (25, (100, 200), None, 25 / 20000),
        ("25px", (100, 200), None, 25 / 20000),
        ("0.5%", None, None, 0.005),
        ("2mm2", (100, 200), 0.1, 200 / 20000),
        ("2 mm²", (100, 200), 0.1, 200 / 20000),
        (np.float32(25), (100, 200), None, 25 / 20000),
        (0, None, None, None),
        ("0mm2", None, None, None),
        (None, None, None, None),
    ],
)
def test_areas_in_their_units(area, shape, scale, share):
    found = share_of(area, shape, scale)
    assert found == (share if share is None else pytest.approx(share))


@pytest.mark.parametrize(
    ("area", "shape", "said"),
    [
        ("much", (9, 9), "min_area must be 25"),
        (-1, (9, 9), "min_area must be 25"),
        (float("nan"), (9, 9), "min_area must be 25"),
        (True, (9, 9), "min_area must be 25"),
        ("5cm", (9, 9), "min_area must be 25"),
        ([1], (9, 9), "min_area must be 25"),
        (5, None, "give a share of the image"),
        ("5mm2", (9, 9), "needs mm_per_pixel"),
        ("26%", None, "is 26% of the image; at most 25% works"),
    ],
)
def test_wrong_areas(area, shape, said):
    with pytest.raises(ValueError, match=said):
        share_of(area, shape)


def noise(count, seed=0):
    return np.random.default_rng(seed).integers(100, 156, (count, 48, 64, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def trained():
    """A small detector of images of 48x64, with a score that is no maximum of its map."""
    detector = Detector(
        "stpm", image_size=(32, 48), teacher_weights="embedded", false_positive_rate=0.2,
        pooling=0.05, device="cpu", precision="float32",
    )  # fmt: skip
    return detector.fit(noise(40), epochs=1)


@pytest.fixture
def detector(trained, tmp_path):
    trained.save(tmp_path / "d.fastad")
    return fastad.load(tmp_path / "d.fastad", device="cpu", precision="float32")


def defects():
    images = noise(6, seed=1)
    images[1, 10:12, 10:12] = 0
    images[2, 10:30, 20:50] = 0
    images[3, 5:9, 5:60] = 255
    return images


def test_the_verdict_follows_the_regions(detector):
    plain = detector.predict(defects())
    detector.set_min_area("2%")
    result = detector.predict(defects())
    least = detector._artifact.least_pixels
    assert least == 31  # 2 % of 32x48, rounded up
    assert np.array_equal(result.anomaly_map, plain.anomaly_map)
    assert np.array_equal(result.score, region_scores(plain.anomaly_map, least))
    assert not np.array_equal(result.score, plain.score)
    regions = result.regions()
    assert [len(found) > 0 for found in regions] == result.is_anomalous.tolist()
    assert result.is_anomalous[2]
    assert all(region.area >= 0.02 * 48 * 64 for found in regions for region in found)
    above = plain.anomaly_map > detector.threshold_
    for mask, marked in zip(result.mask, above, strict=True):
        labels, count = ndimage.label(marked, EIGHT)
        sizes = np.bincount(labels.ravel(), minlength=count + 1)
        assert np.array_equal(mask, np.isin(labels, np.flatnonzero(sizes >= least)) & marked)
    decided = detector.decision_function(defects()) < 0
    assert np.array_equal(decided, result.is_anomalous)
    assert result.input.tolist() == plain.input.tolist()  # by the model's own scores


def test_the_threshold_comes_from_the_held_out_maps(detector):
    held_out = detector.training_record_["held_out"]
    detector.set_min_area("2%")
    maps = detector.predict(noise(40)[held_out]).anomaly_map
    step = max(area for area in ladder(32 * 48) if area <= 31)
    expected = conformal_threshold(region_scores(maps, step).astype(np.float64), 0.2)
    assert detector.threshold_ == pytest.approx(expected, rel=1e-4)
    assert detector.threshold_ == detector.pixel_threshold_
    assert len(detector.calibration_scores_) == len(held_out)
    p = detector.predict(noise(40)[held_out]).p_value
    assert p.min() >= 1 / (len(held_out) + 1)


def test_zero_brings_the_models_own_scores_back(detector):
    before = detector.predict(defects())
    thresholds = detector.threshold_, detector.pixel_threshold_
    detector.set_min_area("1%").set_min_area(0)
    after = detector.predict(defects())
    for name in ("score", "mask", "is_anomalous", "p_value"):
        assert np.array_equal(getattr(before, name), getattr(after, name)), name
    assert (detector.threshold_, detector.pixel_threshold_) == thresholds
    assert detector.min_area_ is None


def test_it_is_kept_in_the_file(detector, tmp_path):
    detector.set_min_area(60)  # pixels of the images, which have 48x64
    assert detector.min_area_ == pytest.approx(60 / (48 * 64))
    expected = detector.predict(defects())
    detector.save(tmp_path / "a.fastad")
    loaded = fastad.load(tmp_path / "a.fastad", device="cpu", precision="float32")
    assert loaded.min_area_ == detector.min_area_
    found = loaded.predict(defects())
    for name in ("score", "mask", "is_anomalous", "p_value"):
        assert np.array_equal(getattr(expected, name), getattr(found, name)), name
    assert loaded.set_min_area(0).threshold_ == detector.set_min_area(0).threshold_


def test_one_threshold_for_images_and_pixels(detector):
    detector.set_min_area("2%")
    for name in ("set_threshold", "set_pixel_threshold"):
        for choice in ({"false_positive_rate": 0.5}, {"value": 0.125}):
            getattr(detector, name)(**choice)
            assert detector.threshold_ == detector.pixel_threshold_
    assert detector.threshold_ == 0.125
    assert detector.predict(defects()).is_anomalous.dtype == bool


def test_older_files(trained, tmp_path):
    artifact = dataclasses.replace(trained._artifact, region_levels=None)
    save(tmp_path / "old.fastad", artifact)
    assert load(tmp_path / "old.fastad").region_levels is None
    old = fastad.load(tmp_path / "old.fastad", device="cpu")
    old.set_min_area(0)
    with pytest.raises(ValueError, match="an older version wrote it; train again"):
        old.set_min_area("1%")
    assert old.min_area_ is None  # nothing has changed
    assert old.predict(defects()).mask is not None


def test_images_of_several_sizes_need_a_share(tmp_path):
    images = [*noise(16), *noise(8)[:, :40]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        detector = Detector("stpm", image_size=32, teacher_weights="embedded", device="cpu")
        detector.fit(images, epochs=1)
        with pytest.raises(ValueError, match="differ in size: give a share"):
            detector.set_min_area(25)
        assert detector.set_min_area("1%").min_area_ == 0.01


def test_an_export_is_refused(detector, tmp_path):
    detector.set_min_area("1%")
    with pytest.raises(ValueError, match="small regions do not count cannot be exported"):
        detector.export(tmp_path / "d.pt2", "torch-export")


def test_sizes_are_those_of_the_images(detector):
    images = [np.zeros((30, 90, 3), np.uint8), *defects()[:1]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is stretched, and has one colour
        result = detector.predict(images)
    assert result.sizes.tolist() == [[30, 90], [48, 64]]
    assert result[0].size == (30, 90)
    assert result[1:].sizes.tolist() == [[48, 64]]
    tensor = torch.zeros(2, 3, 32, 48, dtype=torch.uint8)
    assert detector._predictor.predict_batch(tensor).sizes.tolist() == [[32, 48]] * 2


def test_regions_need_a_pixel_threshold(detector):
    detector._predictor.pixel_threshold = None
    with pytest.raises(ValueError, match="no regions without a pixel threshold"):
        detector.predict(defects()).regions()


def test_an_area_that_no_region_of_interest_holds_is_refused():
    assert share_of("4%", None, counts=0.05) == 0.04
    with pytest.raises(ValueError, match=r"is 5.00% of the image, and the region of interest is"):
        share_of("5%", None, counts=0.05)
    with pytest.raises(ValueError, match="at most"):
        share_of("100%", None)
