"""Options come as numpy's, torch's and other values; Python's own are kept and written."""

import enum
import json
import math
import pickle
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from fastad import models
from fastad._values import is_integer, is_number, plain
from fastad.data import parse_size
from fastad.data.synthesis import PseudoAnomalies
from fastad.inference import conformal_threshold
from fastad.training import TrainingConfig


class Elsewhere:
    """A path of a class that nobody knows."""

    def __init__(self, name):
        self.name = name

    def __fspath__(self):
        return self.name


class Column:
    """What a column of a table has in common with pandas' and polars'."""

    def __init__(self, values):
        self.values = values

    def to_numpy(self):
        return np.array(self.values)

    def __array__(self, dtype=None, copy=None):
        return np.array(self.values, dtype=dtype)


class Names(str, enum.Enum):
    SGD = "sgd"


class Sizes(enum.IntEnum):
    SMALL = 64


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.int64(3), 3),
        (np.uint8(3), 3),
        (np.array(3), 3),
        (torch.tensor(3), 3),
        (torch.tensor(3, dtype=torch.uint16), 3),
        (Sizes.SMALL, 64),
        (np.float64(0.5), 0.5),
        (np.float32(0.5), 0.5),
        (np.float16(0.5), 0.5),
        (np.longdouble(0.5), 0.5),
        (np.array(0.5), 0.5),
        (torch.tensor(0.5, dtype=torch.bfloat16, requires_grad=True), 0.5),
        (Fraction(1, 2), 0.5),
        (np.bool_(True), True),
        (np.array(False), False),
        (torch.tensor(True), True),
        (np.str_("sgd"), "sgd"),
        (np.array("sgd"), "sgd"),
        (Names.SGD, "sgd"),
        (Path("a/b"), "a/b"),
        (Elsewhere("a/b"), "a/b"),
        (np.complex64(1j), 1j),
        (np.array([64, 96]), [64, 96]),
        (np.array([[1.5], [2]]), [[1.5], [2.0]]),
        (np.array([np.int8(1), "a"], dtype=object), [1, "a"]),
        (torch.tensor([64, 96]), [64, 96]),
        (torch.Size([64, 96]), (64, 96)),
        (Column([1, 2]), [1, 2]),
        ([np.int64(1), (np.float32(0.5), None)], [1, (0.5, None)]),
        ({np.str_("head"): {"epochs": np.int64(3)}}, {"head": {"epochs": 3}}),
    ],
)
def test_values_become_pythons_own(value, expected):
    found = plain(value)
    assert found == expected
    assert types(found) == types(expected)


def types(value):
    if isinstance(value, dict):
        return {types(k): types(v) for k, v in value.items()}
    parts = tuple(map(types, value)) if isinstance(value, (list, tuple)) else ()
    return type(value), parts


@pytest.mark.parametrize(
    "value", [None, True, torch.nn.ReLU(), torch.device("cpu"), np.datetime64("2020"), b"x"]
)
def test_everything_else_stays_as_it_is(value):
    assert plain(value) is value
    assert plain([value])[0] is value


def test_a_column_of_pandas_is_a_list():
    pandas = pytest.importorskip("pandas")
    assert plain(pandas.Series([64, 96], index=[7, 8])) == [64, 96]


def test_what_a_number_is():
    assert is_integer(3, 3)
    assert not any(is_integer(value, 0) for value in (-1, True, 1.0, "1", None, [1], math.nan))
    assert is_number(3)
    assert is_number(0.5, 0.5)
    wrong = (True, math.nan, math.inf, -math.inf, 1j, "1", None, [1], torch.nn.ReLU())
    assert not any(map(is_number, wrong))
    assert not is_number(0.4, 0.5)


FORMS = [np.int64, np.int32, np.uint8, np.array, torch.tensor]
REAL_FORMS = [np.float64, np.float32, np.float16, np.longdouble, np.array, torch.tensor]


@pytest.mark.parametrize("form", FORMS)
def test_integers_of_a_training(form):
    names = ("epochs", "batch_size", "seed", "workers", "pseudo_anomalies", "feature_cache_gib")
    same(TrainingConfig(**{name: form(3) for name in names}), {name: 3 for name in names})
    config = TrainingConfig(stages={"head": {"epochs": form(3), "learning_rate": form(1)}})
    same(config, {"stages": {"head": {"epochs": 3, "learning_rate": 1}}})
    same(TrainingConfig(defects="d", defect_images=form(3)), {"defect_images": 3})


@pytest.mark.parametrize("form", REAL_FORMS)
def test_numbers_of_a_training(form):
    names = ("learning_rate", "momentum", "weight_decay", "validation_fraction", "own_patches")
    same(TrainingConfig(**{name: form(0.5) for name in names}), {name: 0.5 for name in names})
    same(TrainingConfig(betas=(form(0.5), form(0.75))), {"betas": (0.5, 0.75)})
    if form is not np.longdouble:
        same(TrainingConfig(betas=form([0.5, 0.75])), {"betas": (0.5, 0.75)})


@pytest.mark.parametrize("form", [np.bool_, np.array, torch.tensor])
def test_switches_of_a_training(form):
    names = ("channels_last", "deterministic", "on_foreground")
    same(TrainingConfig(**{name: form(True) for name in names}), {name: True for name in names})


