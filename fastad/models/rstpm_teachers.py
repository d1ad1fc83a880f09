"""The two teachers of RSTPM, and which ones the weights at hand allow."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastad import backbones
from fastad.backbones import IncompleteWeightsError, ResNet, WeightsNotFoundError

# To take instead of a Teacher2 without weights, the one most like the paper's first.
ALTERNATIVES = ("resnet50", "resnet50_caffe", "wide_resnet50_2", "resnet34", "resnet18")


def build_teachers(config: Any, layers: Sequence[str]) -> tuple[ResNet, ResNet]:
    """Teacher1, with "layer4" behind ``layers`` where it is decoded, and Teacher2.

    ``config`` is an `RSTPMConfig`. Where its ``teacher_weights`` is a folder and its
    ``teacher2_weights`` is "auto", both teachers' files are in that folder.

    Raises:
        WeightsNotFoundError, IncompleteWeightsError: the message names options for which the
            weights at hand are enough, where there are such.
        FileNotFoundError, ValueError: as `backbones.build`.
    """
    second = _second_source(config)
    try:
        return (
            backbones.build(
                config.teacher1, _first(config.bottleneck, layers), config.teacher_weights
            ),
            backbones.build(config.teacher2, layers, second),
        )
    except (WeightsNotFoundError, IncompleteWeightsError) as error:
        options = _possible(config, layers, second)
        if not options:
            raise
        shown = " ".join(f"--set {name}={value}" for name, value in options.items())
        raise type(error)(f"{error}. What is there is enough for {shown}") from None


def _first(bottleneck: str, layers: Sequence[str]) -> Sequence[str]:
    return (*layers, "layer4") if bottleneck == "layer4" else layers


def _second_source(config: Any) -> str | os.PathLike | None:
    first, second = config.teacher_weights, config.teacher2_weights
    if second == "auto" and first not in (None, "auto", "random"):
        return first if Path(first).expanduser().is_dir() else second
    return second


def _possible(config: Any, layers: Sequence[str], second: Any) -> dict[str, str]:
    """Options to change, for which all weights are there; none where no change is enough."""

    def there(name: str, layers: Sequence[str], source: Any) -> bool:
        return source in (None, "random") or backbones.has_weights(name, layers, source)

    bottlenecks = [
        bottleneck
        for bottleneck in dict.fromkeys((config.bottleneck, "learned"))
        if there(config.teacher1, _first(bottleneck, layers), config.teacher_weights)
    ]
    teachers = [
        name
        for name in dict.fromkeys((config.teacher2, *ALTERNATIVES))
        if there(name, layers, second)
    ]
    if not bottlenecks or not teachers:
        return {}
    chosen = {"teacher2": teachers[0], "bottleneck": bottlenecks[0]}
    return {name: value for name, value in chosen.items() if value != getattr(config, name)}
