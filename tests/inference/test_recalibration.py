"""Calibration by fresh good images: what it changes, what it refuses, and the promise it keeps."""

import shutil
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

import fastad
from fastad import inference, ops
from fastad.evaluation import exact_interval
from fastad.inference import Artifact, Predictor, conformal_threshold
from fastad.inference.min_area import region_scores
from fastad.inference.recalibration import LEAST_FOR_MEANS, recalibrate
from fastad.inference.threshold import ROUNDING, alarm_p_value
from fastad.models.map_model import MapModel
from fastad.models.map_options import MapOptions

SHAPE = (40, 48, 3)


def drawn(count, seed, low=90, high=130):
    return np.random.default_rng(seed).integers(low, high, (count, *SHAPE), dtype=np.uint8)


def write(folder, images):
    folder.mkdir(parents=True, exist_ok=True)
    for i, pixels in enumerate(images):
        Image.fromarray(pixels).save(folder / f"{i:03}.png")
    return folder


def trained(data, **options):
    settings = {"image_size": 32, "layers": ("layer1",), "teacher_weights": None, "device": "cpu"}
    detector = fastad.Detector("stpm", **settings, **options)
    return detector.set_params(false_positive_rate=0.25, precision="float32").fit(data, epochs=1)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("good")
    return write(root / "old", drawn(15, 0)), write(root / "new", drawn(20, 1, 80, 140))


@pytest.fixture
def detector(folders):
    return trained(folders[0], scale_maps="none", scale_score="none")


def test_thresholds_are_those_of_the_fresh_images(detector, folders):
    weights = {name: value.clone() for name, value in detector.model_.state_dict().items()}
    old, known = detector.threshold_, detector.calibration_scores_
    result = detector.calibrate(folders[1])
    fresh = detector.predict(folders[1])
    scores = fresh.score.astype(np.float64) * (1 + ROUNDING)
    maxima = fresh.anomaly_map.max(axis=(1, 2)).astype(np.float64) * (1 + ROUNDING)
    assert np.allclose(detector.calibration_scores_, scores, rtol=1e-6)
    assert np.allclose(detector.pixel_calibration_, maxima, rtol=1e-6)
    assert detector.threshold_ == result.threshold
    assert result.threshold == conformal_threshold(detector.calibration_scores_, 0.25)
    assert result.pixel_threshold == conformal_threshold(detector.pixel_calibration_, 0.25)
    assert (result.images, result.images_for_means, result.source) == (20, 0, "new")
    assert (result.old_threshold, result.old_rate) == (old, 1 / 4)
    assert detector.false_positive_rate_ == result.kept_rate == 5 / 21
    assert result.old_alarms.hits == int((fresh.score.astype(np.float64) > old).sum())
    assert result.expected_alarms == 20 / 4
    low, high = exact_interval(result.old_alarms.hits, 20)
    assert f"interval {low:.1%} to {high:.1%}" in result.summary
    assert "promised: at most 25.0%, or 5 of them" in result.summary
    assert len(known) == 3  # the training's own
    state = detector.model_.state_dict()
    assert all(torch.equal(state[name], value) for name, value in weights.items())
    assert (fresh.input == "ok").sum() >= 15  # the guard goes by the fresh images, too
    assert detector._artifact.inputs.shape == (20, 6)
    assert np.allclose(detector._artifact.inputs[:, -1], np.log(48 / 40))