@pytest.mark.parametrize("form", [np.str_, np.array])
def test_names_and_paths_of_a_training(form):
    names = {"optimizer": "sgd", "schedule": "cosine", "precision": "float32", "device": "cpu"}
    same(TrainingConfig(**{name: form(value) for name, value in names.items()}), names)
    for path in (form("a/b"), Path("a/b"), Elsewhere("a/b")):
        same(TrainingConfig(textures=path, defects=path), {"textures": "a/b", "defects": "a/b"})


def same(config, expected):
    for name, value in expected.items():
        found = getattr(config, name)
        assert found == value, name
        assert types(found) == types(value), name
    json.dumps(vars(config))
    assert pickle.loads(pickle.dumps(config)) == config


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("config", "names"),
    [
        (models.GTransConfig, ("tokens", "token_width", "smoothing")),
        (models.PRNConfig, ("max_prototypes", "focal_weight", "focal_gamma")),
        (models.RSTPMConfig, ("attention_reduction", "discriminator_width", "smoothing")),
        (models.UTADConfig, ("impression_width", "latents", "neighbours", "bank", "smoothing")),
    ],
)
def test_numbers_of_models(form, config, names):
    same(config(**{name: form(3) for name in names}), {name: 3 for name in names})


@pytest.mark.parametrize("sequence", [np.array, torch.tensor, list, tuple, Column])
def test_sequences_of_models(sequence):
    same(models.RSTPMConfig(decoder_blocks=sequence([2, 3, 4])), {"decoder_blocks": (2, 3, 4)})
    factors = (0.5, 1.0, 1.5, 2.0)
    same(models.UTADConfig(expert_factors=sequence(factors)), {"expert_factors": factors})
    same(models.STPMConfig(weights=sequence([1, 0.5, 2])), {"weights": [1.0, 0.5, 2.0]})
    if sequence is not torch.tensor:
        layers = ("layer1", "layer2")
        same(models.STPMConfig(layers=sequence(layers)), {"layers": layers})
    assert parse_size(sequence([64, 96])) == (64, 96)


@pytest.mark.parametrize("form", FORMS)
def test_sizes(form):
    assert parse_size(form(64)) == (64, 64)
    assert parse_size((form(64), form(96))) == (64, 96)
    assert parse_size(np.str_("64x96")) == (64, 96)
    same(models.RSTPMConfig(discriminator_stride=form(2)), {"discriminator_stride": 2})


@pytest.mark.parametrize("form", REAL_FORMS)
def test_rates_and_shares(form):
    scores = np.arange(100) / 100
    assert conformal_threshold(scores, form(0.25)) == conformal_threshold(scores, 0.25)
    images = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    assert PseudoAnomalies(images, [0], own_patches=form(0.25)).own_patches == 0.25
    assert PseudoAnomalies(images, [0], seed=np.uint8(7)).seed == 7


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (np.float64(3), "3.0"),
        (np.int64(0), "0"),
        (np.bool_(True), "True"),
        (True, "True"),
        (np.array([3, 4]), r"\[3, 4\]"),
        (torch.tensor([3]), r"\[3\]"),
        (np.float32("nan"), "nan"),
        (np.float64("inf"), "inf"),
        (np.complex128(3), r"\(3\+0j\)"),
        (np.str_("3"), "'3'"),
        (None, "None"),
    ],
)
def test_what_is_no_integer_is_shown_as_people_write_it(value, shown):
    match = rf"must be an integer of at least 1; got {shown}$"
    for name in ("epochs", "batch_size"):
        with pytest.raises(ValueError, match=f"{name} {match}"):
            TrainingConfig(**{name: value})
    for config, name in (
        (models.GTransConfig, "tokens"),
        (models.PRNConfig, "max_prototypes"),
        (models.RSTPMConfig, "discriminator_width"),
        (models.UTADConfig, "bank"),
    ):
        with pytest.raises(ValueError, match=f"{name} {match}"):
            config(**{name: value})


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (np.float64(64), "64.0"),
        (np.bool_(True), "True"),
        (np.array([64.0, 96.0]), r"\[64.0, 96.0\]"),
        (np.array([64, 96, 3]), r"\[64, 96, 3\]"),
        (torch.tensor(float("nan")), "nan"),
        ((np.int64(64), True), r"\(64, True\)"),
        (np.int64(0), "0"),
        (np.array([64, -96]), r"\[64, -96\]"),
        (["64", "96"], r"\['64', '96'\]"),
    ],
)
def test_what_is_no_size_is_shown_as_people_write_it(value, shown):
    with pytest.raises(ValueError, match=f"image size must be like 256 .* got {shown}$"):
        parse_size(value)


@pytest.mark.parametrize(
    "value", [np.nan, np.float32("inf"), np.complex64(0.5), np.bool_(True), "0.5", [0.5], None]
)
def test_what_is_no_number_is_refused(value):
    if value is not None:
        for name in ("learning_rate", "momentum", "weight_decay", "own_patches"):
            with pytest.raises(ValueError, match=f"{name} must be "):
                TrainingConfig(**{name: value})
    for config in (models.STPMConfig, models.RSTPMConfig, models.UTADConfig, models.GTransConfig):
        with pytest.raises(ValueError, match="eps must be a number above 0; got "):
            config(eps=value)
    with pytest.raises(ValueError, match="weights must be finite numbers"):
        models.STPMConfig(weights=[1, value, 1])
    with pytest.raises(ValueError, match="false_positive_rate must be between 0 and 1"):
        conformal_threshold(np.arange(9.0), value)


def test_a_long_value_is_cut_short():
    with pytest.raises(ValueError, match=r"epochs must be .{1,250}$"):
        TrainingConfig(epochs=np.zeros(10_000))
