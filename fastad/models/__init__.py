"""The anomaly detection models, by name."""

import dataclasses
from typing import Any

from fastad.models.base import AnomalyModel, FrozenTeacher, Prediction, Stage, Step
from fastad.models.gtrans import GTrans, GTransConfig
from fastad.models.prn import PRN, PRNConfig
from fastad.models.rstpm import RSTPM, RSTPMConfig
from fastad.models.stpm import STPM, STPMConfig
from fastad.models.utad import UTAD, UTADConfig

MODELS: dict[str, type[AnomalyModel]] = {
    model.name: model for model in (RSTPM, STPM, GTrans, PRN, UTAD)
}

__all__ = [
    "MODELS",
    "PRN",
    "RSTPM",
    "STPM",
    "UTAD",
    "AnomalyModel",
    "FrozenTeacher",
    "GTrans",
    "GTransConfig",
    "PRNConfig",
    "Prediction",
    "RSTPMConfig",
    "STPMConfig",
    "Stage",
    "Step",
    "UTADConfig",
    "build",
    "model_class",
    "without_weights",
]


def model_class(name: str) -> type[AnomalyModel]:
    """The class behind a name in `MODELS`; ValueError for an unknown one."""
    if name not in MODELS:
        raise ValueError(f"unknown model {name!r}; there are: {', '.join(MODELS)}")
    return MODELS[name]


def build(name: str, **options: Any) -> AnomalyModel:
    """Make a model; ``options`` are the fields of its config dataclass.

    Students get a random initialisation from torch's generator: seed it for the same one again.

    Raises:
        ValueError: unknown name, or a value that the config refuses.
        TypeError: unknown option.
        WeightsNotFoundError: no weights for the teacher.

    >>> model = build("stpm", backbone="resnet18", teacher_weights=None)
    """
    model = model_class(name)
    fields = [field.name for field in dataclasses.fields(model.Config)]
    unknown = [option for option in options if option not in fields]
    if unknown:
        raise TypeError(f"unknown option {unknown[0]!r} of {name}; there are: {', '.join(fields)}")
    return model(model.Config(**options))


def without_weights(name: str) -> dict[str, None]:
    """Options with which `build` makes a model of random teachers, wherever it is.

    For states that are loaded, and measurements of speed. A config's sources of pretrained weights
    are its fields named ``teacher*_weights``.

    >>> without_weights("rstpm")
    {'teacher_weights': None, 'teacher2_weights': None}
    """
    names = [field.name for field in dataclasses.fields(model_class(name).Config)]
    return {n: None for n in names if n.startswith("teacher") and n.endswith("_weights")}
