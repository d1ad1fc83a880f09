"""The detector from training to file: its inputs, its thresholds, its threads."""

import math
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset

import fastad
from fastad import models, ops
from fastad.inference.threshold import ROUNDING
from fastad.models.map_model import MapModel
from fastad.training import TrainingConfig, precision

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(80, 120, (12, 40, 32, 3), dtype=np.uint8)
TRAINING = {"epochs": 1, "batch_size": 4}


def small(**options):
    settings = {"image_size": (32, 40), "device": "cpu", "precision": "float32"}
    model = {"layers": ("layer1",), "teacher_weights": None}
    return fastad.Detector("stpm", **{**settings, **model, **options})


def tiny(model, **options):
    settings = {"image_size": (32, 40), "device": "cpu", "precision": "float32"}
    return fastad.Detector(model.name, **{**settings, **model.options, **options})


def short(model):
    """Options of a training of one epoch, where there are epochs."""
    return {"batch_size": 4, **model.epochs(1), **model.training}


@pytest.fixture(autouse=True)
def few_images_are_no_news():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "a false-positive rate of")
        yield


@pytest.fixture(scope="module")
def detector():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return small(false_positive_rate=0.3).fit(IMAGES, **TRAINING, validation_fraction=0.5)


@pytest.fixture(scope="module")
def any_detector(tiny_model):
    """A trained one of each model."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return tiny(tiny_model, false_positive_rate=0.5).fit(
            IMAGES, **short(tiny_model), validation_fraction=0.5
        )


@pytest.fixture
def folder(tmp_path):
    for i, pixels in enumerate(IMAGES):
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    return tmp_path


class Items(Dataset):
    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


def weights(detector):
    return {k: v.clone() for k, v in detector.model_.state_dict().items()}


def same_weights(one, other):
    one, other = weights(one), weights(other)
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def test_every_form_of_the_images_trains_the_same_detector(folder):
    tensor = torch.from_numpy(IMAGES).permute(0, 3, 1, 2)
    paths = [folder / f"{i}.png" for i in range(12)]
    pillow = [Image.fromarray(pixels) for pixels in IMAGES]
    expected = small().fit(IMAGES, **TRAINING)
    for form in (
        tensor,
        tensor.contiguous(),
        paths,
        [str(path) for path in paths],
        folder,
        str(folder),
        pillow,
        list(IMAGES),
        Items(list(tensor)),
        Items([(image, 0) for image in pillow]),
        Items([{"image": image} for image in IMAGES]),
    ):
        trained = small().fit(form, **TRAINING)
        assert same_weights(trained, expected), type(form)
        assert np.array_equal(trained.calibration_scores_, expected.calibration_scores_)


def test_the_global_random_state_is_left_alone_and_does_not_matter(tiny_model):
    def trained():
        return tiny(tiny_model, seed=4).fit(IMAGES, **short(tiny_model))

    torch.manual_seed(1)
    state = torch.get_rng_state()
    one = trained()
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    other = trained()
    assert same_weights(one, other)
    assert np.array_equal(one.calibration_scores_, other.calibration_scores_)


def pooling(detector):
    """The share of the map's pixels that make the score; 0 for the maximum."""
    model = detector.model_
    return (
        model.choice().pooling
        if isinstance(model, MapModel)
        else getattr(model.config, "pooling", 0)
    )


