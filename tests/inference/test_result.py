"""What a detector says of many images, one by one, in part, and as a table."""

import builtins
from pathlib import Path

import numpy as np
import pytest

from fastad.inference import PredictionResult

N = 5


@pytest.fixture
def result():
    rng = np.random.default_rng(0)
    maps = rng.random((N, 3, 7), dtype=np.float32)
    scores = np.array([0.5, 0.1, 0.9, 0.3, 0.7], np.float32)
    paths = [Path(f"{i}.png") for i in range(N)]
    inputs = np.array(["ok", "dark", "ok", "unlike", "ok"])
    p_values = 1 - scores.astype(float)
    return PredictionResult(scores, maps, scores > 0.4, p_values, maps > 0.5, paths, inputs)


def test_one_by_one(result):
    assert len(result) == N
    for i, image in enumerate(result):
        assert image.score == result.score[i]
        assert type(image.score) is float
        assert image.is_anomalous is bool(result.is_anomalous[i])
        assert image.p_value == result.p_value[i]
        assert image.path == Path(f"{i}.png")
        assert image.input == ["ok", "dark", "ok", "unlike", "ok"][i]
        assert type(image.input) is str
        np.testing.assert_array_equal(image.anomaly_map, result.anomaly_map[i])
        np.testing.assert_array_equal(image.mask, result.mask[i])
    assert result[-1].score == result.score[-1]
    assert result[np.int64(2)].path == Path("2.png")
    with pytest.raises(IndexError):
        result[N]


@pytest.mark.parametrize(
    "index",
    [slice(1, 4), slice(None, None, -2), slice(0, 0), [3, 0], np.arange(N) % 2 == 0],
    ids=["middle", "backwards", "none", "chosen", "mask"],
)
def test_parts(result, index):
    part = result[index]
    assert type(part) is PredictionResult
    expected = np.arange(N)[index]
    assert len(part) == len(expected)
    for name in ("score", "anomaly_map", "is_anomalous", "p_value", "mask", "input"):
        np.testing.assert_array_equal(getattr(part, name), getattr(result, name)[expected])
    assert part.paths == [Path(f"{i}.png") for i in expected]


def test_what_is_not_known_stays_so(result):
    bare = PredictionResult(result.score, result.anomaly_map)
    assert bare[1:].paths is None
    assert (bare[0].is_anomalous, bare[0].p_value, bare[0].mask, bare[0].path) == (None,) * 4
    assert bare[0].input is None
    row = bare.rows()[0]
    assert (row.pop("score"), row.pop("input"), row.pop("status")) == (0.5, "unknown", "ok")
    assert set(row.values()) == {None}


def test_the_text_is_short(result):
    text = "PredictionResult(5 images, 3 anomalous, scores 0.1 to 0.9, maps 3x7)"
    assert repr(result) == text
    assert repr(result[:0]) == "PredictionResult(0 images, 0 anomalous, maps 3x7)"
    assert repr(result[0]) == "ImageResult(0.png, score 0.5, anomalous)"


def test_a_table(result):
    pandas = pytest.importorskip("pandas")
    table = result.to_pandas()
    of_scores, of_inputs = (
        ["path", "score", "p_value", "is_anomalous"],
        ["input", "status", "error"],
    )
    assert list(table.columns) == of_scores + of_inputs
    assert table["input"].tolist() == result.input.tolist()
    assert table["path"].tolist() == [f"{i}.png" for i in range(N)]
    assert table["score"].dtype == np.float64
    np.testing.assert_array_equal(table["score"], result.score)
    assert table["is_anomalous"].dtype == bool
    assert list(result[:0].to_pandas().columns) == list(table.columns)
    bare = PredictionResult(result.score, result.anomaly_map).to_pandas()
    assert pandas.isna(bare["is_anomalous"]).all()


def test_pandas_is_asked_for_where_it_is_missing(result, monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "pandas":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match="pip install pandas"):
        result.to_pandas()
