"""Several detectors for one stream of images, by folder, by name and by the best p-value."""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import fastad
from fastad.data import ImageError
from fastad.inference import PredictionResult, predict_several
from fastad.inference.several import assigned, best

GREY = {"dark": 40, "middle": 120, "bright": 200}


def drawn(name, count, seed=0):
    rng = np.random.default_rng([seed, GREY[name]])
    return rng.integers(GREY[name], GREY[name] + 20, (count, 32, 48, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def detectors():
    """One for each grey level, of different sizes."""
    sizes = {"dark": 32, "middle": (32, 48), "bright": 40}
    return {
        name: fastad.Detector(
            "subspace", image_size=size, teacher_weights="embedded", false_positive_rate=0.1,
            device="cpu", precision="float32", batch_size=4,
        ).fit(drawn(name, 60))
        for name, size in sizes.items()
    }  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    """Seven images: name of the detector, number, and of each the last with a defect."""
    for name in GREY:
        images = drawn(name, 3, seed=1)
        images[2, 8:24, 10:30] = (255, 0, 0)
        for i, image in enumerate(images):
            path = tmp_path / "in" / name / "today" / f"{name}_{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
    return tmp_path / "in"


def by_path(results):
    found = {}
    for name, result in results:
        for one in result:
            assert one.path not in found  # each image once
            found[one.path] = (name, one)
    return found


@pytest.mark.parametrize("rule", ["best", "folder", "name"])
def test_each_image_goes_to_its_own_detector(detectors, folder, rule):
    found = by_path(predict_several(detectors, folder, rule=rule))
    assert len(found) == 9
    for path, (name, one) in found.items():
        if path.stem[-1] != "2" or rule != "best":
            assert name == path.parts[-3]
        alone = detectors[name].predict(path)
        assert one.score == pytest.approx(float(alone.score[0]), rel=1e-5)
        assert one.p_value == alone.p_value[0]
        assert one.is_anomalous == alone.is_anomalous[0]
        assert one.anomaly_map.shape == detectors[name].image_size_
        if path.stem[-1] == "2":
            assert one.is_anomalous


def test_best_is_normal_where_any_detector_says_so(detectors, folder):
    each = {name: detector.predict(folder) for name, detector in detectors.items()}
    normal = np.any([~result.is_anomalous for result in each.values()], axis=0)
    found = by_path(predict_several(detectors, folder))
    paths = next(iter(each.values())).paths
    assert [not found[path][1].is_anomalous for path in paths] == normal.tolist()


def test_every_image_is_read_once(detectors, folder, monkeypatch):
    read = []
    original = fastad.inference.several.read_image

    def counted(path, *rest):
        read.append(path)
        return original(path, *rest)

    monkeypatch.setattr(fastad.inference.several, "read_image", counted)
    for module in (fastad.data.folder, fastad.data.inputs, fastad.data.images):
        if hasattr(module, "read_image"):
            monkeypatch.setattr(module, "read_image", counted)
    list(predict_several(detectors, folder))
    assert len(read) == len(set(read)) == 9


def result_of(score, p_value, is_anomalous):
    maps = np.zeros((len(score), 2, 2), np.float32)
    return PredictionResult(np.array(score), maps, np.array(is_anomalous), np.array(p_value))


def test_p_values_decide_among_detectors_that_call_it_normal():
    first = result_of([1.0, 1.0, 9.0, 3.0], [0.5, 0.04, 0.01, 0.01], [False, False, True, True])
    second = result_of([2.0, 2.0, 8.0, 8.0], [0.9, 0.2, 0.2, 0.2], [False, True, True, True])
    # The third and the fourth: both call it anomalous. The second has few held-out images, and so a
    # larger smallest p-value, which says nothing: the threshold least exceeded decides.
    assert best([first, second], [2.0, 1.0]) == [1, 0, 0, 0]
    assert best([first, second], [2.0, 4.0]) == [1, 0, 1, 0]
    assert best([first, second], [-5.0, 4.0]) == [1, 0, 1, 1]  # no ratio of a negative one


def test_patterns(tmp_path):
    paths = [tmp_path / "cam1" / "left_7.png", tmp_path / "cam2" / "L-8.png"]
    names, patterns = ["left", "right"], {"left": "[lL]*", "right": "r*"}
    assert assigned(paths, names, "name", patterns) == {"left": paths}
    by_folder = assigned(paths, names, "folder", {"left": "cam1", "right": "*2"})
    assert by_folder == {"left": paths[:1], "right": paths[1:]}
    nearest = [tmp_path / "left" / "right" / "1.png"]
    assert assigned(nearest, names, "folder") == {"right": nearest}
    with pytest.raises(ValueError, match=r"L-8\.png fits no detector by its name"):
        assigned(paths, names, "name")
    with pytest.raises(ValueError, match=r"left_7\.png fits left and right by its name"):
        assigned(paths, names, "name", {"left": "*", "right": "left*"})


def test_unreadable_images(detectors, folder):
    broken = folder / "dark" / "today" / "dark_9.png"
    broken.write_bytes(b"no image")
    alone = folder / "bright" / "today" / "bright_9.png"
    for rule in ("best", "folder"):
        with pytest.raises(ImageError, match=r"dark_9\.png"):
            list(predict_several(detectors, folder, rule=rule))
        skipped = {}
        options = {"rule": rule, "skip": skipped.setdefault}
        assert len(by_path(predict_several(detectors, folder, **options))) == 9
        assert list(skipped) == [broken]
        # A detector of whose images none can be read stops no other.
        alone.write_bytes(b"no image")
        two = [alone, broken.with_stem("dark_1")]
        assert len(by_path(predict_several(detectors, two, **options))) == 1
        alone.unlink()


def test_wrong_use(detectors, folder):
    with pytest.raises(ValueError, match="rule must be one of best, folder, name; got 'nearest'"):
        list(predict_several(detectors, folder, rule="nearest"))
    with pytest.raises(ValueError, match="there must be at least one"):
        list(predict_several({}, folder))
    bare = SimpleNamespace(threshold_=None)
    with pytest.raises(ValueError, match="the detector bare has no threshold"):
        list(predict_several(detectors | {"bare": bare}, folder))
