"""Operating points: thresholds and counts against a search over everything, and what is refused."""

import itertools
import json
import shutil

import numpy as np
import pytest
from PIL import Image

import fastad
from fastad.evaluation import exact_interval
from fastad.inference.operating_point import Costs, points_of


def counted(good, defects, threshold):
    return int((good > threshold).sum()), int((defects <= threshold).sum())


def every_threshold(good, defects):
    """One for each way to divide the images."""
    values = np.unique(np.concatenate([good, defects]))
    return [values[0] - 1, *((values[:-1] + values[1:]) / 2), values[-1] + 1]


CASES = {
    "apart": (np.array([1.0, 2.0, 3.0]), np.array([5.0, 6.0])),
    "mixed": (np.array([1.0, 2.0, 4.0, 7.0]), np.array([3.0, 5.0, 6.0, 9.0])),
    "the wrong way round": (np.array([5.0, 6.0]), np.array([1.0, 2.0])),
    "equal scores": (np.array([1.0, 2.0, 2.0]), np.array([2.0, 2.0, 3.0])),
    "negative": (np.array([-3.0, -2.0]), np.array([-2.5, -1.0])),
    "one each": (np.array([1.0]), np.array([1.0])),
}


@pytest.mark.parametrize("case", CASES)
def test_no_other_threshold_does_better(case):
    good, defects = CASES[case]
    points = points_of(good, defects, Costs(50, 1, 0.1))
    ways = [counted(good, defects, threshold) for threshold in every_threshold(good, defects)]
    assert points.zero_missed.missed.hits == 0
    assert points.zero_missed.alarms.hits == min(alarms for alarms, missed in ways if missed == 0)
    assert points.zero_alarms.alarms.hits == 0
    assert points.zero_alarms.missed.hits == min(missed for alarms, missed in ways if alarms == 0)
    for point in points:
        assert counted(good, defects, point.threshold) == (point.alarms.hits, point.missed.hits)


@pytest.mark.parametrize(("miss", "alarm", "share"), [(50, 1, 0.5), (50, 1, 0.001), (0, 1, 0.2)])
def test_the_least_cost_is_the_least_of_all(miss, alarm, share):
    rng = np.random.default_rng(0)
    good, defects = rng.normal(size=40), 1 + rng.normal(size=9)
    point = points_of(good, defects, Costs(miss, alarm, share)).least_cost
    costs = [
        share * miss * missed / 9 + (1 - share) * alarm * alarms / 40
        for alarms, missed in (
            counted(good, defects, threshold) for threshold in every_threshold(good, defects)
        )
    ]
    assert point.cost == pytest.approx(min(costs), abs=1e-15)


def test_dear_misses_lower_the_threshold():
    rng = np.random.default_rng(1)
    good, defects = rng.normal(size=60), 1 + rng.normal(size=10)
    thresholds = [
        points_of(good, defects, Costs(miss, 1, 0.05)).least_cost.threshold
        for miss in (0.1, 1, 10, 100, 1000)
    ]
    assert thresholds == sorted(thresholds, reverse=True)
    assert thresholds[0] > thresholds[-1]


def test_thresholds_lie_halfway_between_images():
    good, defects = CASES["mixed"]
    points = points_of(good, defects, current=4.5)
    assert (points.zero_missed.threshold, points.zero_alarms.threshold) == (2.5, 8.0)
    assert points.least_cost is None
    assert [point.name for point in points] == ["zero-missed", "zero-alarms"]
    assert (points.current.alarms.hits, points.current.missed.hits) == (1, 1)
    assert points.zero_missed.alarms.interval == exact_interval(2, 4)
    with pytest.raises(KeyError, match="needs cost_miss"):
        points["least-cost"]


def test_bounds_of_new_images_hold():
    """By simulation: below 5 known defects a new one passes with 1/6 at most, and so for good."""
    rng, passed, stopped = np.random.default_rng(2), [], []
    for _ in range(4000):
        good, defects = rng.normal(size=11), 2 + rng.normal(size=6)
        points = points_of(good[:10], defects[:5])
        passed.append(defects[5] <= points.zero_missed.threshold)
        stopped.append(good[10] > points.zero_alarms.threshold)
    assert np.mean(passed) <= 1 / 6 + 3 * np.sqrt(5 / 36 / 4000)
    assert np.mean(stopped) <= 1 / 11 + 3 * np.sqrt(10 / 121 / 4000)