def test_fitted_attributes(any_detector):
    assert any_detector.image_size_ == (32, 40)
    # Of the six images held out RSTPM's second stage trains on three.
    number = {"rstpm": 3}.get(any_detector.model, 6)
    assert any_detector.calibration_scores_.shape == (number,)
    assert any_detector.pixel_calibration_.shape == (number,)
    # The score is the maximum of the map, or the mean of its highest pixels. Of two models it is
    # from more, or from less, than the map.
    is_of_map = any_detector.model not in ("utad", "patchcore")
    share = pooling(any_detector)
    held_out = IMAGES[any_detector.training_record_["held_out"]]
    maps = np.sort(any_detector.predict(held_out).anomaly_map.reshape(number, -1), axis=1)
    count = max(round(share * maps.shape[1]), 1)
    of_map = [(any_detector.calibration_scores_, maps[:, -count:].mean(axis=1))]
    for kept, expected in (
        *(of_map if is_of_map else []),
        (any_detector.pixel_calibration_, maps[:, -1]),
    ):
        np.testing.assert_allclose(kept, expected * (1 + ROUNDING), rtol=3e-6)
    if share == 0 and is_of_map:
        assert np.array_equal(any_detector.calibration_scores_, any_detector.pixel_calibration_)
    rank = math.ceil((number + 1) * 0.5)
    assert any_detector.threshold_ == np.sort(any_detector.calibration_scores_)[rank - 1]
    assert any_detector.training_record_["images"] == 12
    assert any_detector.training_record_["n_validation"] == number
    assert any_detector.training_record_["seed"] == 0
    held_out = IMAGES[any_detector.training_record_["held_out"]]
    np.testing.assert_allclose(
        any_detector.predict(held_out).score, any_detector.calibration_scores_, rtol=1e-4
    )


def test_decisions_agree_with_each_other(any_detector):
    result = any_detector.predict(IMAGES)
    assert np.array_equal(result.is_anomalous, result.score > any_detector.threshold_)
    assert np.array_equal(result.mask, result.anomaly_map > any_detector.pixel_threshold_)
    above = result.anomaly_map.max(axis=(1, 2)) > any_detector.pixel_threshold_
    assert np.array_equal(result.mask.any((1, 2)), above)
    # The score is the map's maximum, but for those that have another map for it.
    if not pooling(any_detector) and any_detector.model not in ("utad", "patchcore"):
        assert np.array_equal(result.mask.any((1, 2)), result.is_anomalous)
    assert np.array_equal(any_detector.score_samples(IMAGES), -result.score)
    labels = np.where(result.is_anomalous, -1, 1)
    assert np.array_equal(any_detector.predict_labels(IMAGES), labels)
    assert np.array_equal(any_detector.decision_function(IMAGES) < 0, result.is_anomalous)
    assert 0 < result.is_anomalous.sum() < 12


def test_thresholds_can_change_and_the_file_keeps_them(any_detector, tmp_path):
    any_detector.save(tmp_path / "d.fastad")
    loaded = fastad.load(tmp_path / "d.fastad", device="cpu", precision="float32")
    assert (
        loaded.predict(IMAGES).is_anomalous.sum() == any_detector.predict(IMAGES).is_anomalous.sum()
    )
    scores = np.sort(loaded.calibration_scores_)
    assert loaded.set_threshold(false_positive_rate=0.3) is loaded
    chosen = scores[math.ceil((len(scores) + 1) * 0.7) - 1]
    assert loaded.threshold_ == chosen
    highest = loaded.pixel_calibration_.max()
    assert loaded.set_pixel_threshold(false_positive_rate=0.2).pixel_threshold_ == highest
    result = loaded.predict(IMAGES)
    assert np.array_equal(result.is_anomalous, result.score > chosen)
    assert np.array_equal(result.mask, result.anomaly_map > highest)
    loaded.save(tmp_path / "e.fastad")
    again = fastad.load(tmp_path / "e.fastad")
    assert again.threshold_ == chosen
    assert again.pixel_threshold_ == highest
    assert again.false_positive_rate == 0.3
    assert again.set_threshold(value=1e9).predict(IMAGES).is_anomalous.sum() == 0


def test_the_rate_that_holds_is_said_and_kept(any_detector, tmp_path):
    any_detector.save(tmp_path / "d.fastad")
    loaded = fastad.load(tmp_path / "d.fastad", device="cpu", precision="float32")
    scores = np.sort(loaded.calibration_scores_)
    n = len(scores)
    loaded.set_threshold(false_positive_rate=0.01)
    assert loaded.false_positive_rate_ == 1 / (n + 1)  # too few for 1 %
    loaded.set_threshold(value=np.nextafter(scores[-2], 0))
    artifact = loaded._artifact
    assert loaded.false_positive_rate_ == artifact.kept_rate == 3 / (n + 1)
    assert (artifact.asked_rate, artifact.threshold_set_by) == (None, "value")
    loaded.save(tmp_path / "e.fastad")
    again = fastad.load(tmp_path / "e.fastad")
    assert again._artifact.asked_rate is None
    assert again.false_positive_rate_ == 3 / (n + 1)
    again.set_threshold(false_positive_rate=0.3)
    assert (again._artifact.asked_rate, again._artifact.threshold_set_by) == (0.3, "rate")


