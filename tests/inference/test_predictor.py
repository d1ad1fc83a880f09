"""Every kind of input gives the same prediction as the model on a plain tensor."""

import copy
import types

import numpy as np
import pytest
import torch
from PIL import Image

from fastad.data import ImageError
from fastad.inference import Predictor, p_values

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 40, 32, 3), dtype=np.uint8)
SIZE = (40, 32)


@pytest.fixture
def predictor(small_model):
    return Predictor(
        copy.deepcopy(small_model), SIZE, device="cpu", precision="float32", batch_size=2
    )


@pytest.fixture
def expected(small_model):
    with torch.inference_mode():
        return small_model(torch.from_numpy(IMAGES).permute(0, 3, 1, 2).float() / 255)


@pytest.fixture
def folder(tmp_path):
    for i, pixels in enumerate(IMAGES):
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    return tmp_path


def same(result, expected):
    assert result.score.dtype == result.anomaly_map.dtype == np.float32
    np.testing.assert_allclose(result.score, expected.score.numpy(), rtol=1e-4)
    np.testing.assert_allclose(
        result.anomaly_map, expected.anomaly_map.numpy(), rtol=1e-5, atol=1e-6
    )


def test_arrays_and_tensors(predictor, expected):
    tensor = torch.from_numpy(IMAGES).permute(0, 3, 1, 2)
    same(predictor.predict(IMAGES), expected)
    same(predictor.predict(tensor), expected)
    same(predictor.predict(tensor.float() / 255), expected)
    same(predictor.predict(tensor.double() / 255), expected)


def test_files_and_pillow_images(predictor, expected, folder):
    paths = sorted(folder.iterdir())
    pillow = [Image.fromarray(pixels) for pixels in IMAGES]
    same(predictor.predict(folder), expected)
    same(predictor.predict(str(folder)), expected)
    same(predictor.predict(paths), expected)
    same(predictor.predict(iter(paths)), expected)
    same(predictor.predict(pillow), expected)
    same(predictor.predict([*pillow[:2], str(paths[2]), *paths[3:]]), expected)
    assert predictor.predict(paths[0]).score == pytest.approx(expected.score[:1].numpy(), rel=1e-4)
    assert predictor.predict(pillow[0]).score == pytest.approx(expected.score[:1].numpy(), rel=1e-4)


def test_all_inputs_pass_the_same_resize(small_model, folder):
    predictor = Predictor(copy.deepcopy(small_model), "20x24", device="cpu", precision="float32")
    by_file, by_array = predictor.predict(folder), predictor.predict(IMAGES)
    assert by_file.anomaly_map.shape == (5, 20, 24)
    assert np.array_equal(by_file.score, by_array.score)
    floats = torch.from_numpy(IMAGES).permute(0, 3, 1, 2).float() / 255
    # Floats are not rounded to grey levels after the resize: close, not the same.
    assert predictor.predict(floats).score == pytest.approx(by_file.score, rel=0.05)


def test_a_view_with_negative_strides(predictor):
    flipped = predictor.predict(IMAGES[:, ::-1])
    assert np.array_equal(flipped.score, predictor.predict(IMAGES[:, ::-1].copy()).score)


def test_a_device_works_while_the_next_batch_is_read(predictor, monkeypatch):
    events = []
    plain = Predictor.start

    def start(self, images, sizes=None, tiling=None):
        number = sum(event[0] == "start" for event in events)
        events.append(("start", number))

        def finish():
            events.append(("finish", number))
            return plain(self, images, sizes, tiling)()

        return finish

    monkeypatch.setattr(Predictor, "start", start)
    images = torch.rand(7, 3, *SIZE)
    expected = predictor.predict(images).score
    order = [("start", 0), ("finish", 0), ("start", 1), ("finish", 1)]
    assert events[:4] == order
    events.clear()
    # Only the order is looked at: the model runs where it is.
    device, plain_start = predictor.device, predictor._start
    monkeypatch.setattr(
        predictor,
        "_start",
        lambda *way: (setattr(predictor, "device", device), plain_start(*way))[1],
    )
    monkeypatch.setattr(predictor, "device", torch.device("cuda"))
    first = predictor.stream(images)
    assert len(next(first).score) == 2
    assert events == [("start", 0), ("start", 1), ("finish", 0)]
    assert np.array_equal(expected[2:], np.concatenate([result.score for result in first]))
    assert [number for what, number in events if what == "finish"] == [0, 1, 2, 3]


def test_stream_holds_one_batch_at_a_time(predictor, folder):
    taken = []

    def paths():
        for path in sorted(folder.iterdir()) * 4:
            taken.append(path)
            yield path

    stream = predictor.stream(paths())
    assert isinstance(stream, types.GeneratorType)
    assert len(next(stream).score) == 2
    assert len(taken) <= 4  # this batch and the next
    assert sum(len(result.score) for result in stream) == 18


