"""``--set KEY=VALUE``: text to fields of a model's config and of the training config."""

import collections.abc
import dataclasses
import re
import types
import typing
from collections.abc import Sequence
from typing import Any

from fastad._suggest import did_you_mean
from fastad.commands import UsageError
from fastad.models import who_has
from fastad.training.config import STAGE_OPTIONS, STEP_OPTIONS

BOOLEANS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def parse_settings(
    settings: Sequence[str], model_config: type, training_config: type
) -> tuple[dict[str, Any], dict[str, Any]]:
    """``["KEY=VALUE", ...]`` -> options of the model, options of the training.

    Values are parsed by the field's type; a sequence is written with commas, nothing as "none".
    Raises ValueError for a malformed setting, an unknown key (listing the known ones), or a value
    of another type.
    """
    known = [_field_types(model_config), _field_types(training_config)]
    options: tuple[dict[str, Any], dict[str, Any]] = ({}, {})
    for setting in settings:
        key, equals, text = setting.partition("=")
        key = key.strip()
        if not equals or not key:
            raise ValueError(f"--set takes KEY=VALUE; got {setting!r}")
        if not any(key in fields for fields in known):
            lists = [", ".join(sorted(fields)) for fields in known]
            raise ValueError(
                f"unknown key {key!r}{did_you_mean(key, [*known[0], *known[1]])}{who_has(key)}; "
                f"the model has: {lists[0]}; the training has: {lists[1]}"
            )
        for fields, chosen in zip(known, options, strict=True):
            if key in fields:
                try:
                    chosen[key] = parse_value(text.strip(), fields[key])
                except ValueError:
                    raise ValueError(
                        f"{key} takes {describe(fields[key])}; got {text.strip()!r}"
                    ) from None
    return options


def in_pixels(settings: Sequence[str], mm_per_pixel: float | None) -> list[str]:
    """Settings with the pooling in pixels, where it is in square millimetres.

    Raises UsageError where ``mm_per_pixel`` of the original images is not known.
    """
    found = []
    for setting in settings:
        area = re.fullmatch(r"\s*pooling\s*=\s*([0-9.]+)\s*(?:mm2|mm²)\s*", setting)
        if area is not None and mm_per_pixel is None:
            raise UsageError(f"--set {setting} needs --mm-per-pixel, the scale of the images")
        if area is not None and mm_per_pixel is not None:
            setting = f"pooling={float(area[1]) / mm_per_pixel**2:.6f}px"
        found.append(setting)
    return found


def parse_stages(texts: Sequence[str], training_config: type) -> dict[str, dict[str, Any]]:
    """``["NAME.OPTION=VALUE", ...]`` -> training options by name of the stage, or STAGE.STEP.

    Raises ValueError for a malformed text, or an unknown or mistyped option; what a stage may have
    is for the training config to say.
    """
    types = _field_types(training_config)
    stages: dict[str, dict[str, Any]] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        stage, dot, option = (part.strip() for part in key.rpartition("."))
        if not (equals and dot and stage and option):
            raise ValueError(f"--stage takes NAME.OPTION=VALUE; got {text!r}")
        if option not in types:
            known = STEP_OPTIONS if "." in stage else STAGE_OPTIONS
            raise ValueError(
                f"--stage: unknown option {option!r} of {stage!r}{did_you_mean(option, known)}; "
                f"there are: {', '.join(known)}"
            )
        try:
            stages.setdefault(stage, {})[option] = parse_value(value.strip(), types[option])
        except ValueError:
            raise ValueError(
                f"--stage: {option} takes {describe(types[option])}; got {value.strip()!r}"
            ) from None
    return stages


def parse_value(text: str, kind: Any) -> Any:
    """Text -> a value of a type annotation; ValueError where it is none, or cannot be text."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        # "none" means None where that is allowed, and str would take anything: it comes last.
        for option in sorted(arguments, key=lambda a: (a is not types.NoneType, a is str)):
            try:
                return parse_value(text, option)
            except ValueError:
                continue
    elif kind is types.NoneType and text.lower() == "none":
        return None
    elif kind is bool and text.lower() in BOOLEANS:
        return BOOLEANS[text.lower()]
    elif kind in (int, float, str):
        return kind(text)
    elif origin in (tuple, list, collections.abc.Sequence):
        return tuple(parse_value(part.strip(), arguments[0]) for part in text.split(","))
    raise ValueError(f"{text!r} is not {describe(kind)}")


def describe(kind: Any) -> str:
    """A type annotation in words for an error message."""
    names = {bool: "true or false", int: "an integer", float: "a number", str: "text"}
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(d for d in map(describe, arguments) if d)
    if kind is types.NoneType:
        return "none"
    if origin in (tuple, list, collections.abc.Sequence):
        return f"{describe(arguments[0])}, several with commas"
    return names.get(kind, "")


def _field_types(config: type) -> dict[str, Any]:
    hints = typing.get_type_hints(config)
    names = [field.name for field in dataclasses.fields(config) if field.init]
    # A dict is no text: the options of stages have an option of their own.
    return {name: hints[name] for name in names if typing.get_origin(hints[name]) is not dict}
