"""One range of 16-bit pixels from the training to the line, in files and in memory."""

import json
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import fastad
from fastad.cli import main
from fastad.data import PixelRange, read_image
from fastad.data.facts import ImageFacts
from fastad.data.synthesis import real_defects
from fastad.export.export import metadata
from fastad.export.verification import image_batches
from fastad.inference import load as load_artifact
from fastad.training import CheckpointError

sys.path.insert(0, str(Path(__file__).parent / "data"))
from deep_files import write_png, write_tiff

TRAINING = {"epochs": 1, "batch_size": 4}


def images_of(number, seed=0, shape=(40, 48, 3)):
    """Pictures of a camera with 12 bits, and one value that needs them."""
    values = np.random.default_rng(seed).integers(800, 1600, (number, *shape)).astype(np.uint16)
    values[:, :4, :4] = 4095
    return values


@pytest.fixture(scope="module")
def deep_set(tmp_path_factory):
    """A folder of 16-bit files like MVTec AD: good ones to train on, good and bad ones to test."""
    root = tmp_path_factory.mktemp("deep")
    for name, number, seed in (("train/good", 12, 0), ("test/good", 3, 1), ("test/spot", 3, 2)):
        (root / name).mkdir(parents=True)
        images = images_of(number, seed)
        if "spot" in name:
            images[:, 10:30, 10:30] = 3500
        for i, image in enumerate(images):
            write = write_png if i % 2 else write_tiff
            write(root / name / f"{i}.{'png' if i % 2 else 'tif'}", image)
    return root


def detector_of(**options):
    return fastad.Detector(
        "stpm",
        image_size=32,
        layers=("layer1",),
        teacher_weights="embedded",
        precision="float32",
        device="cpu",
        false_positive_rate=0.4,
        **options,
    )


@pytest.fixture(scope="module")
def trained(deep_set):
    return detector_of().fit(deep_set / "train/good", **TRAINING)


def test_the_range_is_chosen_and_kept(trained, tmp_path):
    assert trained.pixel_range_ == PixelRange(0, 4095)
    assert trained.bit_depth == "auto"
    trained.save(tmp_path / "a.fastad")
    loaded = fastad.load(tmp_path / "a.fastad")
    assert loaded.pixel_range_ == PixelRange(0, 4095)
    assert loaded.bit_depth == 12
    assert loaded.get_params()["bit_depth"] == 12
    pixels = images_of(2, 5)
    assert np.array_equal(loaded.predict(pixels).score, trained.predict(pixels).score)


def test_files_and_memory_give_the_same_scores(trained, deep_set):
    paths = sorted((deep_set / "test/spot").iterdir())
    images = images_of(3, 2)
    images[:, 10:30, 10:30] = 3500
    expected = trained.predict(paths).score
    tensor = torch.from_numpy(np.moveaxis(images, 3, 1).copy())
    opened = [Image.open(path) for path in paths]
    for form in (images, list(images), tensor, opened, [str(path) for path in paths]):
        assert np.array_equal(trained.predict(form).score, expected)
    with_levels = np.stack([read_image(p, PixelRange(0, 4095)).numpy() for p in paths])
    assert np.array_equal(trained.predict(torch.from_numpy(with_levels)).score, expected)


def test_training_from_memory_is_the_same(trained):
    images = [image for image in images_of(12)]
    again = detector_of().fit(images, **TRAINING)
    assert again.pixel_range_ == trained.pixel_range_
    assert again.threshold_ == trained.threshold_
    whole = detector_of().fit(np.stack(images), **TRAINING)
    assert whole.threshold_ == trained.threshold_


def test_evaluation_and_explanations_read_by_it(trained, deep_set):
    metrics = trained.evaluate(deep_set)
    assert metrics["image_auroc"] == 1.0
    scores = []
    trained.evaluate(
        deep_set, observe=lambda sample, score, *_: scores.append((sample.path, score))
    )
    expected = trained.predict([path for path, _ in scores]).score
    assert np.array_equal([score for _, score in scores], expected)


