"""A detector with a region of interest: training, file, prediction, calibration."""

import json
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

import fastad
from fastad import Detector, inference
from fastad.evaluation import pixel_metrics
from fastad.inference.guard import OK
from fastad.training import CheckpointError

SHAPE = (48, 128)


def good_images(n=24, seed=0):
    return np.random.default_rng(seed).integers(100, 156, (n, *SHAPE, 3), dtype=np.uint8)


def left_part():
    mask = np.zeros(SHAPE, dtype=bool)
    mask[4:40, :30] = True
    return mask


def trained(model="stpm", roi=None, images=None, **options):
    given = {"teacher_weights": "embedded", "false_positive_rate": 0.2} | options
    training = {} if model in ("patchcore", "subspace") else {"epochs": 1, "batch_size": 8}
    detector = Detector(model, image_size=SHAPE, precision="float32", **given)
    images = good_images() if images is None else images
    return detector.fit(images, roi=roi, self_check=False, **training)


@pytest.fixture(scope="module")
def with_roi():
    return trained(roi=left_part())


@pytest.fixture(scope="module")
def without():
    return trained(scale_maps="none", scale_score="none", pooling="maximum", subspace=False)


def test_only_what_is_inside_counts(with_roi):
    detector, mask = with_roi, left_part()
    assert np.array_equal(detector.roi, mask)
    images = good_images(2, seed=1)
    images[0, 10:30, 100:120] = 0  # outside
    images[1, 10:30, 5:25] = 0  # inside
    result = detector.predict(images)
    assert not result.anomaly_map[:, ~mask].any()
    assert not result.mask[:, ~mask].any()
    assert result.is_anomalous.tolist() == [False, True]
    assert result.p_value[0] > 0.2
    assert all(regions == [] or regions[0].box[0] < 30 for regions in result.regions())


@pytest.mark.parametrize("model", ["stpm", "patchcore"])
def test_the_file_keeps_it(model, tmp_path):
    detector, images = trained(model, roi=left_part()), good_images(3, seed=1)
    detector.save(tmp_path / "a.fastad")
    again = fastad.load(tmp_path / "a.fastad", precision="float32")
    assert np.array_equal(again.roi, left_part())
    assert np.array_equal(again.predict(images).score, detector.predict(images).score)
    assert again.training_record_["roi"] == "roi"
    artifact = inference.load(tmp_path / "a.fastad")
    assert np.array_equal(artifact.roi, left_part())


def test_a_detector_without_one_has_none(without, tmp_path):
    assert without.roi is None
    without.save(tmp_path / "a.fastad")
    assert fastad.load(tmp_path / "a.fastad").roi is None
    assert not any("roi" in name for name in without.model_.state_dict())
    assert "roi" not in without.training_record_


def test_a_file_whose_region_is_of_another_size_is_damaged(with_roi, tmp_path):
    artifact = inference.load(saved(with_roi, tmp_path / "a.fastad"))
    artifact.model.set_roi(torch.ones(32, 32, dtype=torch.bool))
    inference.save(tmp_path / "b.fastad", artifact)
    with pytest.raises(inference.ArtifactError, match=r"region of interest is of \(32, 32\)"):
        inference.load(tmp_path / "b.fastad")


def saved(detector, path):
    detector.save(path)
    return path


def test_a_wild_background_changes_nothing_of_a_memory():
    """Nothing of it is remembered, and nothing of it is in a score."""
    quiet, wild = good_images(), good_images()
    noise = np.random.default_rng(5).integers(0, 256, (24, 48, 64, 3), dtype=np.uint8)
    wild[:, :, 64:] = noise
    mask = np.zeros(SHAPE, dtype=bool)
    mask[:, :8] = True
    options = {"layers": ("layer1",), "smoothing": 0.0, "memory": 10_000, "joint": True}
    expected, found = (
        trained("patchcore", roi=mask, images=images, **options) for images in (quiet, wild)
    )
    # Networks see only so far. What is beyond that changes rounding at most.
    memories = [detector.model_.memories[0].vectors for detector in (found, expected)]
    difference = memories[0][:100] - memories[1][:100]
    assert len(memories[0]) == len(memories[1])
    assert difference.abs().max() < 1e-4
    assert found.threshold_ == pytest.approx(expected.threshold_, rel=1e-4)
    everything = trained("patchcore", images=wild, **options)
    assert everything.threshold_ > 1.05 * found.threshold_


