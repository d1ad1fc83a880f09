"""Detectors trained on tiles of large images."""

import numpy as np
import pytest
import torch
from PIL import Image

import fastad
from fastad import models
from fastad.data.training_set import read_training_set
from fastad.inference import in_tiles
from fastad.inference.in_tiles import TileTraining
from fastad.inference.pooling import settle_pooling
from fastad.inference.tile_scaling import take_means, whole_images
from fastad.tiles import TileDataset, Tiling
from fastad.training import TrainingConfig
from fastad.training.map_choice import choice_lines
from fastad.training.stages import held_out_notes, plan_stages

SIZE, TILE = (104, 136), (48, 64)


def good_images(count, seed=0):
    return np.random.default_rng(seed).integers(100, 156, (count, *SIZE, 3), dtype=np.uint8)


def test_tiles_cover_each_image():
    images = torch.arange(3 * 3 * 50 * 70).reshape(3, 3, 50, 70).float()
    tiles = TileDataset(images, (50, 70), (24, 32))
    assert len(tiles) == 3 * 9
    assert len({tuple(tile.shape) for tile in tiles}) == 1
    for index in range(3):
        seen = torch.cat([tiles[i].flatten() for i in tiles.of_images([index])])
        assert torch.equal(seen.unique(), images[index].flatten())
    assert tiles.is_fixed


def test_tiles_outside_the_region_are_left_out():
    inside = torch.zeros(50, 70, dtype=torch.bool)
    inside[:10, 40:] = True
    tiles = TileDataset(torch.rand(2, 3, 50, 70), (50, 70), (24, 32), inside)
    assert tiles.places == [(0, 19), (0, 38)]
    assert len(tiles) == 4


def test_other_tiles_have_another_fingerprint():
    images = torch.rand(2, 3, 50, 70)
    first, again = (TileDataset(images, (50, 70), (24, 32)).fingerprint for _ in range(2))
    assert first == again != TileDataset(images, (50, 70), (24, 40)).fingerprint


