"""The network that a model's option ``backbone`` is where it is "auto"."""

import dataclasses
import logging
from collections.abc import Sequence
from typing import Any

from fastad import backbones
from fastad.backbones import weights

PUBLISHED = ("resnet18",)


def settled_backbone(
    model: str, config: Any, layers: Sequence[str], published: Sequence[str] = PUBLISHED
) -> Any:
    """The config with the name that ``backbone`` "auto" comes to.

    See `fastad.backbones.availability`. Where it is not the first ``published`` one, a notice says
    so once a process. Raises as `fastad.backbones.auto_backbone`.
    """
    if config.backbone != "auto":
        return config
    candidates = (*published, *backbones.FROM_PIP)
    name = backbones.auto_backbone(layers, config.teacher_weights, candidates)
    if name != published[0]:
        say_taken(model, {"backbone": name}, {"backbone": published[0]})
    return dataclasses.replace(config, backbone=name)


def say_taken(model: str, names: dict[str, str], published: dict[str, str]) -> None:
    """Say which networks are taken for the published ones, and why.

    No warning where pip brought them: that is as good as the published ones.
    """
    taken, missing = (
        " ".join(f"{option}={value}" for option, value in of.items()) for of in (names, published)
    )
    from_pip = all(name in backbones.FROM_PIP for name in names.values())
    weights.notice(
        f"{model} takes {taken}: there are no weights for {missing} at hand; {weights.GIVE_OTHERS}",
        logging.INFO if from_pip else logging.WARNING,
    )