@pytest.mark.parametrize("form", ["mask.png", "small.png", "polygons.json"])
def test_files_of_masks_and_polygons(form, tmp_path):
    path, mask = tmp_path / form, left_part()
    if form == "polygons.json":
        path.write_text(json.dumps([[[0, 4], [30, 4], [30, 40], [0, 40]]]))
    else:
        picture = Image.fromarray(mask.astype(np.uint8) * 255)
        (picture.resize((64, 24), 0) if form == "small.png" else picture).save(path)
    detector = trained("subspace", roi=path)
    assert np.array_equal(detector.roi, mask)
    assert detector.training_record_["roi"] == str(path)


def test_another_aspect_is_refused_before_any_training():
    with pytest.raises(ValueError, match=r"32x32 pixels .* that of the images, 128x48"):
        trained(roi=np.ones((32, 32), dtype=bool))
    with pytest.raises(ValueError, match="marks no pixel"):
        trained(roi=np.zeros(SHAPE, dtype=bool))
    images = [*good_images(6), np.zeros((64, 64, 3), np.uint8)]
    with pytest.raises(ValueError, match="than that of image 6, 1 times as wide as high"):
        trained(roi=left_part(), images=images)


def test_a_training_is_resumed_with_its_region_alone(tmp_path):
    checkpoint = tmp_path / "a.checkpoint"
    options = {"teacher_weights": "embedded", "false_positive_rate": 0.2}
    detector = Detector("stpm", image_size=SHAPE, precision="float32", **options)
    detector.fit(good_images(), epochs=1, roi=left_part(), checkpoint=checkpoint)
    resume = {"epochs": 2, "checkpoint": checkpoint, "resume": True}
    for other in (None, ~left_part()):
        with pytest.raises(CheckpointError, match="region of interest"):
            detector.fit(good_images(), roi=other, **resume)
    assert detector.fit(good_images(), roi=left_part(), **resume).training_record_["epochs"] == 2


def test_a_region_for_a_trained_detector(without, tmp_path):
    images = good_images(4, seed=1)
    images[0, 10:30, 100:120] = 0
    images[1, 10:30, 5:25] = 0
    detector = fastad.load(saved(without, tmp_path / "a.fastad"), precision="float32")
    before = detector.predict(images)
    with pytest.warns(UserWarning, match="no score rises, so there are at most as many"):
        assert detector.set_roi(left_part()) is detector
    after = detector.predict(images)
    assert np.array_equal(after.anomaly_map, np.where(left_part(), before.anomaly_map, 0))
    assert np.array_equal(after.score, after.anomaly_map.max(axis=(1, 2)))
    assert (after.score <= before.score).all()
    assert detector.threshold_ == without.threshold_
    assert before.is_anomalous[:2].all()
    assert after.is_anomalous[:2].tolist() == [False, True]
    assert np.array_equal(without.predict(images).score, before.score)  # a copy was changed
    narrower = np.zeros(SHAPE, dtype=bool)
    narrower[:, 20:50] = True
    with pytest.warns(UserWarning, match="without this region"):
        detector.set_roi(narrower)
    assert np.array_equal(detector.roi, narrower & left_part())
    with pytest.raises(ValueError, match="no pixel in common"):
        detector.set_roi(~left_part())


def test_a_pooled_score_has_no_promise_for_another_region():
    detector = trained(pooling=0.1, scale_maps="none")
    with pytest.warns(UserWarning, match="its promise does not hold"):
        detector.set_roi(left_part())


