"""Models with an overview: what one model finds in the image, and another in its overview."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

import fastad
from fastad import models, ops
from fastad.backbones import reduced
from fastad.engine.convolution import can_fuse
from fastad.engine.folding import fold
from fastad.engine.pairing import PairOfScales
from fastad.inference import Predictor
from fastad.inference.artifact import _model

TINY = {"backbone": "resnet18", "layers": ("layer1", "layer2"), "teacher_weights": None}
NAMES = ("stpm", "subspace", "patchcore")
IMAGES = torch.rand(3, 3, 45, 62, generator=torch.Generator().manual_seed(0))


def built(name, **options):
    torch.manual_seed(0)
    if name == "stpm":
        options = {"subspace": False, "score_by": "maps"} | options
    if name == "patchcore":
        options = {"memory": 16} | options
    return models.build(name, **TINY, **options).eval()


def learned(model, images):
    batches = [{"image": part} for part in images.split(1)]
    with torch.no_grad():
        model.prepare_stage(lambda: iter(batches), lambda: iter(batches))
    return model


def distances(name, model, images):
    with torch.no_grad():
        return model.evidence({"image": images}).maps


def test_distances_are_those_of_both_scales():
    for factor in (2, 4):
        both, one = built("stpm", overview=factor), built("stpm")
        found = distances("stpm", both, IMAGES)
        for scale, images in enumerate((IMAGES, reduced(IMAGES, factor))):
            expected = distances("stpm", one, images)
            for level, other in zip(found[2 * scale :], expected, strict=False):
                torch.testing.assert_close(level, other)
        assert len(found) == 4


@pytest.mark.parametrize("name", ["subspace", "patchcore"])
def test_each_scale_is_learned_by_itself(name):
    both, of_image, of_overview = (built(name, overview=f) for f in (2, 0, 0))
    learned(both, IMAGES), learned(of_image, IMAGES), learned(of_overview, reduced(IMAGES, 2))
    other = torch.rand(2, 3, 45, 62, generator=torch.Generator().manual_seed(1))
    found = distances(name, both, other)
    expected = distances(name, of_image, other) + distances(name, of_overview, reduced(other, 2))
    assert len(found) == len(expected) == (2 if name == "subspace" else 4)
    if name == "patchcore":  # its coresets are drawn at random
        found, expected = found[:2], expected[:2]
    for level, one in zip(found, expected, strict=True):
        torch.testing.assert_close(level, one, rtol=1e-4, atol=1e-5)


def calibrated(name, **options):
    """A model that has learned, knows its usual distances, and compares its scales."""
    model = built(name, overview=2, **({} if name == "stpm" else {"smoothing": 0}), **options)
    if name != "stpm":
        learned(model, IMAGES)
    batches = [{"image": part} for part in IMAGES.split(2)]
    with torch.no_grad():
        model.calibrate_maps(lambda: iter(batches))
        model.settle_scales(lambda: iter(batches))
    return model


def in_usual_units(model, maps, first=0):
    usual = model.distance_means[first:].double().mean(dim=(1, 2))
    return [level.double() / mean for level, mean in zip(maps, usual, strict=False)]


@pytest.mark.parametrize("name", NAMES)
def test_the_higher_map_of_both_scales_counts(name):
    model = calibrated(name)
    levels = in_usual_units(model, distances(name, model, IMAGES))
    half = len(levels) // 2
    image, overview = (
        ops.reference.aggregate_maps(own, (45, 62)) for own in (levels[:half], levels[half:])
    )
    highest = [each.amax(dim=(1, 2)).quantile(0.95) for each in (image, overview)]
    expected = torch.maximum(image, overview * highest[0] / highest[1])
    with torch.no_grad():
        found = model(IMAGES)
    torch.testing.assert_close(found.anomaly_map.double(), expected, rtol=1e-4, atol=1e-6)
    assert (found.anomaly_map > 1.01 * image).any()  # the overview counts somewhere
    assert (found.anomaly_map > 1.01 * overview * highest[0] / highest[1]).any()


@pytest.mark.parametrize("scale", [0, 1])
def test_a_defect_that_one_scale_sees_raises_the_score(scale):
    model = calibrated("stpm")
    found = model.evidence({"image": IMAGES})
    before = model.judge(found, (45, 62)).score
    maps = [level.clone() for level in found.maps]
    for level in maps[2 * scale :][:2]:
        level[:, 2, 3] = 50 * level.max()
    assert (model.judge(found._replace(maps=maps), (45, 62)).score > 20 * before).all()


def test_levels_are_chosen_at_both_scales():
    model = calibrated("patchcore", map_levels=("layer2",))
    maps = in_usual_units(model, distances("patchcore", model, IMAGES))
    image, overview = (ops.reference.aggregate_maps([maps[i]], (45, 62)) for i in (1, 3))
    expected = torch.maximum(image, overview * model.scale_factors[0].double())
    with torch.no_grad():
        found = model(IMAGES).anomaly_map.double()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_one_patch_of_both_scales():
    model = learned(built("patchcore", overview=2, joint=True), IMAGES)
    assert model.memories[0].vectors.shape == (16, 2 * (64 + 128))


def test_a_student_learns_at_both_scales():
    model = built("stpm", overview=2).train()
    for scale in (0, 1):
        model.zero_grad()
        teacher, student = model.features(IMAGES)
        ops.distillation_loss(teacher[2 * scale :][:2], student[2 * scale :][:2]).backward()
        assert all(p.grad is not None and p.grad.any() for p in model.student.parameters())
    assert not any(p.grad is not None for p in model.teacher.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.int16])
def test_the_engine_runs_both_scales(dtype):
    if not can_fuse(dtype):
        pytest.skip(f"no {dtype} on this processor")
    model = built("stpm", overview=2)
    generator = torch.Generator().manual_seed(5)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2, generator=generator)
            module.bias.data.normal_(0, 0.2, generator=generator)
    folded = fold(model, dtype)
    if dtype == torch.int16:
        assert isinstance(folded.__dict__["extract_pair"], PairOfScales)
    tile = {"image": IMAGES[:, :, :16], "overview": reduced(IMAGES, 2)[:, :, :20]}
    with torch.inference_mode():
        for batch in ({"image": IMAGES}, tile):
            found, expected = (m.local_evidence(batch).maps for m in (folded, model))
            for level, other in zip(found, expected, strict=True):
                most = (1e-5 if dtype == torch.float32 else 5e-3) * other.max()
                torch.testing.assert_close(level, other, rtol=0, atol=most.item())


def test_predictions_in_bytes_and_tiles():
    model = built("patchcore", overview=2)
    for memory in model.memories:
        memory.vectors.uniform_(0, 0.1, generator=torch.Generator().manual_seed(1))
    images = np.random.default_rng(0).integers(0, 256, (2, 133, 150, 3), dtype=np.uint8)
    predictor = Predictor(model, (133, 150), precision="float32")
    whole, parts = predictor.predict(images), predictor.predict(images, tile=(48, 64))
    assert predictor.tiling(48).halo < predictor.tiling((133, 150)).halo * 9
    np.testing.assert_allclose(parts.anomaly_map, whole.anomaly_map, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(parts.score, whole.score, rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_a_detector_is_kept_in_a_file(name, tmp_path):
    good = np.random.default_rng(0).integers(100, 156, (8, 45, 62, 3), dtype=np.uint8)
    options = {"teacher_weights": "embedded", "layers": ("layer1", "layer2"), "overview": 2}
    epochs = {"epochs": 1, "min_steps": 0} if name == "stpm" else {}
    detector = fastad.Detector(
        name, image_size=(45, 62), false_positive_rate=0.5, precision="float32", **options
    )
    detector.fit(good, self_check=False, **epochs).save(tmp_path / "x.fastad")
    loaded = fastad.load(tmp_path / "x.fastad", precision="float32")
    assert loaded.model_.config.overview == 2
    assert detector.model_.teacher_origins() == {"teacher": "embedded"}
    expected, found = detector.predict(good), loaded.predict(good)
    np.testing.assert_array_equal(found.anomaly_map, expected.anomaly_map)
    np.testing.assert_array_equal(found.score, expected.score)


def test_files_from_before_there_was_an_overview():
    model = learned(built("subspace"), IMAGES)
    config = dataclasses.asdict(model.config)
    del config["overview"]
    loaded = _model("subspace", config, None, model.state_dict())
    with torch.no_grad():
        assert torch.equal(loaded(IMAGES).anomaly_map, model(IMAGES).anomaly_map)


def test_wrong_options_are_refused():
    for name in NAMES:
        for wrong in (1, 3, -2, 2.5, True, "2"):
            with pytest.raises(ValueError, match="overview must be 0, 2 or 4; got"):
                built(name, overview=wrong)
    with pytest.raises(ValueError, match="each of the 2 layers"):
        built("stpm", overview=2, weights=[1, 1, 1, 1])
    assert built("stpm", overview=2, weights=[1, 0.5])(IMAGES).score.shape == (3,)
    with pytest.raises(ValueError, match="score_by must be 'maps' with an overview"):
        built("stpm", overview=2, score_by="memory")
    for name in ("rstpm", "gtrans", "prn", "utad"):
        with pytest.raises(
            TypeError, match=r"'overview' of .*, which stpm, patchcore and subspace"
        ):
            models.build(name, overview=2)
