"""The anomaly detection models, by name.

Open `base` for what all models share, and `stpm` for the smallest one.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any

from fastad._suggest import did_you_mean
from fastad._values import plain
from fastad.models.auto import AUTO, CANDIDATES, AutoConfig
from fastad.models.base import AnomalyModel, FrozenTeacher, Prediction, Stage, Step
from fastad.models.gtrans import GTrans, GTransConfig
from fastad.models.patchcore import PatchCore, PatchCoreConfig
from fastad.models.prn import PRN, PRNConfig
from fastad.models.rstpm import RSTPM, RSTPMConfig
from fastad.models.stpm import STPM, STPMConfig
from fastad.models.subspace import Subspace, SubspaceConfig
from fastad.models.utad import UTAD, UTADConfig

MODELS: dict[str, type[AnomalyModel]] = {
    model.name: model for model in (RSTPM, STPM, GTrans, PRN, UTAD, PatchCore, Subspace)
}

__all__ = [
    "AUTO",
    "MODELS",
    "PRN",
    "RSTPM",
    "STPM",
    "UTAD",
    "AnomalyModel",
    "AutoConfig",
    "FrozenTeacher",
    "GTrans",
    "GTransConfig",
    "PRNConfig",
    "PatchCore",
    "PatchCoreConfig",
    "Prediction",
    "RSTPMConfig",
    "STPMConfig",
    "Stage",
    "Step",
    "Subspace",
    "SubspaceConfig",
    "UTADConfig",
    "build",
    "candidates",
    "config_class",
    "model_class",
    "who_has",
    "without_weights",
]


def model_class(name: str) -> type[AnomalyModel]:
    """The class of a model by its name in `MODELS`. Raises ValueError for an unknown one."""
    return _known(name, MODELS)


def candidates(name: str) -> tuple[str, ...]:
    """The models that are trained for a name in `MODELS` or "auto"; ValueError for another."""
    if plain(name) == AUTO:
        return CANDIDATES
    return (_known(name, (AUTO, *MODELS)).name,)


def config_class(name: str) -> type:
    """The dataclass of the options of a model, or of "auto". Raises ValueError for another name."""
    if plain(name) == AUTO:
        return AutoConfig
    return _known(name, (AUTO, *MODELS)).Config


def build(name: str, **options: Any) -> AnomalyModel:
    """Make a model with the options of its config dataclass.

    Students get a random initialisation from torch's generator: seed it for the same one again.

    Args:
        name: one of `MODELS`.
        **options: fields of the model's config, such as `STPMConfig`.

    Returns:
        The model in training mode, on the CPU. It takes images (N, 3, H, W) in [0, 1].

    Raises:
        ValueError: unknown name, or a value that the config refuses.
        TypeError: unknown option.
        WeightsNotFoundError: there are no weights for a teacher.

    Examples:
        >>> import torch
        >>> from fastad import models
        >>> model = models.build("stpm", backbone="resnet18", teacher_weights="embedded").eval()
        >>> prediction = model(torch.rand(2, 3, 64, 64))
        >>> prediction.score.shape, prediction.anomaly_map.shape
        (torch.Size([2]), torch.Size([2, 64, 64]))
    """
    model = model_class(name)
    fields = [field.name for field in dataclasses.fields(model.Config)]
    unknown = [option for option in options if option not in fields]
    if unknown:
        raise TypeError(
            f"unknown option {unknown[0]!r} of {name}{did_you_mean(unknown[0], fields)}"
            f"{who_has(unknown[0])}; there are: {', '.join(fields)}"
        )
    return model(model.Config(**options))


def who_has(option: str) -> str:
    """The models that have an option, for a message on one that has not; empty where none has.

    Examples:
        >>> from fastad import models
        >>> models.who_has("overview")
        ', which stpm, patchcore and subspace have'
    """
    names = [
        name
        for name, model in MODELS.items()
        if option in (field.name for field in dataclasses.fields(model.Config))
    ]
    if not names:
        return ""
    *others, last = names
    return f", which {', '.join(others)} and {last} have" if others else f", which {last} has"


def without_weights(name: str) -> dict[str, None]:
    """Options with which `build` makes a model of random teachers without looking for weights.

    They serve for a model whose state is loaded afterwards, and for measurements of speed. The
    options are the fields of the config named ``teacher*_weights``.

    Examples:
        >>> from fastad import models
        >>> models.without_weights("rstpm")
        {'teacher_weights': None, 'teacher2_weights': None}
    """
    names = [field.name for field in dataclasses.fields(model_class(name).Config)]
    return {n: None for n in names if n.startswith("teacher") and n.endswith("_weights")}


def _known(name: str, names: Iterable[str]) -> type[AnomalyModel]:
    name = plain(name)
    if not isinstance(name, str) or name not in MODELS:
        raise ValueError(
            f"unknown model {name!r}{did_you_mean(name, names)}; there are: {', '.join(names)}"
        )
    return MODELS[name]