@pytest.mark.parametrize(("option", "expected"), [(14, (0, 16383)), ("700-1700", (700, 1700))])
def test_a_given_range_is_used(deep_set, tmp_path, option, expected):
    detector = detector_of(bit_depth=option).fit(deep_set / "train/good", **TRAINING)
    assert detector.pixel_range_ == PixelRange(*expected)
    detector.save(tmp_path / "a.fastad")
    assert fastad.load(tmp_path / "a.fastad").bit_depth == option


def test_a_wrong_option_is_told_before_images_are_read(tmp_path):
    with pytest.raises(ValueError, match="bit_depth must be auto"):
        detector_of(bit_depth=20).fit(tmp_path / "nothing", **TRAINING)


def test_eight_bits_keep_no_range(tmp_path):
    images = (images_of(12) >> 4).astype(np.uint8)
    detector = detector_of().fit(images, **TRAINING)
    assert detector.pixel_range_ is None
    detector.save(tmp_path / "a.fastad")
    loaded = fastad.load(tmp_path / "a.fastad")
    assert (loaded.pixel_range_, loaded.bit_depth) == (None, "auto")


def test_a_file_without_a_range_reads_as_before(trained, tmp_path):
    trained.save(tmp_path / "a.fastad")
    artifact = load_artifact(tmp_path / "a.fastad")
    artifact.pixel_range = None  # as of a file that was written before there was one
    predictor = artifact.predictor(device="cpu", precision="float32")
    path = write_png(tmp_path / "a.png", images_of(1)[0] * 16)
    expected = ((images_of(1)[0].astype(int) * 16) >> 8).astype(np.uint8)
    assert np.array_equal(predictor.predict(path).score, predictor.predict(expected).score)


def test_a_file_without_facts_expects_nothing(trained, tmp_path):
    trained.save(tmp_path / "a.fastad")
    artifact = load_artifact(tmp_path / "a.fastad")
    assert artifact.facts == ImageFacts(pytest.approx(1.2), False, True, 255)
    artifact.facts = ImageFacts()
    upright = np.random.default_rng(0).integers(0, 256, (60, 40, 3), np.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        artifact.predictor(device="cpu").predict(upright)


def test_images_unlike_those_of_the_training_are_told_once(trained, deep_set, tmp_path):
    trained.save(tmp_path / "a.fastad")
    rng = np.random.default_rng(0)
    upright = rng.integers(0, 256, (60, 40, 3), np.uint8)
    bright = rng.integers(3000, 6000, (40, 48, 3), np.uint16)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("default")
        loaded = fastad.load(tmp_path / "a.fastad")
        loaded.predict(sorted((deep_set / "test/good").iterdir()))
        assert not said
        for _ in range(2):
            loaded.predict([upright, upright, bright])
            loaded.predict(np.stack([upright] * 3))
    texts = [str(warning.message) for warning in said]
    assert len(texts) == 3
    for words in ("60x40", "8 bits a value", "outside of 0 to 4095"):
        assert sum(words in text for text in texts) == 1, words


def test_an_evaluation_tells_too(trained, tmp_path):
    for name in ("good", "spot"):
        (tmp_path / "test" / name).mkdir(parents=True)
        Image.fromarray(np.zeros((60, 40), np.uint8)).save(tmp_path / "test" / name / "0.png")
    trained.save(tmp_path / "a.fastad")
    with pytest.warns(UserWarning, match=r"0\.png is 60x40 \(height x width\)"):
        fastad.load(tmp_path / "a.fastad").evaluate(tmp_path)


def test_exports_name_the_range(trained, deep_set, tmp_path):
    facts = metadata(trained._artifact)
    assert facts["pixel_range"] == [0, 4095]
    # As the page on exports has it, without fastad.
    values = images_of(1)[0]
    low, high = facts["pixel_range"]
    levels = ((values.astype(float) - low) / (high - low) * 255 + 0.5).clip(0, 255).astype(np.uint8)
    assert np.array_equal(levels, PixelRange(low, high).levels(values))
    paths = sorted((deep_set / "test/good").iterdir())
    compared = np.concatenate(list(image_batches(paths, PixelRange(low, high))))
    assert np.array_equal(compared, PixelRange(low, high).levels(images_of(3, 1)))
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "fastad.export.export.image_batches",
            lambda images, pixel_range: seen.append(pixel_range) or image_batches(images),
        )
        checked = trained.export(tmp_path / "a.pt2", "torch-export", images=paths)
    assert (seen, checked.images, checked.changed_decisions) == ([PixelRange(0, 4095)], 3, 0)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        trained.export(tmp_path / "a.pt2", "torch-export")  # compared on random images
    assert not [warning for warning in said if "said once" in str(warning.message)]