def test_a_smallest_area_goes_by_the_fresh_images(detector, folders, tmp_path):
    """The levels of regions are the fresh images', whether the area is set before or after."""
    detector.save(tmp_path / "plain.fastad")
    plain = fastad.load(tmp_path / "plain.fastad")
    detector.set_min_area("1%")
    before = detector.threshold_
    result = detector.calibrate(folders[1])
    least = detector._artifact.least_pixels
    maps = np.stack(
        [detector.predict(path).anomaly_map[0] for path in sorted(folders[1].iterdir())]
    )
    levels = detector._artifact.region_levels
    known = levels.areas[np.searchsorted(levels.areas, least, side="right") - 1]
    expected = region_scores(maps, known).astype(np.float64) * (1 + ROUNDING)
    assert np.allclose(detector._artifact.judging, expected, rtol=1e-6)
    assert detector.threshold_ == detector.pixel_threshold_ == result.threshold != before
    assert result.threshold == conformal_threshold(detector._artifact.judging, 0.25)
    assert (result.old_threshold, result.old_alarms.total) == (before, 20)

    plain.calibrate(folders[1])
    assert np.array_equal(plain.calibration_scores_, detector._artifact.calibration)
    plain.set_min_area("1%")
    assert plain.threshold_ == detector.threshold_
    detector.save(tmp_path / "a.fastad")
    assert fastad.load(tmp_path / "a.fastad").threshold_ == plain.threshold_


def test_the_file_keeps_the_old_and_the_new(detector, folders, tmp_path):
    old = detector.calibration_scores_
    first = detector.calibrate(folders[1])
    second = detector.calibrate(write(tmp_path / "third", drawn(9, 3)), false_positive_rate=0.1)
    detector.save(tmp_path / "d.fastad")
    kept = inference.load(tmp_path / "d.fastad").calibrations
    assert [entry["source"] for entry in kept] == ["old", "new", "third"]
    assert [entry["date"] for entry in kept] == [None, first.date, second.date]
    assert [entry["threshold"] for entry in kept][1:] == [first.threshold, second.threshold]
    assert [entry["false_positive_rate"] for entry in kept] == [0.25, 0.25, 0.1]
    assert kept[0]["scores"] == old.tolist()
    assert [len(entry["digests"]) for entry in kept] == [0, 20, 9]
    loaded = fastad.load(tmp_path / "d.fastad", device="cpu")
    assert loaded.threshold_ == second.threshold == max(kept[2]["scores"])
    assert loaded.false_positive_rate == 0.1
    assert loaded._artifact.calibrations == kept


def test_files_from_before_have_no_calibrations(detector, tmp_path):
    assert detector._artifact.calibrations == []
    artifact = inference.artifact._artifact(
        {
            "model": "stpm",
            "config": {"layers": ["layer1"], "teacher_weights": None},
            "image_size": [32, 32],
            "calibration": [],
            "pixel_calibration": [],
            "false_positive_rate": 0.1,
            "threshold": None,
            "pixel_threshold": None,
            "choice": {},
            "training": {},
            "versions": {},
        },
        detector.model_.state_dict(),
    )
    assert artifact.calibrations == []


def test_images_of_the_training_are_refused_under_any_name(detector, folders, tmp_path):
    copied = write(tmp_path / "mixed", drawn(10, 4))
    for i, held_out in enumerate(detector.training_record_["held_out"][:2]):
        shutil.copy(sorted(folders[0].iterdir())[held_out], copied / f"copy_{i}.png")
    before = detector.threshold_
    with pytest.raises(ValueError, match=r"read 2 of the 12 images, such as .*copy_0\.png"):
        detector.calibrate(copied)
    assert detector.threshold_ == before
    assert detector._artifact.calibrations == []


@pytest.mark.parametrize(
    ("rate", "count", "said"),
    [
        (0.25, 2, "2 good images are too few .* 25 %, which needs 3: 1 is missing"),
        (0.25, 1, "images: 1 good image is too few .*, which needs 3: 2 are missing"),
        (0.05, 9, "9 good images are too few .* 5 %, which needs 19: 10 are missing, .* 10 % or"),
        (0.01, 20, "which needs 99: 79 are missing"),
    ],
)
def test_too_few_images_are_refused(detector, rate, count, said):
    before = detector.threshold_
    with pytest.raises(ValueError, match=said):
        detector.calibrate(drawn(count, 5), false_positive_rate=rate)
    assert detector.threshold_ == before


def test_just_enough_images_do(detector):
    assert detector.calibrate(drawn(19, 5), false_positive_rate=0.05).kept_rate == 1 / 20