@pytest.mark.parametrize("method", ["set_threshold", "set_pixel_threshold"])
def test_a_threshold_without_its_name_is_refused(detector, method):
    before = detector.threshold_, detector.pixel_threshold_
    with pytest.raises(TypeError, match=rf"{method}\(false_positive_rate=0.4\) or .*value=0.4"):
        getattr(detector, method)(0.4)
    assert (detector.threshold_, detector.pixel_threshold_) == before


def test_the_loaded_detector_is_the_saved_one(any_detector, tmp_path):
    any_detector.save(tmp_path / "d.fastad")
    loaded = fastad.load(tmp_path / "d.fastad", device="cpu", precision="float32")
    one, other = any_detector.predict(IMAGES), loaded.predict(IMAGES)
    for name in ("score", "anomaly_map", "is_anomalous", "p_value", "mask"):
        assert np.array_equal(getattr(one, name), getattr(other, name)), name
    expected = any_detector.get_params()
    assert loaded.get_params() == expected
    assert loaded.training_record_ == any_detector.training_record_


def test_a_precision_asked_for_by_name_is_served_again(tmp_path, monkeypatch):
    """Its thresholds were calibrated in it: on a machine with units for less, too."""
    detector = small(precision="float32").fit(IMAGES, **TRAINING)
    detector.save(tmp_path / "d.fastad")
    monkeypatch.setattr(precision, "cpu_multiplies_in", lambda dtype: True)
    loaded = fastad.load(tmp_path / "d.fastad", device="cpu")
    assert loaded._fitted().dtype == torch.float32
    assert np.array_equal(loaded.predict(IMAGES).score, detector.predict(IMAGES).score)
    other = fastad.load(tmp_path / "d.fastad", device="cpu", precision="bfloat16")
    assert other._fitted().dtype == torch.bfloat16


def test_prediction_of_a_folder_names_its_files(detector, folder):
    result = detector.predict(folder)
    assert result.paths == [folder / f"{i}.png" for i in range(12)]
    np.testing.assert_allclose(result.score, detector.predict(IMAGES).score, rtol=1e-4)
    assert detector.predict(IMAGES).paths is None
    assert detector.predict([Image.fromarray(IMAGES[0]), folder / "1.png"]).paths is None


def test_unreadable_files_are_named_or_skipped(detector, folder):
    (folder / "3.png").write_bytes(b"")
    with pytest.raises(fastad.data.ImageError, match=r"3\.png: is empty.*\(--skip-bad\)"):
        small().fit(folder, **TRAINING)
    trained = small().fit(folder, **TRAINING, skip_bad=True)
    assert trained.training_record_["images"] == 11
    assert any("1 unreadable" in n and "3.png" in n for n in trained.training_record_["notes"])
    skipped = []
    result = detector.predict(folder, skip=lambda path, error: skipped.append((path, str(error))))
    assert len(result.score) == len(result.paths) == 11
    assert folder / "3.png" not in result.paths
    assert [path for path, _ in skipped] == [folder / "3.png"]


def test_images_held_out_by_the_layout_are_held_out(tmp_path):
    for name, images in (("train", IMAGES[:8]), ("validation", IMAGES[8:])):
        (tmp_path / name / "good").mkdir(parents=True)
        for i, pixels in enumerate(images):
            Image.fromarray(pixels).save(tmp_path / name / "good" / f"{i}.png")
    (tmp_path / "test" / "logical_anomalies").mkdir(parents=True)
    trained = small().fit(tmp_path, **TRAINING)
    assert trained.training_record_["n_train"] == 8
    expected = trained.predict(IMAGES[8:]).score
    np.testing.assert_allclose(trained.calibration_scores_, expected, rtol=1e-4)
    assert trained.training_record_["data"] == tmp_path.name


