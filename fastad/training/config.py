"""How to train: one dataclass for every model."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from fastad.models import AnomalyModel
from fastad.training.precision import PRECISIONS

OPTIMIZERS = ("sgd", "adam", "adamw")


@dataclass
class TrainingConfig:
    """Options of `fastad.training.Trainer`; `for_model` fills in what a model's authors chose.

    Attributes:
        epochs: passes over the training images.
        batch_size: images a step. A last batch of a single image is left out (batch norm learns
            nothing useful from it) unless it is the only one.
        optimizer: "sgd", "adam" or "adamw".
        learning_rate: constant over the training.
        momentum: of "sgd".
        betas: of "adam" and "adamw".
        weight_decay: of the optimizer.
        validation_fraction: share of the images held out to choose the epoch by, in [0, 1).
        seed: of the split, the order of the images, and random layers.
        precision: "auto", "float32", "bfloat16" or "float16" of convolutions and products;
            parameters and their updates stay float32.
        channels_last: memory format of the model and the images.
        device: "auto", "cpu", "cuda" or "cuda:N".
        feature_cache_gib: memory in which the teachers' features of all images are kept, where they
            fit and nothing changes the images; 0 computes them in every step.
        workers: processes that read images of a data set that is not in memory; 0 reads them in the
            training's own, "auto" takes one a processor, at most four. The result is the same.
        deterministic: on CUDA, let cuDNN take only algorithms that give the same bits every time.

    Raises:
        ValueError: a value out of range; the message names the field.
    """

    epochs: int = 100
    batch_size: int = 32
    optimizer: str = "adam"
    learning_rate: float = 1e-3
    momentum: float = 0.9
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    validation_fraction: float = 0.2
    seed: int = 0
    precision: str = "auto"
    channels_last: bool = True
    device: str = "auto"
    feature_cache_gib: float = 4.0
    workers: int | str = "auto"
    deterministic: bool = True

    def __post_init__(self):
        for field in ("epochs", "batch_size"):
            self._require(field, _is_integer(getattr(self, field), 1), "an integer of at least 1")
        self._require("seed", _is_integer(self.seed, 0), "an integer of at least 0")
        self._require("seed", self.seed < 2**63, "below 2**63")
        self._require(
            "workers",
            self.workers == "auto" or _is_integer(self.workers, 0),
            "'auto' or an integer of at least 0",
        )
        self._require("optimizer", self.optimizer in OPTIMIZERS, _one_of(OPTIMIZERS))
        self._require("precision", self.precision in PRECISIONS, _one_of(PRECISIONS))
        self._require(
            "learning_rate", _is_number(self.learning_rate) and self.learning_rate > 0, "above 0"
        )
        self._require("momentum", _is_fraction(self.momentum), "in [0, 1)")
        self._require(
            "weight_decay", _is_number(self.weight_decay) and self.weight_decay >= 0, "at least 0"
        )
        self._require(
            "feature_cache_gib",
            _is_number(self.feature_cache_gib) and self.feature_cache_gib >= 0,
            "at least 0",
        )
        self._require("validation_fraction", _is_fraction(self.validation_fraction), "in [0, 1)")
        two_fractions = (
            isinstance(self.betas, (list, tuple))
            and len(self.betas) == 2
            and all(map(_is_fraction, self.betas))
        )
        self._require("betas", two_fractions, "two numbers in [0, 1)")
        self.betas = tuple(self.betas)
        for field in ("channels_last", "deterministic"):
            self._require(field, isinstance(getattr(self, field), bool), "True or False")
        self.device = str(self.device)

    def _require(self, field: str, holds: bool, what: str) -> None:
        if not holds:
            raise ValueError(f"{field} must be {what}; got {getattr(self, field)!r}")

    @classmethod
    def for_model(
        cls, model: AnomalyModel | type[AnomalyModel], **overrides: Any
    ) -> "TrainingConfig":
        """The model's own defaults, replaced where ``overrides`` says so.

        Raises:
            TypeError: an override that is no field.
        """
        fields = [field.name for field in dataclasses.fields(cls)]
        for name in overrides:
            if name not in fields:
                raise TypeError(f"unknown training option {name!r}; there are: {', '.join(fields)}")
        return cls(**{**model.training_defaults, **overrides})


def _one_of(names: tuple[str, ...]) -> str:
    return f"one of {', '.join(names)}"


def _is_integer(value: object, minimum: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= minimum


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_fraction(value: object) -> bool:
    return _is_number(value) and 0 <= value < 1