def test_many_images_tell_their_pace(predictor, caplog, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("fastad.inference.throughput.time.perf_counter", lambda: clock[0])
    images = torch.from_numpy(IMAGES).permute(0, 3, 1, 2)
    with caplog.at_level("INFO", "fastad"):
        predictor.predict(images)
        assert not caplog.messages
        for _ in predictor.stream(images.repeat(13, 1, 1, 1)):
            clock[0] += 5.0
    (said,) = caplog.messages
    assert said == (
        "65 images at 0.4 a second; the slowest was using the results (100% of the time)"
    )


def test_explanations_are_the_models(predictor, small_model, folder):
    pictures = predictor.explain(IMAGES)
    with torch.no_grad():
        expected = small_model.explain(torch.from_numpy(IMAGES).permute(0, 3, 1, 2).float() / 255)
    assert list(pictures) == list(expected)
    assert predictor.explains == bool(expected)
    for name, picture in pictures.items():
        assert picture.dtype == np.uint8
        assert picture.shape == IMAGES.shape
        levels = 255 * expected[name].permute(0, 2, 3, 1).numpy()
        assert np.abs(picture - levels).max() < 1


def test_decisions_and_p_values(small_model):
    plain = Predictor(copy.deepcopy(small_model), SIZE, device="cpu").predict(IMAGES)
    assert plain.is_anomalous is None
    assert plain.p_value is None
    limit = float(np.median(plain.score))
    calibration = np.array([0.0, limit, 1e9])
    result = Predictor(
        copy.deepcopy(small_model), SIZE, device="cpu", threshold=limit, calibration=calibration
    ).predict(IMAGES)
    assert result.is_anomalous.dtype == bool
    assert np.array_equal(result.is_anomalous, result.score > np.float32(limit))
    assert result.is_anomalous.sum() == 2  # strictly above the median of five
    assert np.array_equal(result.p_value, p_values(result.score, calibration))


@pytest.mark.filterwarnings("ignore:this CPU has no bfloat16")
def test_bfloat16_is_close(small_model, expected):
    result = Predictor(
        copy.deepcopy(small_model), SIZE, device="cpu", precision="bfloat16"
    ).predict(IMAGES)
    assert result.score.dtype == np.float32
    np.testing.assert_allclose(result.score, expected.score.numpy(), rtol=0.1)


@pytest.mark.parametrize(
    ("images", "error", "match"),
    [
        (np.zeros((2, 8, 8), np.uint8), ValueError, r"of shape \(N, H, W, 3\), .*; got uint8"),
        (np.zeros((2, 8, 8, 3), np.int64), ValueError, r"got int64 \(2, 8, 8, 3\): use .*uint8"),
        (np.full((2, 8, 8, 3), 2.0), ValueError, r"in \[0, 1\].*; got float64 from 2 to 2"),
        (torch.zeros(2, 8, 8, 3), ValueError, r"shape \(N, 3, H, W\).*; got \(2, 8, 8, 3\)"),
        (torch.zeros(2, 8, 8), ValueError, r"got \(2, 8, 8\)"),
        (torch.zeros(8, 8), ValueError, r"got \(8, 8\)"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.int32), TypeError, "got torch.int32"),
        (torch.full((1, 3, 8, 8), 255.0), ValueError, r"in \[0, 1\]; got 255 to 255"),
        (torch.full((1, 3, 8, 8), float("nan")), ValueError, r"in \[0, 1\]; got nan"),
        (torch.zeros(0, 3, 8, 8), ValueError, "images: there are no images"),
        (np.zeros((0, 8, 8, 3), np.uint8), ValueError, "images: there are no images"),
        ([], ValueError, "images: there are no images in list"),
        (7, TypeError, "images must be a path.*got int 7"),
        ([7], TypeError, "one is int 7"),
        ("nowhere.png", FileNotFoundError, r"nowhere\.png"),
    ],
)
def test_errors(predictor, images, error, match):
    with pytest.raises(error, match=match):
        predictor.predict(images)


def test_broken_file_and_empty_folder_are_named(predictor, tmp_path):
    with pytest.raises(ValueError, match="no images in"):
        predictor.predict(tmp_path)
    (tmp_path / "broken.png").write_bytes(b"\x89PNG")
    with pytest.raises(ImageError, match=r"broken\.png"):
        predictor.predict(tmp_path)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"batch_size": 0}, "batch_size must be an integer of at least 1; got 0"),
        ({"device": "tpu"}, "device must be"),
        ({"precision": "int8"}, "precision must be one of"),
        ({"image_size": "big"}, "image size must be like"),
    ],
)
def test_option_errors(tiny_stpm, options, match):
    with pytest.raises(ValueError, match=match):
        Predictor(tiny_stpm, options.pop("image_size", 32), **options)