def test_image_size_auto(tmp_path):
    for i in range(4):
        Image.fromarray(np.full((30, 75, 3), 99, np.uint8)).save(tmp_path / f"{i}.jpg")
    trained = small(image_size="auto").fit(tmp_path, epochs=1)
    assert trained.image_size_ == (160, 416)
    assert trained.image_size == "auto" == fastad.Detector().image_size
    images = np.full((4, 60, 150, 3), 99, np.uint8)
    assert small(image_size="auto").fit(images, epochs=1).image_size_ == (160, 416)


def test_without_held_out_images_there_is_no_threshold(tiny_model, tmp_path):
    trained = tiny(tiny_model).fit(IMAGES, **short(tiny_model), validation_fraction=0.0)
    assert trained.threshold_ is None
    assert trained.predict(IMAGES).is_anomalous is None
    assert trained.predict(IMAGES).mask is None
    trained.save(tmp_path / "d")
    assert fastad.load(tmp_path / "d").threshold_ is None
    with pytest.raises(ValueError, match="there is no threshold"):
        trained.predict_labels(IMAGES)
    with pytest.raises(ValueError, match="no scores of held-out normal images"):
        trained.set_threshold(false_positive_rate=0.1)
    assert trained.set_threshold(value=0.0).predict_labels(IMAGES).tolist() == [-1] * 12


def test_no_held_out_image_is_above_its_own_threshold(tiny_model):
    """In batches of any size, whose rounding differs."""
    detector = tiny(tiny_model).fit(IMAGES, **short(tiny_model))
    held_out = IMAGES[detector.training_record_["held_out"]]
    for images in (IMAGES, held_out, *(image[None] for image in held_out)):
        result = detector.predict(images)
        own = [any(np.array_equal(image, other) for other in held_out) for image in images]
        assert not result.is_anomalous[own].any()
        assert (result.p_value[own] > 1 / (len(held_out) + 1)).all()


def test_one_value_a_channel_is_told():
    options = {"teacher2": "resnet18", "bottleneck": "learned", **models.without_weights("rstpm")}
    detector = fastad.Detector("rstpm", image_size=32, device="cpu", **options)
    match = r"one image of 32x32 .* batch_size of at least 2, more images, or an image_size of at"
    with pytest.raises(ValueError, match=match):
        detector.fit(IMAGES[:4], epochs=1, batch_size=1, pseudo_anomalies=4)


@pytest.mark.slow
def test_a_checkpoint_is_resumed(tiny_model, tmp_path):
    if not tiny_model.trains:
        pytest.skip("nothing is trained")
    training = {"epochs": 3, "batch_size": 4, **tiny_model.training}
    whole = tiny(tiny_model).fit(IMAGES, **training)
    checkpoint = tmp_path / "c"

    def stop(event):
        if event.epoch == 2:
            raise KeyboardInterrupt

    first = tiny(tiny_model).fit(IMAGES, **training, checkpoint=checkpoint, progress=stop)
    assert first.training_record_["interrupted"]
    resumed = tiny(tiny_model).fit(IMAGES, **training, checkpoint=checkpoint, resume=True)
    assert same_weights(resumed, whole)
    assert resumed.threshold_ == whole.threshold_
    assert not resumed.training_record_["interrupted"]


def test_stopping_before_the_first_epoch_is_over_leaves_it_unfitted(tiny_model):
    def stop(event):
        raise KeyboardInterrupt

    detector = tiny(tiny_model)
    what = "the end of the first epoch" if tiny_model.trains else "anything was learnt"
    with pytest.raises(KeyboardInterrupt, match=f"before {what}"):
        detector.fit(IMAGES, **short(tiny_model), progress=stop)
    with pytest.raises(ValueError, match="not trained yet: call fit"):
        detector.predict(IMAGES)