def test_another_range_is_another_training(deep_set, tmp_path):
    images, checkpoint = deep_set / "train/good", tmp_path / "a.ckpt"
    detector_of().fit(images, **TRAINING, checkpoint=checkpoint)
    detector_of().fit(images, epochs=2, batch_size=4, checkpoint=checkpoint, resume=True)
    with pytest.raises(CheckpointError, match="bit depth 12 in the file, 14 now"):
        detector_of(bit_depth=14).fit(
            images, epochs=3, batch_size=4, checkpoint=checkpoint, resume=True
        )


def run(arguments):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return ended.value.code


def test_the_command_line(deep_set, tmp_path, capsys, monkeypatch):
    file = str(tmp_path / "a.fastad")
    options = "--model stpm --image-size 32 --epochs 1 --batch-size 4 --teacher-weights embedded"
    train = ["train", str(deep_set), "--output", file, *options.split(), "--set", "layers=layer1"]
    assert run([*train, "--bit-depth", "14"]) == 0
    assert fastad.load(file).pixel_range_ == PixelRange(0, 16383)
    assert run([*train, "--bit-depth", "33"]) == 2
    assert "bit_depth must be auto" in capsys.readouterr().err
    assert run(["info", file]) == 0
    assert "14 bits, 0 to 16383" in capsys.readouterr().out
    picture = str(deep_set / "test/spot/0.tif")
    levels = read_image(picture, PixelRange(0, 16383)).permute(1, 2, 0).numpy()
    shown = []
    monkeypatch.setattr(
        "fastad.commands.predict.save_heatmap", lambda path, image, *_: shown.append(image)
    )
    arguments = [
        "--output",
        str(tmp_path / "out"),
        "--heatmaps",
        "--json",
        str(tmp_path / "a.json"),
    ]
    assert run(["predict", file, picture, *arguments]) == 0
    assert np.array_equal(shown[0], levels)
    assert len(json.loads((tmp_path / "a.json").read_text())["images"]) == 1
    assert run(["evaluate", file, str(deep_set), "--report", str(tmp_path / "report")]) == 0
    pictures = [path for path in (tmp_path / "report/pictures").iterdir() if path.suffix == ".jpg"]
    assert len(pictures) == 6
    for path in pictures:  # read with all 16 bits they would be four times darker
        assert 15 < np.asarray(Image.open(path)).mean() < 40


@pytest.mark.slow
def test_real_defects_are_read_by_it(deep_set, tmp_path):
    for path in (deep_set / "test/spot").iterdir():
        mask = np.zeros((40, 48), np.uint8)
        mask[10:30, 10:30] = 255
        (tmp_path / "ground_truth/spot").mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(tmp_path / f"ground_truth/spot/{path.stem}_mask.png")
        (tmp_path / "test/spot").mkdir(parents=True, exist_ok=True)
        (tmp_path / "test/spot" / path.name).write_bytes(path.read_bytes())
    read = []
    detector = fastad.Detector(
        "prn", image_size=32, teacher_weights="embedded", bit_depth=12, device="cpu"
    )
    original = real_defects.read_image

    def watched(path, pixel_range=None):
        read.append(pixel_range)
        return original(path, pixel_range)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(real_defects, "read_image", watched)
        detector.fit(
            deep_set / "train/good", epochs=1, pseudo_anomalies=2, defects=tmp_path / "test"
        )
    assert set(read) == {PixelRange(0, 4095)}
