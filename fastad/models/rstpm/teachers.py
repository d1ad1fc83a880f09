"""The two teachers of RSTPM, and which ones the weights at hand allow."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from fastad import backbones
from fastad.backbones import IncompleteWeightsError, WeightsNotFoundError, embedded, weights
from fastad.models.rstpm.config import LAYERS, RSTPMConfig
from fastad.models.teachers import say_taken

PUBLISHED = {"teacher1": "resnet18", "teacher2": "resnet50", "bottleneck": "layer4"}
# To take instead of a Teacher2 without weights, the one most like the paper's first.
ALTERNATIVES = (
    "resnet50",
    "resnet50_caffe",
    "wide_resnet50_2",
    "resnet34",
    "resnet18",
    *backbones.FROM_PIP,
)

Source = str | os.PathLike | None


def resolve_auto(config: RSTPMConfig) -> RSTPMConfig:
    """The config with what its "auto" comes to by the weights that can be had.

    The teachers are chosen by the rule of `fastad.backbones.availability`, and the bottleneck is
    the paper's where Teacher1's weights hold it. A notice says what is not as in the paper. A
    bottleneck stays "auto" where ``teacher1`` is a module. Sources that come to the embedded
    teacher become "embedded": with the settled config the teachers are the same wherever it is used
    again.
    """
    names: dict[str, Any] = {}
    first = config.teacher1
    if first == "auto":
        candidates = (PUBLISHED["teacher1"], *backbones.FROM_PIP)
        first = backbones.auto_backbone(LAYERS, config.teacher_weights, candidates)
        names["teacher1"] = first
    if config.bottleneck == "auto" and isinstance(first, str):
        names["bottleneck"] = _bottleneck(first, config.teacher_weights)
    if config.teacher2 == "auto":
        names["teacher2"] = _teacher2(first, _second_source(config))
    config = dataclasses.replace(config, **names)
    sources = _embedded_sources(config)
    others = [name for name in PUBLISHED if names.get(name, PUBLISHED[name]) != PUBLISHED[name]]
    taken = {name: names[name] for name in others}
    if sources:
        chosen = " ".join(f"{name}={value}" for name, value in taken.items())
        weights.log_embedded(f", and for rstpm {chosen}" if chosen else "")
    elif taken:
        say_taken("rstpm", taken, {name: PUBLISHED[name] for name in taken})
    return dataclasses.replace(config, **sources)


def build_teachers(config: RSTPMConfig) -> tuple[nn.Module, nn.Module]:
    """Teacher1, with "layer4" behind the levels where that is decoded, and Teacher2.

    The config is a settled one. Where ``teacher_weights`` is a folder and ``teacher2_weights`` is
    "auto", both teachers' files are in that folder; likewise where it is "embedded".

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
        options = _available_options(config)
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
    return first if first == "embedded" or Path(first).expanduser().is_dir() else second


def _bottleneck(teacher1: str, source: Source) -> str:
    whole = _can_be_had(teacher1, _layers("layer4"), source)
    return "layer4" if whole or not _can_be_had(teacher1, LAYERS, source) else "learned"


def _teacher2(first: str | nn.Module, source: Source) -> str:
    published = PUBLISHED["teacher2"]
    others = [name for name in ALTERNATIVES if name == published or name != first]
    if first in backbones.FROM_PIP:  # twice, sooner than a download
        others.append(first)
    again = [first] if isinstance(first, str) else []
    return backbones.auto_backbone(LAYERS, source, others, [*again, embedded.BACKBONE])


def _can_be_had(teacher: str, layers: Sequence[str], source: Source) -> bool:
    try:
        backbones.check_weights(teacher, layers, source)
    except (FileNotFoundError, IncompleteWeightsError):
        return False
    return True


def _embedded_sources(config: RSTPMConfig) -> dict[str, Any]:
    """The sources that are "auto" and come to the embedded teacher: "embedded" for each."""

    def is_embedded(teacher: str | nn.Module, layers: Sequence[str], source: Source) -> bool:
        if source != "auto" or not isinstance(teacher, str):
            return False
        known = embedded.covers(teacher, layers)
        return known and weights.resolve("auto", teacher, layers) == embedded.PATH

    found = {}
    if is_embedded(config.teacher2, LAYERS, _second_source(config)):
        found["teacher2_weights"] = "embedded"
    # An embedded Teacher1 would make "auto" mean that for Teacher2, too.
    free = found or config.teacher2_weights != "auto" or isinstance(config.teacher2, nn.Module)
    if free and is_embedded(config.teacher1, _layers(config.bottleneck), config.teacher_weights):
        found["teacher_weights"] = "embedded"
    return found


def _available_options(config: RSTPMConfig) -> dict[str, str | nn.Module]:
    """Options to change, after which all weights are there; none where no change is enough."""

    def is_available(teacher: str | nn.Module, layers: Sequence[str], source: Source) -> bool:
        if isinstance(teacher, nn.Module) or source in (None, "random"):
            return True
        return backbones.has_weights(teacher, layers, source)

    source = _second_source(config)
    bottlenecks = [
        bottleneck
        for bottleneck in dict.fromkeys((config.bottleneck, "learned"))
        if is_available(config.teacher1, _layers(bottleneck), config.teacher_weights)
    ]
    teachers = [
        teacher
        for teacher in dict.fromkeys((config.teacher2, *ALTERNATIVES))
        if is_available(teacher, LAYERS, source)
    ]
    if not bottlenecks or not teachers:
        return {}
    chosen = {"teacher2": teachers[0], "bottleneck": bottlenecks[0]}
    return {name: value for name, value in chosen.items() if value != getattr(config, name)}