def test_a_tile_larger_than_the_images_is_refused():
    with pytest.raises(ValueError, match="tile: 64x64 is larger than the images, 50x70"):
        TileDataset(torch.rand(2, 3, 50, 70), (50, 70), (64, 64))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Detectors trained on tiles, in files, by name."""
    folder = tmp_path_factory.mktemp("trained")
    common = {"image_size": SIZE, "teacher_weights": "embedded", "layers": ("layer1",)}
    for name, epochs in (("stpm", {"epochs": 1, "min_steps": 0}), ("patchcore", {})):
        detector = fastad.Detector(name, precision="float32", false_positive_rate=0.25, **common)
        options = {"tile": TILE, "validation_fraction": 0.5, "self_check": False}
        detector.fit(good_images(8), **options, **epochs)
        detector.save(folder / f"{name}.fastad")
    return folder


@pytest.mark.parametrize("name", ["stpm", "patchcore"])
def test_a_detector_of_tiles_judges_whole_images(trained, name):
    detector = fastad.load(trained / f"{name}.fastad", precision="float32")
    record = detector.training_record_
    assert detector.image_size_ == SIZE
    assert record["tile"] == list(TILE)
    assert (record["n_train"], record["n_validation"], len(record["held_out"])) == (4, 4, 4)
    assert "36 tiles of 48x64 pixels, 9 of each image" in " ".join(record["notes"])
    assert len(detector.calibration_scores_) == 4
    images = good_images(2, seed=1)
    images[1, 50:60, 70:80] = 0
    result = detector.predict(images)
    assert result.anomaly_map.shape == (2, *SIZE)
    assert result.is_anomalous[1]
    assert result.score[1] > 1.5 * result.score[0]
    peak = np.unravel_index(result.anomaly_map[1].argmax(), SIZE)
    assert 40 < peak[0] < 70
    assert 60 < peak[1] < 90
    detector._fitted().tile = None
    whole = detector.predict(images)
    np.testing.assert_allclose(result.anomaly_map, whole.anomaly_map, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["stpm", "patchcore"])
def test_pooling_keeps_its_area(trained, name):
    choice = fastad.load(trained / f"{name}.fastad").model_.choice()
    pixels = choice.pooling * SIZE[0] * SIZE[1]
    assert min(abs(pixels - area) for area in (0, 16, 64, 256, 1024)) < 1e-6
    assert choice.scale_maps == "none"


def prepared(roi=None, **options):
    torch.manual_seed(0)
    common = {"teacher_weights": "embedded", "layers": ("layer1",), "backbone": "resnet18"}
    model = models.build("stpm", **common, **options)
    if roi is not None:
        model.set_roi(roi)
    source = read_training_set(good_images(6), SIZE)
    return TileTraining(model, TrainingConfig.for_model(model), source, TILE)


def test_means_by_position_are_those_of_whole_images():
    training = prepared(scale_maps="position", scale_score="position", subspace=False)
    model = training.model.eval()
    first = whole_images(model, training.source.dataset, torch.arange(4))
    take_means(model, Tiling(model, SIZE, TILE), first)
    images = torch.from_numpy(good_images(6)[:4]).permute(0, 3, 1, 2)
    with torch.inference_mode():
        [level] = model.level_maps({"image": images / 255})
    mean = level.double().mean(dim=(0, 1, 2))
    means = (level.double().sum(dim=0) + 2 * mean) / 6
    expected = torch.nn.functional.adaptive_avg_pool2d(means[None], 64)[0]
    torch.testing.assert_close(model.distance_means[0].double(), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("given", ["auto", "none"])
def test_whole_images_choose_whether_maps_are_scaled_by_position(tmp_path, given):
    """A stripe of noise, new in each image, is no defect, and hides those beside it."""
    images = good_images(24) // 8 + 112
    images[:, 40:70] = np.random.default_rng(1).integers(0, 256, (24, 30, 136, 3))
    detector = fastad.Detector(
        "patchcore",
        precision="float32",
        image_size=SIZE,
        teacher_weights="embedded",
        layers=("layer1",),
        false_positive_rate=0.25,
        scale_maps=given,
    )
    options = {"validation_fraction": 0.5, "self_check": False}
    detector.fit(images.astype(np.uint8), tile=TILE, **options)
    detector.save(tmp_path / "d.fastad")
    loaded = fastad.load(tmp_path / "d.fastad", precision="float32")
    is_chosen = given == "auto"
    assert loaded.model_.choice().scale_maps == ("position" if is_chosen else "none")
    words = dict(choice_lines(loaded.training_record_["choice"]))["anomaly map"]
    assert words.startswith("scaled by position" if is_chosen else "not scaled")
    result = loaded.predict(images[:2])
    loaded._fitted().tile = None
    whole = loaded.predict(images[:2])
    np.testing.assert_allclose(result.anomaly_map, whole.anomaly_map, rtol=1e-5, atol=1e-5)


def test_a_training_is_kept_where_the_choice_on_whole_images_is_stopped(monkeypatch):
    def stopped(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(in_tiles, "choose_scaling", stopped)
    detector = fastad.Detector(
        "patchcore",
        image_size=SIZE,
        layers=("layer1",),
        teacher_weights="embedded",
        false_positive_rate=0.25,
    )
    options = {"validation_fraction": 0.5, "self_check": False}
    detector.fit(good_images(8), tile=TILE, **options)
    assert "maps are not scaled: the user stopped" in " ".join(detector.training_record_["notes"])
    assert detector.model_.choice().scale_maps == "none"


def test_pooling_is_a_share_of_the_region():
    mask = torch.zeros(SIZE, dtype=torch.bool)
    mask[:52] = True
    training = prepared(mask)
    training.model.choose(models.map_model.MapChoice(pooling=0.01))
    training._pool_by_area()
    assert training.model.chosen.pooling == pytest.approx(0.01 * 48 * 64 / (52 * 136))


def test_a_pooling_that_is_given_is_of_whole_images():
    """On a tile so many pixels are another share."""
    training = prepared(pooling=0.01)
    seen = []

    class Stub:
        def fit(self, tiles, **options):
            seen.append(training.model.choice().pooling)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        training.fit(Stub())
    assert seen == [pytest.approx(0.01 * SIZE[0] * SIZE[1] / (TILE[0] * TILE[1]))]
    assert training.model.config.pooling == 0.01


def test_an_area_is_one_of_the_original_images():
    model = models.build("subspace", teacher_weights="embedded", pooling="60px")
    with pytest.raises(ValueError, match="once images have a size"):
        model.choice()
    settle_pooling([model], (200, 300))
    assert model.choice().pooling == pytest.approx(60 / (200 * 300))
    model = models.build("subspace", teacher_weights="embedded", pooling="60px")
    mask = torch.zeros(100, 150, dtype=torch.bool)
    mask[:50] = True
    model.set_roi(mask)
    settle_pooling([model], (200, 300))
    assert model.choice().pooling == pytest.approx(60 / (100 * 300))
    for area, shape in (("60px", None), ("1mm2", (200, 300)), ("50000px", (200, 300))):
        model = models.build("subspace", teacher_weights="embedded", pooling=area)
        with pytest.raises(ValueError, match=f"pooling {area}"):
            settle_pooling([model], shape)
    with pytest.raises(ValueError, match="60px"):
        models.build("subspace", teacher_weights="embedded", pooling="60 inches")


def test_models_that_learn_from_no_tiles_are_refused():
    for name in ("auto", "prn", "gtrans"):
        with pytest.raises(ValueError, match=f"tile: {name} cannot be trained on tiles"):
            fastad.Detector(name, image_size=64).fit(good_images(4), tile=32)


def rstpm(**options):
    torch.manual_seed(0)
    teachers = {"teacher1": "resnet18", "teacher2": "resnet18", "bottleneck": "learned"}
    weights = {"teacher_weights": None, "teacher2_weights": None, "discriminator_width": 8}
    return models.build("rstpm", **teachers, **weights, **options)


def test_no_image_has_tiles_in_both_halves():
    """Of those that RSTPM's second stage learns from, and those that its epoch is chosen by."""
    model = rstpm()
    tiles = TileDataset(torch.zeros(12, 3, *SIZE, dtype=torch.uint8), SIZE, TILE)
    train, apart = torch.arange(6), torch.arange(6, 11)
    items = [torch.tensor(tiles.of_images(some.tolist())) for some in (train, apart)]
    first, second = plan_stages(model, TrainingConfig.for_model(model), tiles, *items)
    assert len(first.unseen) == 0
    unseen, left = ({*(some // tiles.each).tolist()} for some in (second.unseen, second.held_out))
    assert (len(unseen), len(left)) == (2, 3)
    assert unseen | left == {*apart.tolist()}
    assert len(second.unseen) == 2 * tiles.each
    assert "2 of 5 held-out images" in held_out_notes([second])[0]


def test_networks_that_learn_from_scaled_maps_take_no_positions():
    model, source = rstpm(scale_maps="position"), read_training_set(good_images(6), SIZE)
    with pytest.raises(ValueError, match="does not know where it lies"):
        TileTraining(model, TrainingConfig.for_model(model), source, TILE)


@pytest.mark.slow
def test_rstpm_learns_from_tiles():
    detector = fastad.Detector(
        "rstpm",
        image_size=(64, 64),
        precision="float32",
        false_positive_rate=0.5,
        teacher1="resnet18",
        teacher2="resnet18",
        bottleneck="learned",
        teacher_weights="embedded",
        teacher2_weights="embedded",
        discriminator_width=8,
    )
    images = np.random.default_rng(0).integers(100, 156, (7, 64, 64, 3), dtype=np.uint8)
    options = {"epochs": 1, "min_steps": 0, "validation_fraction": 0.3, "pseudo_anomalies": 8}
    detector.fit(images, tile=32, self_check=False, **options)
    record = detector.training_record_
    assert [stage["name"] for stage in record["stages"]] == ["pairs", "discriminator"]
    assert len(record["held_out"]) == len(detector.calibration_scores_) == 1
    choice = detector.model_.choice()
    assert {choice.scale_maps, choice.scale_score} == {"level"}
    result = detector.predict(images[:2])
    detector._fitted().tile = None
    whole = detector.predict(images[:2])
    np.testing.assert_allclose(result.anomaly_map, whole.anomaly_map, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(result.score, whole.score, rtol=1e-4)


def test_the_command_line(tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from fastad.cli import app

    monkeypatch.chdir(tmp_path)
    (tmp_path / "good").mkdir()
    for index, pixels in enumerate(good_images(6)):
        Image.fromarray(pixels).save(tmp_path / "good" / f"{index}.png")
    asked = ["train", "good", "--model", "patchcore", "--teacher-weights", "embedded"]
    asked += ["--tile", "32x40", "--output", "part.fastad", "--resolution", "5"]
    asked += ["--set", "pooling=0.25mm2"]
    done = CliRunner().invoke(app, [*asked, "--set", "layers=layer1", "--mm-per-pixel", "0.1"])
    assert done.exit_code == 0, done.output
    detector = fastad.load("part.fastad")
    assert detector.image_size_ == (52, 68)
    assert detector._fitted().tile == (32, 40)
    assert detector.model_.choice().pooling == pytest.approx(25 / (SIZE[0] * SIZE[1]))
    for more, said in (
        (["--image-size", "64", "--scale", "0.5"], "exclude each other"),
        ([], "needs --mm-per-pixel"),
        (["--mm-per-pixel", "0.3"], "at most 3.33333"),
    ):
        wrong = CliRunner().invoke(app, [*asked, *more])
        assert wrong.exit_code == 2
        assert said in " ".join(wrong.output.replace("│", " ").split())
