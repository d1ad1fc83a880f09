"""A mistyped option: what was meant, also where it is a value of another option."""

import dataclasses
from collections.abc import Iterable

from fastad._suggest import nearest

# What people call an option that has another name here.
OTHER_NAMES = {
    "--threshold": "--false-positive-rate",
    "--size": "--image-size",
    "--weights": "--teacher-weights",
    "--out": "--output",
    "--lr": "--learning-rate",
}


def hint(option: str, known: Iterable[str], settings: Iterable[str] = ()) -> str:
    """Like " (did you mean --output?)"; empty where no option is like it.

    Args:
        option: what was typed, like --ouput or --learning_rate=0.1.
        known: the command's options.
        settings: keys of its ``--set``.
    """
    meant = {f"--{key.replace('_', '-')}": f"--set {key}=VALUE" for key in settings}
    meant |= {name: name for name in known}  # where both are, the option is shorter
    for name, other in OTHER_NAMES.items():
        if other in meant:
            meant.setdefault(name, meant[other])
    found = nearest(option.partition("=")[0].replace("_", "-"), meant)
    return "" if found is None else f" (did you mean {meant[found]}?)"


def settings_of_training() -> list[str]:
    """Keys that ``fastad train --set`` takes, of any model."""
    from fastad.models import MODELS
    from fastad.training import TrainingConfig

    configs = (TrainingConfig, *(kind.Config for kind in MODELS.values()))
    return [field.name for config in configs for field in dataclasses.fields(config) if field.init]
