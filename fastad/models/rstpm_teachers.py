"""The two teachers of RSTPM, and which ones the weights at hand allow."""

import os
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from fastad import backbones
from fastad.backbones import IncompleteWeightsError, WeightsNotFoundError
from fastad.models.rstpm_config import LAYERS, RSTPMConfig

# To take instead of a Teacher2 without weights, the one most like the paper's first.
ALTERNATIVES = ("resnet50", "resnet50_caffe", "wide_resnet50_2", "resnet34", "resnet18")

Source = str | os.PathLike | None


def build_teachers(config: RSTPMConfig) -> tuple[nn.Module, nn.Module]:
    """Teacher1, with "layer4" behind the levels where that is decoded, and Teacher2.

    Where ``teacher_weights`` is a folder and ``teacher2_weights`` is "auto", both teachers' files
    are in that folder.

    Raises:
        WeightsNotFoundError, IncompleteWeightsError: the message names options for which the
            weights at hand are enough, where there are such.
        FileNotFoundError, ValueError: as `backbones.build`.
    """
    first, second = config.teacher1, config.teacher2
    try:
        if isinstance(first, str):
            first = backbones.build(first, _layers(config.bottleneck), config.teacher_weights)
        if isinstance(second, str):
            second = _build_second(second, _second_source(config))
    except (WeightsNotFoundError, IncompleteWeightsError) as error:
        options = _enough(config)
        if not options:
            raise
        shown = " ".join(f"--set {name}={value}" for name, value in options.items())
        raise type(error)(f"{error}. What is there is enough for {shown}") from None
    return first, second


def _build_second(name: str, source: Source) -> nn.Module:
    try:
        return backbones.build(name, LAYERS, source)
    except WeightsNotFoundError as error:
        raise WeightsNotFoundError(f"teacher2: {error} (a file alone: teacher2_weights)") from None
    except FileNotFoundError as error:
        raise FileNotFoundError(f"teacher2: {error}") from None


def _layers(bottleneck: str) -> Sequence[str]:
    return (*LAYERS, "layer4") if bottleneck == "layer4" else LAYERS


def _second_source(config: RSTPMConfig) -> Source:
    first, second = config.teacher_weights, config.teacher2_weights
    if second != "auto" or first in (None, "auto", "random"):
        return second
    return first if Path(first).expanduser().is_dir() else second


def _enough(config: RSTPMConfig) -> dict[str, str]:
    """Options to change, after which all weights are there; none where no change is enough."""

    def there(teacher: str | nn.Module, layers: Sequence[str], source: Source) -> bool:
        if isinstance(teacher, nn.Module) or source in (None, "random"):
            return True
        return backbones.has_weights(teacher, layers, source)

    source = _second_source(config)
    bottlenecks = [
        bottleneck
        for bottleneck in dict.fromkeys((config.bottleneck, "learned"))
        if there(config.teacher1, _layers(bottleneck), config.teacher_weights)
    ]
    teachers = [
        teacher
        for teacher in dict.fromkeys((config.teacher2, *ALTERNATIVES))
        if there(teacher, LAYERS, source)
    ]
    if not bottlenecks or not teachers:
        return {}
    chosen = {"teacher2": teachers[0], "bottleneck": bottlenecks[0]}
    return {name: value for name, value in chosen.items() if value != getattr(config, name)}