def test_repeated_and_unreadable_images_are_left_out(detector, tmp_path):
    folder = write(tmp_path / "new", drawn(6, 6))
    shutil.copy(folder / "002.png", folder / "copy.png")
    (folder / "004.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"004\.png"):
        detector.calibrate(folder)
    skipped = []
    result = detector.calibrate(folder, skip=lambda path, _: skipped.append(path.name))
    assert (skipped, result.images) == (["004.png"], 5)
    assert "1 repeated image is left out" in result.notes
    (folder / "003.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match="4 good images are too few"):
        detector.calibrate(folder, false_positive_rate=0.19, skip=lambda *_: None)


@pytest.mark.parametrize(
    "form", [list, iter, lambda images: torch.tensor(images.mT.mT).movedim(3, 1)]
)
def test_images_in_memory_may_have_any_form(detector, form):
    images = drawn(8, 7)
    expected = detector.predict(images).score.astype(np.float64)
    result = detector.calibrate(form(images))
    assert np.allclose(detector.calibration_scores_, expected * (1 + ROUNDING), rtol=1e-5)
    assert any("trained on these images is not known" in note for note in result.notes)
    assert result.source is None


def test_a_detector_without_held_out_images_gets_its_first_threshold(folders):
    detector = fastad.Detector("stpm", image_size=32, layers=("layer1",), teacher_weights=None)
    detector.set_params(false_positive_rate=0.25).fit(folders[0], epochs=1, validation_fraction=0.0)
    result = detector.calibrate(folders[1])
    assert (result.old_threshold, result.old_alarms, result.p_value) == (None, None, None)
    assert result.summary == "there was no threshold before"
    assert [kept["source"] for kept in detector._artifact.calibrations] == ["new"]
    assert detector.predict(folders[1]).p_value is not None


def test_a_threshold_set_by_a_value_has_no_exact_test(detector):
    result = detector.set_threshold(value=0.1).calibrate(drawn(8, 8))
    assert result.p_value is None
    assert result.old_rate == 1.0
    assert result.to_dict()["old_alarms"]["total"] == 8


@pytest.mark.filterwarnings("ignore:none of the 2 defect images has a ground-truth mask")
def test_calibration_images_are_known_to_check_and_evaluate(detector, folders, tmp_path):
    detector.calibrate(folders[1])
    result = detector.check(folders[1], count=15)
    assert (result.held_out_alarms.total, result.new_alarms.total) == (20, 0)
    shutil.copytree(folders[1], tmp_path / "data/test/good")
    write(tmp_path / "data/test/broken", drawn(2, 9, 0, 30))
    with pytest.warns(UserWarning, match="20 of 20 normal .* the training or to a calibration"):
        detector.evaluate(tmp_path / "data")


def test_every_model_takes_fresh_thresholds(tiny_model):
    detector = fastad.Detector(
        tiny_model.name, image_size=32, device="cpu", precision="float32", **tiny_model.options
    )
    detector.set_params(false_positive_rate=0.4)
    training = {"batch_size": 4, **tiny_model.epochs(1), **tiny_model.training}
    detector.fit(drawn(12, 10), **training, validation_fraction=0.5)
    fresh = drawn(2 * LEAST_FOR_MEANS, 11)
    result = detector.calibrate(fresh)
    assert result.images + result.images_for_means == len(fresh)
    scores = detector.predict(fresh).score.astype(np.float64)
    assert set(np.round(detector.calibration_scores_ / (1 + ROUNDING), 4)) <= set(
        np.round(scores, 4)
    )


@dataclass
class Options(MapOptions):
    scale_maps: str = "position"
    scale_score: str = "position"
    pooling: str | float = "maximum"


class Blocks(MapModel):
    """Its distance map is the brightness of blocks of 4x4 pixels."""

    name = "blocks"
    Config = Options

    def __init__(self, scale="position"):
        super().__init__(Options(scale_maps=scale, scale_score=scale))
        self._add_maps(1)

    def level_maps(self, batch):
        return [functional.avg_pool2d(batch["image"][:, 0], 4)]

    def join(self, maps, factors, size):
        return ops.aggregate_maps(list(maps), size, return_maximum=True)


def artifact_of(model, rate=0.1):
    return Artifact(model, (32, 32), np.empty(0), rate, None, {"epochs": 0})


def with_spikes(count, generator):
    """Dark images, each with a bright block anywhere, of a brightness with a heavy tail."""
    images = torch.full((count, 3, 8, 8), 0.01)
    value = 0.02 / torch.rand(count, generator=generator)
    place = torch.randint(64, (count,), generator=generator)
    images.flatten(2)[torch.arange(count), :, place] = value.clamp(max=1)[:, None]
    return images.repeat_interleave(4, 2).repeat_interleave(4, 3)


def alarm_rate(trials, own_images):
    """Mean share of new good images above a fresh threshold; means of its ``own_images`` or not."""
    generator, rates = torch.Generator().manual_seed(0), []
    for trial in range(trials):
        model = Blocks("none" if own_images else "position").eval()
        predictor = Predictor(model, 32, device="cpu", precision="float32")
        fresh = with_spikes(2 * LEAST_FOR_MEANS, generator)
        if own_images:
            fresh = fresh[:LEAST_FOR_MEANS]
            model = predictor.model = Blocks().eval()
            model.calibrate_maps(lambda fresh=fresh: iter([{"image": fresh}]))
            scores = predictor.predict(fresh).score.astype(np.float64) * (1 + ROUNDING)
            threshold = conformal_threshold(scores, 0.1)
        else:
            _, result = recalibrate(artifact_of(model), predictor, fresh, seed=trial)
            assert (result.images, result.images_for_means) == (20, 20)
            threshold = result.threshold
        new = predictor.predict(with_spikes(40, generator)).score.astype(np.float64)
        rates.append((new > threshold).mean())
    return np.mean(rates), np.std(rates) / np.sqrt(trials)


def test_the_promise_holds_where_position_means_are_taken_anew():
    """By simulation: 20 of 40 images give thresholds, whose rate is 2 of 21 on average."""
    rate, error = alarm_rate(400, own_images=False)
    assert rate <= 2 / 21 + 3 * error
    assert rate >= 2 / 21 - 4 * error  # and is not kept by finding nothing


def test_means_of_the_thresholds_own_images_would_break_it():
    rate, error = alarm_rate(100, own_images=True)
    assert rate > 2 / 21 + 5 * error


def test_few_images_leave_the_means_as_they_are():
    model = Blocks().eval()
    predictor = Predictor(model, 32, device="cpu", precision="float32")
    generator = torch.Generator().manual_seed(0)
    fresh = with_spikes(39, generator)
    _, result = recalibrate(artifact_of(model), predictor, fresh)
    assert (result.images, result.images_for_means) == (39, 0)
    assert (model.distance_means == 1).all()
    assert any("stay as they were: 1 more images" in note for note in result.notes)
    artifact, result = recalibrate(artifact_of(model), predictor, with_spikes(40, generator))
    assert (result.images, result.images_for_means) == (20, 20)
    assert not (model.distance_means == 1).all()
    assert len(artifact.calibration) == 20
    # The thresholds' share comes first: 99 images for 1 %.
    _, result = recalibrate(
        artifact_of(model), predictor, with_spikes(125, generator), false_positive_rate=0.01
    )
    assert (result.images, result.images_for_means) == (99, 26)


def test_an_error_leaves_the_means_as_they_were(monkeypatch):
    model = Blocks().eval()
    predictor = Predictor(model, 32, device="cpu", precision="float32")
    fresh = with_spikes(40, torch.Generator().manual_seed(0))
    taken = model.calibrate_maps

    def broken(good):
        taken(good)
        raise RuntimeError("out of memory")

    monkeypatch.setattr(model, "calibrate_maps", broken)
    with pytest.raises(RuntimeError, match="out of memory"):
        recalibrate(artifact_of(model), predictor, fresh)
    assert (model.distance_means == 1).all()


def test_what_a_discriminative_network_has_learned_from_stays():
    options = {"teacher1": "resnet18", "teacher2": "resnet18", "bottleneck": "learned"}
    options |= fastad.models.without_weights("rstpm") | {"discriminator_width": 8}
    model = fastad.models.build("rstpm", **options, scale_maps="position")
    assert not model.can_renew_means()
    assert fastad.models.build(
        "rstpm", **options, scale_maps="position", discriminator=False
    ).can_renew_means()


@pytest.mark.parametrize(("n", "above", "new"), [(19, 0, 30), (49, 2, 100), (5, 4, 12)])
def test_alarm_p_value_is_that_of_a_simulation(n, above, new):
    rng = np.random.default_rng(0)
    threshold = np.sort(rng.random((100_000, n)), axis=1)[:, n - 1 - above]
    alarms = rng.binomial(new, 1 - threshold)
    for hits in (0, 1, 3, new // 2, new):
        expected = (alarms >= hits).mean()
        assert alarm_p_value(hits, new, above, n) == pytest.approx(expected, abs=0.006)


def test_a_threshold_below_all_scores_surprises_nobody():
    assert alarm_p_value(10, 10, 7, 7) == 1.0


def test_images_of_a_calibration_say_nothing_of_its_promise(detector, folders):
    detector.calibrate(folders[1])
    result = detector.calibrate(folders[1], false_positive_rate=0.5)
    assert (result.old_alarms, result.p_value) == (None, None)
    assert "20 of the images made a calibration before" in " ".join(result.notes)
    assert result.summary == "the old promise was not tried"


def test_a_file_that_is_no_image_is_said_before_their_number(detector, tmp_path):
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(fastad.data.ImageError, match=r"notes\.txt"):
        detector.calibrate(tmp_path / "notes.txt")
    with pytest.raises(FileNotFoundError, match=r"missing\.png"):
        detector.calibrate(tmp_path / "missing.png")


@pytest.mark.parametrize("name", ["defect", "NG-parts", "not_good"])
def test_a_folder_of_defects_is_refused(detector, tmp_path, name):
    folder = write(tmp_path / name, drawn(12, 21))
    before = detector.threshold_
    with pytest.raises(ValueError, match=f"{name} is a folder of defects by its name. Give the"):
        detector.calibrate(folder)
    assert detector.threshold_ == before
    shutil.move(folder, tmp_path / "moved")
    inside = tmp_path / name / "good"
    shutil.copytree(tmp_path / "moved", inside)  # a folder in it says what they are
    assert detector.calibrate(tmp_path / name).images == 12


def test_images_unlike_those_before_are_named(detector, tmp_path):
    """As a prediction calls them, which would call them usual from then on."""
    grey = np.repeat(drawn(12, 22)[..., :1], 3, axis=3) // 8
    folder = write(tmp_path / "new", [*drawn(6, 23), *grey])
    kinds = detector.predict(folder).input
    unlike = [kind for kind in kinds if kind != "ok"]
    assert len(unlike) >= 12
    result = detector.calibrate(folder)
    [note] = [note for note in result.notes if "unlike" in note]
    assert note.startswith(f"{len(unlike)} images are unlike those of the calibration before (")
    for kind in set(unlike):
        assert f"{unlike.count(kind)} {kind}" in note
    first = sorted(folder.iterdir())[int(np.argmax(kinds != "ok"))]
    assert f"such as {first}" in note
    again = detector.calibrate(drawn(8, 24))
    assert not any("such as" in note for note in again.notes if "unlike" in note)


def test_images_of_16_bits_are_named_as_in_a_prediction(detector, tmp_path):
    for i, pixels in enumerate(drawn(12, 25)[..., 0]):
        (tmp_path / "deep").mkdir(exist_ok=True)
        Image.fromarray(pixels.astype(np.uint16) * 257).save(tmp_path / f"deep/{i}.png")
    with pytest.warns(UserWarning, match=r"\d\.png has 16 bits a value, but the training images 8"):
        detector.calibrate(tmp_path / "deep")