def test_threads_share_a_detector(any_detector):
    expected = any_detector.predict(IMAGES)
    failures = []

    def work(seed):
        order = np.random.default_rng(seed).permutation(12)
        for _ in range(5):
            result = any_detector.predict(IMAGES[order])
            if not np.allclose(result.score, expected.score[order], rtol=1e-4):
                failures.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_the_map_is_the_fused_op_on_the_resized_image(detector):
    """From the outside in: nothing but resize, model and op stands between image and map."""
    images = torch.from_numpy(IMAGES).permute(0, 3, 1, 2)
    resized = fastad.data.resize(images, (32, 40)).float() / 255
    with torch.inference_mode():
        teacher, student = detector.model_.features(resized)
        expected = ops.reference.anomaly_map(teacher, student, (32, 40))
    np.testing.assert_allclose(
        detector.predict(IMAGES).anomaly_map, expected.numpy(), rtol=1e-3, atol=1e-6
    )


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"model": "stmp"}, ValueError, r"unknown model 'stmp' \(did you mean stpm\?\)"),
        ({"image_size": 0}, ValueError, "image size must be"),
        ({"image_size": "big"}, ValueError, "image size must be"),
        ({"device": "tpu"}, ValueError, "device must be"),
        ({"precision": "int8"}, ValueError, "precision must be one of"),
        ({"false_positive_rate": 0}, ValueError, "false_positive_rate must be between 0 and 1"),
        ({"false_positive_rate": "x"}, ValueError, "false_positive_rate must be between 0 and 1"),
        ({"seed": -1}, ValueError, "seed must be"),
        ({"seed": 2**64}, ValueError, "seed must be"),
        ({"batch_size": 0}, ValueError, "batch_size must be"),
        ({"backbone": "resnet17"}, ValueError, "unknown backbone 'resnet17'"),
        ({"layers": ()}, ValueError, "layers must be"),
    ],
)
def test_wrong_options_are_named_when_training(options, error, match):
    with pytest.raises(error, match=match):
        small().set_params(**options).fit(IMAGES, **TRAINING)


@pytest.mark.parametrize(
    ("images", "error", "match"),
    [
        (IMAGES[:0], ValueError, "no images"),
        ([], ValueError, "there are none"),
        (IMAGES[0, 0, 0], ValueError, r"uint8 of shape \(N, H, W, 3\)"),
        (IMAGES.astype(np.float32), ValueError, r"uint8 of shape \(N, H, W, 3\)"),
        (IMAGES[..., :0], ValueError, r"uint8 of shape \(N, H, W, 3\)"),
        (IMAGES.transpose(0, 3, 1, 2), ValueError, r"uint8 of shape \(N, H, W, 3\).*transpose"),
        (torch.zeros(2, 5, 8, 8), ValueError, r"shape \(N, 3, H, W\)"),
        (torch.full((2, 3, 8, 8), 2.0), ValueError, r"must be in \[0, 1\]"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.int64), TypeError, "uint8 or floating point"),
        (torch.zeros(2, 3, 0, 8), ValueError, "no pixels"),
        (5, TypeError, "images must be a path, a folder"),
        (None, TypeError, "images must be a path, a folder"),
        (b"x", ValueError, "bytes: cannot be read as an image: it is none of PNG"),
        ({"image": IMAGES}, TypeError, "images must be a path, a folder"),
        (["nowhere.png"], FileNotFoundError, r"nowhere\.png"),
        ("nowhere", FileNotFoundError, "nowhere"),
        ([3], TypeError, "one is int 3"),
    ],
)
def test_wrong_images_are_named(detector, images, error, match):
    with pytest.raises(error, match=match):
        small().fit(images, **TRAINING)
    with pytest.raises(error, match=match.replace("there are none", "there are no images")):
        detector.predict(images)