def test_utad_must_know_its_region_in_the_training(tmp_path):
    options = {"impression_width": 2, "expert_width": 2, "discriminator_width": 2, "latents": 2}
    detector = trained("utad", comparison="grey", bank=4, **options)
    with pytest.raises(ValueError, match="utad has to know its region of interest"):
        detector.set_roi(left_part())


def test_calibration_for_a_region_gives_it_thresholds(without, tmp_path):
    detector = fastad.load(saved(without, tmp_path / "a.fastad"), precision="float32")
    fresh = good_images(20, seed=3)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        result = detector.calibrate(fresh, roi=left_part())
    assert result.summary == "the old promise was not tried"
    assert np.array_equal(detector.roi, left_part())
    maxima = detector.predict(fresh).anomaly_map[:, left_part()].max(axis=1)
    assert detector.calibration_scores_ == pytest.approx(maxima, rel=2e-5)
    assert detector.threshold_ < without.threshold_
    again = fastad.load(saved(detector, tmp_path / "b.fastad"), precision="float32")
    assert np.array_equal(again.roi, left_part())
    assert again.threshold_ == detector.threshold_


def test_a_calibration_that_fails_leaves_the_region_as_it_was(without, tmp_path):
    detector = fastad.load(saved(without, tmp_path / "a.fastad"), precision="float32")
    with pytest.raises(ValueError, match="too few"):
        detector.calibrate(good_images(3, seed=3), roi=left_part())
    assert detector.roi is None
    assert np.array_equal(
        detector.predict(good_images(1)).score, without.predict(good_images(1)).score
    )


def test_images_are_still_known_by_what_they_look_like(with_roi):
    assert with_roi.predict(good_images(4, seed=9)).input.tolist() == [OK] * 4


def test_synthesised_defects_are_tried_inside(with_roi, tmp_path):
    seen = []
    result = with_roi.check(good_images(6, seed=4), count=15, observe=seen.append)
    assert len(seen) == 15
    for tried in seen:
        assert tried.mask.any()
        assert not (tried.mask & ~left_part()).any()
        assert not tried.anomaly_map[~left_part()].any()
    maps, masks = (np.stack([getattr(t, name) for t in seen]) for name in ("anomaly_map", "mask"))
    good = with_roi.predict(good_images(6, seed=4)).anomaly_map
    maps, masks = np.concatenate([good, maps]), np.concatenate([np.zeros(good.shape, bool), masks])
    expected = pixel_metrics(masks, maps, inside=left_part())
    assert result.pixel_auroc == pytest.approx(expected["pixel_auroc"], rel=1e-9)
    assert result.aupro == pytest.approx(expected["aupro"], rel=1e-9)


def test_an_evaluation_counts_the_pixels_inside(with_roi, tmp_path):
    for i, image in enumerate(good_images(4, seed=4)):
        defect, mask = i > 1, np.zeros(SHAPE, np.uint8)
        if defect:
            mask[10:30, slice(100, 120) if i == 3 else slice(5, 25)] = 255
            image[mask > 0] = 0
        folder = tmp_path / "test" / ("hole" if defect else "good")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{i}.png")
        if defect:
            (tmp_path / "ground_truth" / "hole").mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask).save(tmp_path / "ground_truth" / "hole" / f"{i}_mask.png")
    with pytest.warns(UserWarning, match=r"of 1 images lie wholly outside .*hole.3\.png"):
        metrics = with_roi.evaluate(tmp_path)
    assert metrics["pixel_auroc"] > 0.9
    images = [tmp_path / "test" / "good" / "0.png", tmp_path / "test" / "hole" / "2.png"]
    result = with_roi.predict(images)
    assert not result.anomaly_map[:, ~left_part()].any()


def test_suspects_are_judged_by_what_is_inside(with_roi):
    images = good_images(20, seed=6)
    images[3, 10:30, 100:125] = 0  # outside
    images[7, 10:30, 5:25] = 0
    found = with_roi.suspects(images)
    assert found.order[0] == 7
    assert found.p_value[3] > 0.01