@pytest.mark.parametrize(
    ("miss", "alarm", "share", "said"),
    [
        (-1, 1, 0.1, "cost_miss must be a number of at least 0"),
        (float("nan"), 1, 0.1, "cost_miss must be"),
        (1, "x", 0.1, "cost_alarm must be"),
        (0, 0, 0.1, "both 0"),
        (1, 1, 0, "defect_share must be between 0 and 1"),
        (1, 1, 1.5, "defect_share must be between 0 and 1"),
    ],
)
def test_wrong_costs_are_refused(miss, alarm, share, said):
    with pytest.raises(ValueError, match=said):
        Costs(miss, alarm, share)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Good images, and defects of two kinds with masks and a good image among them."""
    root, rng = tmp_path_factory.mktemp("place"), np.random.default_rng(0)
    pixels = rng.integers(90, 130, (25, 40, 48, 3), dtype=np.uint8)
    names = [f"good/{i:02}.png" for i in range(15)]
    names += [f"defects/{kind}/{i}.png" for kind, i in itertools.product("ab", range(3))]
    for name, image in zip([*names, "defects/good/0.png"], pixels, strict=False):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        if "defects/a" in name or "defects/b" in name:
            image[10:20, 10:30] = 0
        Image.fromarray(image).save(root / name)
    mask = np.zeros((40, 48), np.uint8)
    mask[10:20, 10:30] = 255
    Image.fromarray(mask).save(root / "defects/a/0_mask.png")
    return root


@pytest.fixture(scope="module")
def detector(place):
    options = {"image_size": 32, "layers": ("layer1",), "teacher_weights": None, "device": "cpu"}
    made = fastad.Detector("stpm", **options, false_positive_rate=0.25)
    return made.fit(place / "good", epochs=1)


def test_a_folder_of_defects(detector, place):
    points = detector.operating_points(place / "defects", cost_miss=50)
    assert (len(points.good), len(points.defects)) == (3, 6)
    assert np.array_equal(points.good, detector.calibration_scores_)
    paths = sorted((place / "defects").glob("[ab]/?.png"))
    scores = detector.predict(paths).score
    assert np.allclose(np.sort(points.defects), np.sort(scores), rtol=1e-5)
    assert points.current.threshold == detector.threshold_
    assert any("probability of at most 14.3%" in note for note in points.notes)
    assert any("give the line's own" in note for note in points.notes)
    json.dumps(points.to_dict(), allow_nan=False)
    shared = detector.operating_points(paths, cost_miss=50, defect_share=0.01)
    assert not any("give the line's own" in note for note in shared.notes)


def test_images_in_memory_and_few_of_them(detector, place):
    image = np.asarray(Image.open(place / "defects/a/0.png"))
    points = detector.operating_points([image, image])
    assert len(points.defects) == 2
    assert any("2 defects are few" in note for note in points.notes)


def test_what_the_detector_was_made_from_is_refused(detector, place, tmp_path):
    shutil.copytree(place / "defects/a", tmp_path / "mixed")
    shutil.copy(place / "good/03.png", tmp_path / "mixed/other.png")
    with pytest.raises(ValueError, match=r"read 1 of the 4 images, such as .*other\.png"):
        detector.operating_points(tmp_path / "mixed")


def test_what_cannot_be_is_refused(detector, place, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="there are no images"):
        detector.operating_points(tmp_path / "empty")
    with pytest.raises(ValueError, match="give cost_miss, too"):
        detector.operating_points(place / "defects", defect_share=0.1)
    with pytest.raises(ValueError, match="cost_miss must be"):
        detector.operating_points(place / "defects", cost_miss=-1)
    options = {"image_size": 32, "layers": ("layer1",), "teacher_weights": None}
    without = fastad.Detector("stpm", **options).fit(
        place / "good", epochs=1, validation_fraction=0.0
    )
    with pytest.raises(ValueError, match="no scores of good images to choose by"):
        without.operating_points(place / "defects")


def test_a_folder_of_good_images_is_refused(detector, place, tmp_path):
    shutil.copytree(place / "defects/a", tmp_path / "good")
    with pytest.raises(ValueError, match="good is a folder of good images by its name: give that"):
        detector.operating_points(tmp_path / "good")
    shutil.copytree(place / "defects/a", tmp_path / "ok/defects")
    shutil.copytree(place / "defects/a", tmp_path / "ok/good")
    assert len(detector.operating_points(tmp_path / "ok").defects) == 3