def test_wrong_calls_are_named(detector):
    with pytest.raises(
        TypeError, match=r"'backbon' of stpm \(did you mean backbone\?\); there are: backbone"
    ):
        fastad.Detector("stpm", backbon="resnet18")
    with pytest.raises(
        TypeError, match=r"unknown option 'layers' of auto, which .* have; there are: teacher_w"
    ):
        fastad.Detector(layers=("layer1",))
    with pytest.raises(
        TypeError, match=r"option 'epoch' \(did you mean epochs\?\); there are: epochs"
    ):
        small().fit(IMAGES, epoch=3)
    with pytest.raises(ValueError, match="give either false_positive_rate or value"):
        detector.set_threshold()
    with pytest.raises(ValueError, match="give either false_positive_rate or value"):
        detector.set_pixel_threshold(false_positive_rate=0.1, value=0.1)
    with pytest.raises(ValueError, match="value must be a finite number; got nan"):
        detector.set_threshold(value=float("nan"))
    with pytest.raises(FileNotFoundError, match=r"no detector file .*nowhere\.fastad"):
        fastad.load("nowhere.fastad")
    for method in ("predict", "score_samples", "decision_function", "predict_labels", "evaluate"):
        with pytest.raises(ValueError, match="not trained yet: call fit"):
            getattr(small(), method)(IMAGES)
    with pytest.raises(ValueError, match="not trained yet"):
        small().save("x.fastad")
    assert not Path("x.fastad").exists()


def test_evaluate(detector, tmp_path):
    for kind, images in (("good", IMAGES[:3]), ("hole", 255 - IMAGES[:2])):
        (tmp_path / "test" / kind).mkdir(parents=True)
        for i, pixels in enumerate(images):
            Image.fromarray(pixels).save(tmp_path / "test" / kind / f"{i}.png")
    mask = np.zeros((40, 32), np.uint8)
    mask[5:20] = 255
    (tmp_path / "ground_truth" / "hole").mkdir(parents=True)
    for i in range(2):
        Image.fromarray(mask).save(tmp_path / "ground_truth" / "hole" / f"{i}_mask.png")
    done = []
    metrics = detector.evaluate(tmp_path, progress=lambda n, total: done.append((n, total)))
    assert 0 <= metrics["image_auroc"] <= 1
    assert 0 <= metrics["aupro"] <= 1
    assert metrics["counts"]["normal"] == 3
    assert metrics["at_threshold"]["threshold"] == detector.threshold_
    assert done[-1] == (5, 5)


def test_test_images_that_were_trained_on_are_told(tmp_path):
    for kind, images in (("good", IMAGES), ("hole", 255 - IMAGES[:2])):
        (tmp_path / kind).mkdir()
        for i, pixels in enumerate(images):
            Image.fromarray(pixels).save(tmp_path / kind / f"{i}.png")
    trained = small().fit(tmp_path, **TRAINING)
    assert trained.training_record_["images"] == 12  # the hole is not learnt
    (tmp_path / "good" / "0.png").unlink()
    (tmp_path / "good" / "1.png").rename(tmp_path / "good" / "new name.png")
    Image.fromarray(IMAGES[0] + 1).save(tmp_path / "good" / "0.png")
    with pytest.warns(UserWarning, match="11 of 12 normal test images were given to the training"):
        trained.evaluate(tmp_path)


def test_export(detector, tmp_path):
    result = detector.export(tmp_path / "d.pt2", "torch-export")
    assert result.images > 0
    module = torch.export.load(tmp_path / "d.pt2").module()
    # Of the detector's own size; others are resized, here only to whole grey levels.
    for images, tolerance in ((IMAGES.reshape(12, 32, 40, 3), 1e-4), (IMAGES, 1e-2)):
        with torch.inference_mode():
            score = module(torch.from_numpy(images))["score"].numpy()
        np.testing.assert_allclose(score, detector.predict(images).score, rtol=tolerance)
    with pytest.raises(ValueError, match="unknown format 'tflite'"):
        detector.export(tmp_path / "x", "tflite")
    with pytest.raises(ValueError, match="not trained yet"):
        small().export(tmp_path / "x.onnx")


def test_config_fields_do_not_collide_with_the_detector():
    names = set(dir(fastad.Detector)) | set(fastad.Detector._arguments())
    for kind in fastad.models.MODELS.values():
        fields = set(kind.Config.__dataclass_fields__)
        assert not fields & names, kind.name
        training = set(TrainingConfig.__dataclass_fields__) - {"epochs"}
        assert not fields & training, kind.name
